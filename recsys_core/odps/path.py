"""The path grammar of tables, `odps://{project}/tables/[{schema}.]{table}[/k=v[/k=v]…][&k=v/k=v…]`, `,` between tables.

A table of a schema-enabled project can also be written `odps://{project}/schemas/{schema}/tables/{table}`.
"""

import re
import urllib.parse
from collections.abc import Sequence
from typing import NamedTuple

SCHEME = "odps://"
_FORM = "odps://PROJECT/tables/TABLE, with /key=value/key=value after it for a partition and & between partitions"
_NAME = re.compile(r"[A-Za-z0-9_]+")

Partition = tuple[tuple[str, str], ...]


class TablePath(NamedTuple):
    """One table and the partitions of it that are meant; no partitions are all of them.

    `schema` is None where the path names none.
    """

    project: str
    schema: str | None
    table: str
    partitions: tuple[Partition, ...] = ()

    @property
    def name(self) -> str:
        """The table as a person writes it, without partitions; two different tables have different names."""
        schema = f"{self.schema}." if self.schema else ""
        return f"{SCHEME}{self.project}/tables/{schema}{self.table}"

    def __str__(self) -> str:
        """The path that `parse` reads back."""
        wanted = "&".join(spec(partition) for partition in self.partitions)
        return f"{self.name}/{wanted}" if wanted else self.name


def spec(partition: Partition, separator: str = "/") -> str:
    """Return `k=v/k=v`, as paths and the storage interface write a partition."""
    return separator.join(f"{key}={value}" for key, value in partition)


def parse(source: str) -> list[TablePath]:
    """Return the tables that `source` names, in the order written.

    Raises:
        ValueError: names the piece that does not fit, and the form that does; or a table that stands there twice.
    """
    # A value may hold a comma: only one that a new table follows separates.
    pieces = re.split(r",(?=\s*(?:odps://|,|$))", source)
    found = [_table(piece.strip()) for piece in pieces]
    for number, path in enumerate(found):
        if any(path[:3] == other[:3] for other in found[:number]):
            raise ValueError(f"{source}: {path.name} stands there twice; put & between partitions of one table")
    return found


def require_keys(path: TablePath, keys: Sequence[str]) -> None:
    """Check the partitions of `path` against the partition keys of the table.

    Raises:
        ValueError: a key that the table does not have, in another order, or not from the outermost on.
    """
    for partition in path.partitions:
        given = [key for key, _ in partition]
        if given == list(keys[: len(given)]):
            continue
        if not keys:
            raise ValueError(f"{path.name}: is not partitioned; leave out {spec(partition)!r}")
        raise ValueError(
            f"{path.name}: partition {spec(partition)!r} names the keys {given} where the table is partitioned by "
            f"{list(keys)}, from the outermost on; name them in this order"
        )


def _table(piece: str) -> TablePath:
    if not piece:
        raise ValueError("an empty piece between commas; remove the comma or name a table")
    if not piece.startswith(SCHEME):
        raise ValueError(f"{piece!r}: does not open with {SCHEME}; write {_FORM}")
    project, _, rest = piece.removeprefix(SCHEME).partition("/")
    schema = None
    if rest.startswith("schemas/"):
        schema, _, rest = rest.removeprefix("schemas/").partition("/")
    if not rest.startswith("tables/"):
        raise ValueError(f"{piece!r}: {rest.partition('/')[0]!r} stands where 'tables' should; write {_FORM}")
    table, _, partitions = rest.removeprefix("tables/").partition("/")
    if "." in table:
        if schema is not None:
            raise ValueError(f"{piece!r}: names a schema twice, {schema!r} and in {table!r}; leave one out")
        schema, _, table = table.partition(".")
    for what, name in (("project", project), ("schema", schema), ("table", table)):
        if name is not None and not _NAME.fullmatch(name):
            raise ValueError(
                f"{piece!r}: the {what} is {name!r}, where letters, digits and _ are allowed; write {_FORM}"
            )
    specs = [_partition(piece, text) for text in partitions.rstrip("/").split("&")] if partitions else []
    if len(set(specs)) < len(specs):
        raise ValueError(f"{piece!r}: a partition stands there twice; name each once")
    return TablePath(project, schema, table, tuple(specs))


def _partition(piece: str, text: str) -> Partition:
    pairs: list[tuple[str, str]] = []
    for level in text.split("/"):
        key, equals, value = level.partition("=")
        value = urllib.parse.unquote(value).strip().strip("'\"")
        if not equals or not _NAME.fullmatch(key.strip()) or not value:
            raise ValueError(f"{piece!r}: {level!r} is not key=value; write {_FORM}")
        if re.search(r"['\"/\\\x00-\x1f]", value):
            raise ValueError(f"{piece!r}: the partition value {value!r} has a quote, slash or control character")
        pairs.append((key.strip(), value))
    return tuple(pairs)
