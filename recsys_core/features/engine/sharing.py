"""Which features share a table, and what is asked of those that do."""

from collections.abc import Mapping, Sequence

from recsys_core.features.base import Encoder, Feature, Side
from recsys_core.features.engine.names import unknown
from recsys_core.features.engine.tables import TableConfig, TableSpec

BySide = Mapping[Side, Sequence[Feature]]


def refuse_duplicates(features: BySide) -> None:
    """Check that names are unique over both sides."""
    sides: dict[str, str] = {}
    for side, own in features.items():
        for feature in own:
            name = feature.config.name
            if name in sides:
                raise ValueError(
                    f"feature {name!r} is there twice ({sides[name]} and {side}), and names are unique over both "
                    "sides; rename one, and give it `column`"
                )
            sides[name] = side


def share_encoders(features: Sequence[Feature]) -> dict[str, Encoder]:
    """Give every sparse feature its table's encoder, by table; the first feature that brings one owns the table."""
    encoders: dict[str, Encoder] = {}
    for feature in features:
        if feature.table is not None and feature.encoder is not None:
            owner = encoders.setdefault(feature.table, feature.encoder)
            if owner.spec != feature.encoder.spec:
                raise ValueError(
                    f"feature {feature.config.name!r}: table {feature.table!r} is {owner.spec} for another feature "
                    f"and {feature.encoder.spec} for this one; make them agree or name another table"
                )
    for feature in features:
        if feature.table is not None:
            if feature.table not in encoders:
                raise ValueError(
                    f"feature {feature.config.name!r}: {unknown('table', feature.table, list(encoders))}; "
                    "a table belongs to an id feature of either side"
                )
            feature.encoder = encoders[feature.table]
    return encoders


def table_specs(
    features: BySide, encoders: Mapping[str, Encoder], tables: Sequence[TableConfig], embedding_dim: int
) -> tuple[TableSpec, ...]:
    """Return the embedding tables of the encoders, with their users and settings; `embedding_dim` where none says."""
    users: dict[str, list[tuple[Feature, Side]]] = {name: [] for name in encoders}
    for side, own in features.items():
        for feature in own:
            if feature.table is not None:
                users[feature.table].append((feature, side))
    settings = {table.name: table for table in tables}
    for name in settings:
        if name not in users:
            raise ValueError(f"tables: {unknown('table', name, users)}")
    if len(settings) < len(tables):
        raise ValueError(f"tables: one is there twice among {', '.join(t.name for t in tables)}")
    specs: list[TableSpec] = []
    for name, encoder in encoders.items():
        dims = {f.config.name: f.embedding_dim for f, _ in users[name] if f.embedding_dim is not None}
        if len(set(dims.values())) > 1:
            raise ValueError(f"table {name!r}: features that share it have one embedding_dim, not {dims}")
        specs.append(
            TableSpec(
                name=name,
                num_embeddings=encoder.num_embeddings,
                embedding_dim=next(iter(dims.values()), embedding_dim),
                features=tuple((feature.config.name, side) for feature, side in users[name]),
                **(settings[name].model_dump(exclude={"name"}) if name in settings else {}),
                max_rows=encoder.max_rows,
            )
        )
    return tuple(specs)
