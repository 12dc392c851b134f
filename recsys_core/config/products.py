"""Sections that products share, without the keys that one of them does not read."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, GetCoreSchemaHandler, GetJsonSchemaHandler, ValidationError
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import InitErrorDetails, PydanticCustomError, core_schema

Remedies = Mapping[tuple[str, ...], str]
"""What to do instead of giving a key, by the path of the key."""


def refuse(sections: Any, remedies: Remedies) -> None:
    """Check that what is to become a config has none of the keys.

    Raises:
        ValidationError: for each that it has, at its place.
    """
    mistakes: list[InitErrorDetails] = []
    for keys, remedy in remedies.items():
        place = sections
        for key in keys[:-1]:
            place = place.get(key) if isinstance(place, dict) else None
        if isinstance(place, dict) and keys[-1] in place:
            kind = PydanticCustomError("value_error", "{message}", {"message": remedy})
            mistakes.append(InitErrorDetails(type=kind, loc=keys, input=place[keys[-1]]))
    if mistakes:
        raise ValidationError.from_exception_data("section", mistakes)


def without(dumped: dict[str, Any], remedies: Remedies) -> dict[str, Any]:
    """Return a config as it was dumped without the keys."""
    left = {key: value for key, value in dumped.items() if (key,) not in remedies}
    inner = {key: {rest[1:]: "" for rest in remedies if len(rest) > 1 and rest[0] == key} for key in left}
    return {
        key: without(value, inner[key]) if inner[key] and value is not None else value for key, value in left.items()
    }


@dataclass(frozen=True)
class Without:
    """Annotation of a section's field: keys that this product does not read, each with what to do instead.

    They are refused, and are neither in what is dumped nor in the JSON schema.
    """

    remedies: Mapping[str, str]

    def refuse(self, section: Any) -> Any:
        """Pass a section on that has none of the keys.

        Raises:
            ValidationError: for each that it has, at its place.
        """
        refuse(section, {(key,): remedy for key, remedy in self.remedies.items()})
        return section

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        """Refuse the keys before the section is parsed, and leave them out when it is dumped."""
        return core_schema.no_info_before_validator_function(
            self.refuse,
            handler(source),
            serialization=core_schema.wrap_serializer_function_ser_schema(
                lambda section, dump: {key: value for key, value in dump(section).items() if key not in self.remedies},
                schema=handler(source),
            ),
        )

    def __get_pydantic_json_schema__(
        self, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        """Return the section's schema without the keys."""
        whole = handler.resolve_ref_schema(handler(schema))
        return whole | {"properties": {k: v for k, v in whole["properties"].items() if k not in self.remedies}}


def _at_home(path: Path) -> Path:
    try:
        return path.expanduser()
    except RuntimeError:
        raise ValueError(f"{path}: no home folder is known for its `~`; write the path out") from None


RunRoot = Annotated[Path, AfterValidator(_at_home)]

_COLD = (
    "a ranking model on splits is trained from random weights each time; remove it, or start from train.fine_tune_from"
)
_DAILY = "only a ranking model that is retrained daily (data.kind: labelled_days) has this section; remove it"
_HELD_OUT = "a ranking model that is retrained daily is measured after its training, on what holdout says; remove it"
_SCORED = "a ranking model that is retrained daily scores the rows that it is measured on; remove it"
_GATED = "only the gate of a ranking model that is retrained daily (data.kind: labelled_days) reads it; remove it"
_EVALUATING = ("evaluate_every_steps", "evaluate_every_epochs", "keep_best", "early_stopping_patience", "best_metric")
_WARM = ("warm_start", "on_change", "num_warm_epochs", "restore_optimizer")
_UNMEASURED = (
    "a retrieval model is measured after its training, on the next day's rows, and not while it trains; remove it, and "
    "set num_epochs or num_steps to say how long to train"
)
RETRIEVAL = Without(dict.fromkeys(_EVALUATING, _UNMEASURED))
_NO_HOLDOUT = "ready-made examples (data.kind: examples) have evaluation rows of their own to be measured on; remove it"
_NO_LOG = "ready-made examples (data.kind: examples) are as they are, and nothing reads it; remove it"
_NO_BASELINE = (
    "ready-made examples (data.kind: examples) have no log, and so no baseline that learns from one; remove it"
)
EXAMPLES: Remedies = {
    ("holdout",): _NO_HOLDOUT,
    **{("preprocess", key): _NO_LOG for key in ("history", "catalogue", "popularity_days", "examples")},
    ("sampler", "weights"): "the negatives of ready-made examples (data.kind: examples) are data.source.negatives",
    **{
        ("hitrate", key): _NO_BASELINE
        for key in (
            "item_item_history",
            "item_item_interactions",
            "popularity_days",
            "markov_span",
            "markov_decay",
            "ease",
        )
    },
    ("publish", "absorb"): "nothing is learned from evaluation rows, which data.kind: examples has; remove it",
}
RANKING_SPLITS: Remedies = {
    **{("train", key): _COLD for key in _WARM},
    **{(section,): _DAILY for section in ("holdout", "contract", "prepare", "gate", "publish")},
    ("ranking", "item"): _GATED,
}
RANKING_DAYS: Remedies = {
    **{("train", key): _HELD_OUT for key in _EVALUATING},
    ("evaluate", "split"): _HELD_OUT,
    ("evaluate", "batch_size"): "the rows that a day is measured on are scored with predict.batch_size; set that",
    ("use_step",): _HELD_OUT,
    **{("predict", key): _SCORED for key in ("source", "output", "reserved_columns", "csv")},
}
