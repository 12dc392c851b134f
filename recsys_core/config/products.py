"""Sections that products share, without the keys that one of them does not read."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, GetCoreSchemaHandler, GetJsonSchemaHandler, ValidationError
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import InitErrorDetails, PydanticCustomError, core_schema


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
        found = [key for key in self.remedies if isinstance(section, dict) and key in section]
        if not found:
            return section
        mistakes = [
            InitErrorDetails(
                type=PydanticCustomError("value_error", "{message}", {"message": self.remedies[key]}),
                loc=(key,),
                input=section[key],
            )
            for key in found
        ]
        raise ValidationError.from_exception_data("section", mistakes)

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

_COLD = "a ranking model is trained from random weights each time; remove it, or start from train.fine_tune_from"
_UNMEASURED = (
    "a retrieval model is measured after its training, on the next day's rows, and not while it trains; remove it, and "
    "train for so many num_epochs or num_steps"
)
RANKING = Without(dict.fromkeys(("warm_start", "on_change", "num_warm_epochs", "restore_optimizer"), _COLD))
RETRIEVAL = Without(
    dict.fromkeys(
        ("evaluate_every_steps", "evaluate_every_epochs", "keep_best", "early_stopping_patience", "best_metric"),
        _UNMEASURED,
    )
)
