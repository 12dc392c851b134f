"""Features that make a value of their columns: what becomes of it is said by their `output`.

The output is a feature of kind `raw` (numbers), `id` or `sequence` (rows of a table) that reads the value as its
column. Without one the value is there for other features only, which name the feature as their `column`.
"""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Annotated, Any, ClassVar

import numpy as np
import pyarrow as pa
from pydantic import Field, GetJsonSchemaHandler, model_validator
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import core_schema

from recsys_core.features import base, raw, sequence
from recsys_core.features import id as ids
from recsys_core.lookup import OneOf, inlined


class _OneOfOutputs(OneOf):
    """The kinds that an output may have: those that end in numbers or in rows of a table."""

    def parse(self, section: Any) -> Any:
        """Turn a mapping into the kind's Config."""
        if isinstance(section, dict) and section.get("kind") not in [*_MAKERS]:
            raise ValueError(f"kind {section.get('kind')!r}: an output is of kind {', '.join(_MAKERS)}")
        return super().parse(section)

    def __get_pydantic_json_schema__(
        self, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        """Return `oneOf` over the outputs' kinds."""
        return {"oneOf": [inlined(maker.model_json_schema()) for maker in (ids.Config, raw.Config, sequence.Config)]}


_Output = Annotated[base.FeatureConfig, _OneOfOutputs("recsys_core.features")]


class Config(base.FeatureConfig):
    """Keys of every feature that makes a value."""

    output: _Output | None = Field(default=None, description="raw, id or sequence, with that kind's keys but no name")

    @model_validator(mode="before")
    @classmethod
    def _name_output(cls, keys: Any) -> Any:
        if isinstance(keys, dict) and isinstance(keys.get("output"), dict):
            output = keys["output"]
            if output.get("column") is not None or output.get("name", keys.get("name")) != keys.get("name"):
                raise ValueError("output: it has the feature's own name and reads its value; drop name and column")
            keys = keys | {"output": output | {"name": keys.get("name")}}
        return keys


class Feature(base.Feature):
    """Works out a value; its output does the rest."""

    makes_value: ClassVar[bool] = True

    def __init__(self, config: Config, columns: Sequence[str] | None = None) -> None:
        """`columns` are what the value is made of, the config's `column` or name if not given."""
        super().__init__(config)
        if columns is not None:
            self.columns = tuple(columns)
        self._output = None if config.output is None else _made(config.output)
        output = self._output
        if output is None:
            return
        self.dense_dim, self.sequence_dim = output.dense_dim, output.sequence_dim
        self.table, self.encoder = output.table, output.encoder
        self.pooling, self.tile_length, self.weighted = output.pooling, output.tile_length, output.weighted
        self.embedding_dim = output.embedding_dim
        if getattr(config.output, "input", "raw") == "encoded":
            # An upstream job has worked it out already.
            self.columns = (config.name,)

    @abstractmethod
    def make(self, columns: Sequence[pa.Array]) -> pa.Array:
        """Return the value of each row."""

    def value(self, columns: Sequence[pa.Array]) -> pa.Array:
        """Return the value of each row; of an encoded column that column."""
        if self._output is not None and self.columns == (self.config.name,) and self._is_encoded():
            return columns[0]
        return self.make(columns)

    def observe(self, column: pa.Array) -> None:
        """Let the output learn from the values."""
        if self._output is not None:
            self._share().observe(column)

    def settle(self) -> None:
        """End a round of `observe`."""
        if self._output is not None:
            self._output.settle()

    def to_encode(self, column: pa.Array) -> tuple[pa.Array, np.ndarray] | None:
        """Return what the output has to encode."""
        return self._share().to_encode(column)

    def transform(self, column: pa.Array) -> np.ndarray | base.Jagged:
        """Return what the output makes of the values."""
        return self._share().transform(column)

    @property
    def fitted(self) -> bool | None:
        """The output's."""
        return None if self._output is None else self._share().fitted

    def state(self) -> dict[str, Any]:
        """The output's."""
        return {} if self._output is None else self._output.state()

    def restore(self, state: dict[str, Any]) -> None:
        """Give the output its state back."""
        if self._output is not None:
            self._output.restore(state)

    def report(self) -> dict[str, int]:
        """The output's."""
        return {} if self._output is None else self._output.report()

    def portable(self) -> base.FeatureConfig:
        """The config with the output's files in it."""
        if self._output is None:
            return self.config
        return self.config.model_copy(update={"output": self._output.portable()})

    def _is_encoded(self) -> bool:
        assert isinstance(self.config, Config)
        return getattr(self.config.output, "input", "raw") == "encoded"

    def _share(self) -> base.Feature:
        # The engine may have given this feature its table's encoder.
        assert self._output is not None
        self._output.encoder = self.encoder
        return self._output


_MAKERS: dict[str, Callable[[Any], base.Feature]] = {
    "id": ids.Feature,
    "raw": raw.Feature,
    "sequence": sequence.Feature,
}


def _made(output: base.FeatureConfig) -> base.Feature:
    return _MAKERS[output.kind](output)
