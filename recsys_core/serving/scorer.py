"""A released ranking model: rows with the columns of both sides in, probabilities out. Legend: B rows."""

from collections.abc import Iterable, Mapping, Sized
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from recsys_core import integrity
from recsys_core.artifacts import ExportedRanker
from recsys_core.artifacts.release import EXAMPLES, EXPORTED_MODEL, SCORES
from recsys_core.exported.files import module_file
from recsys_core.features import Engine, Side
from recsys_core.serving import asked, base, tables

_SIDES: tuple[Side, Side] = ("query", "item")
_TOLERANCE = 1e-4  # of the logits' largest number, and of a probability: float32 sums in another order


class Scorer(base.Service):
    """A bundle with `model.pt` or `model.pt2`, `features/` (fitted engine), and rows with what they were scored."""

    def __init__(self, engine: Engine, ranker: Any, exported: ExportedRanker) -> None:
        """Use `load`."""
        self.engine, self._ranker = engine, ranker
        self.columns, self.predicted = exported.columns, exported.predicted

    @classmethod
    def load(cls, directory: Path) -> Self:
        """See `base.Service`."""
        base.verify(directory, (module_file(directory).name,), ExportedRanker)
        from recsys_core.exported import modules

        exported = integrity.read_record(ExportedRanker, directory / EXPORTED_MODEL, path=directory)
        ranker = base.read(module_file(directory), modules.read)
        return cls(Engine.load(directory / "features"), ranker, exported)

    def answer(self, columns: Mapping[str, Iterable[Any]], params: Mapping[str, Any]) -> pa.Table:
        """Return what `score` does, of loose values by column; there are no parameters.

        Raises:
            ValueError: see `asked.no_params`, `asked.limit` and `tables.table`.
        """
        asked.no_params(params)
        asked.limit(max((len(values) for values in columns.values() if isinstance(values, Sized)), default=0), 1)
        return self.score(tables.table(self.engine, _SIDES, columns))

    def score(self, table: pa.Table) -> pa.Table:
        """Return, row by row, `probability` (or `value`) and `score`, the output; of several tasks, as predictions do.

        Where features leave ids out, `out_of_range` says how many of the row's, by feature.

        Raises:
            ValueError: a column is missing, or holds what its feature cannot take.
        """
        import torch

        from recsys_core.exported.inputs import filled, ranker_inputs
        from recsys_core.exported.predictions import predictions

        query, item = (self.engine.transform(table, side) for side in _SIDES)
        with torch.inference_mode():
            logits = self._ranker(filled(ranker_inputs(query, item), table.num_rows))[: table.num_rows]
            by_task = logits.reshape(len(logits), len(self.columns)).T.contiguous()
        answers: dict[str, np.ndarray] = {}
        for (score, prediction), predicts, output_B in zip(self.columns, self.predicted, by_task, strict=True):
            tables.refuse_infinite(output_B.numpy(), score)
            answers |= {prediction: predictions(output_B, predicts), score: output_B.numpy()}
        return tables.with_left_out(pa.table(answers), self.engine, {"query": query, "item": item})

    def check_kept(self, directory: Path) -> str:
        """See `base.Service`: the rows are scored as they were where the day was measured."""
        return self.check(pq.read_table(directory / EXAMPLES), pq.read_table(directory / SCORES))

    def check(self, rows: pa.Table, scores: pa.Table) -> str:
        """Score `rows` and compare with `scores`, their predictions and `score`; say by how much they differ.

        Raises:
            ValueError: they differ.
        """
        found, differences = self.score(rows), {}
        for name in scores.column_names:
            wanted = scores[name].to_numpy()
            differences[name] = float(np.abs(found[name].to_numpy() - wanted).max())
            if not differences[name] <= _TOLERANCE * max(1.0, float(np.abs(wanted).max())):
                raise ValueError(
                    f"the model gives another {name} than where the day was measured (by {differences[name]:.3g})"
                )
        largest = max(differences[prediction] for _, prediction in self.columns if prediction in differences)
        called = "probabilities" if {*self.predicted} == {"probability"} else "predictions"
        return f"{rows.num_rows} rows scored; their {called} differ from the measured ones by at most {largest:.2g}"
