"""Made-up rows in the shape of Criteo's logs, as the published text, with planted click probabilities.

Of the Kaggle challenge's rows they have the columns, the distinct values of each category (those that the DLRM
reference lists, Naumov et al. 2019; a shorter log sees fewer of them), the shares of missing fields and about the share
of clicks. How often a value occurs falls with its rank r as 1 / r.

A row is clicked with probability

    sigmoid(b + signal * (sum of effects of the frequent values + slopes of the integers
                          + sum over three pairs of categories of the product of their values' vectors))

Only the `NUM_EFFECTS` most frequent values of a category have effects and vectors, so that a model can learn all that
there is from the rows that it sees: the best attainable AUC is that of the true probabilities. Each part of a file has
its own random stream: a longer train.txt begins with the shorter one. Parts are made on all cores.

Shapes: B rows of a part, K latent dimensions.
"""

import contextlib
import gzip
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
from pydantic import Field

from recsys_core.artifacts import Frozen, write_text
from recsys_core.datasets._threads import in_order
from recsys_core.datasets.labelled import _criteo_text as text
from recsys_core.progress import Event, Sink

NUM_VALUES = (
    1460, 583, 10_131_227, 2_202_608, 305, 24, 12_517, 633, 3, 93_145, 5683, 8_351_593, 3194,
    27, 14_992, 5_461_306, 10, 5652, 2173, 4, 7_046_547, 18, 15, 286_181, 105, 142_572,
)  # fmt: skip
"""Distinct values of each category, a missing field counted as one."""
_MISSING_INTEGERS = (0.454, 0.0, 0.215, 0.217, 0.026, 0.224, 0.043, 0.0005, 0.043, 0.454, 0.043, 0.765, 0.217)
_MISSING_CATEGORIES = (
    0.0, 0.0, 0.034, 0.034, 0.0, 0.121, 0.0, 0.0, 0.0, 0.0, 0.0, 0.034, 0.0,
    0.0, 0.0, 0.034, 0.0, 0.0, 0.440, 0.440, 0.034, 0.762, 0.0, 0.034, 0.440, 0.440,
)  # fmt: skip
# Mean and spread of ln(1 + n) of each integer.
_MEANS = (0.9, 2.0, 2.2, 1.8, 7.8, 3.6, 1.8, 2.1, 3.9, 0.4, 1.0, 0.3, 1.9)
_SPREADS = (1.0, 1.9, 1.2, 1.0, 2.3, 1.7, 1.5, 1.2, 1.5, 0.4, 0.8, 0.5, 1.2)
NUM_EFFECTS = 1000
_PAIRS, _DIMENSIONS = ((0, 1), (4, 7), (13, 16)), 3
_PART_ROWS = 1 << 17
_NUM_BINS = 1 << 20
_BIAS = -1.5


class Config(Frozen):
    """How many rows, and how strong their structure is."""

    seed: int = Field(default=0, ge=0)
    num_rows: int = Field(default=1_000_000, ge=14, description="45,840,617 in the Kaggle challenge")
    num_days: int | None = Field(
        default=None, ge=2, le=24, description="files day_0, day_1, … of equal sizes; null: all rows in train.txt"
    )
    gzip: bool = Field(default=False, description="write .gz")
    signal: float = Field(default=1.0, ge=0, le=8)


class Made(Frozen):
    """What was made, and the AUC and logloss of the true probabilities: no model can expect better ones."""

    num_rows: int
    num_clicks: int
    auc: float
    logloss: float


def write(config: Config, root: Path, sink: Sink) -> Made:
    """Write train.txt, or a file for each day, below `root`; what can be attained is in `_attainable.json` too."""
    root.mkdir(parents=True, exist_ok=True)
    world, bins = _World(config), np.zeros((2, _NUM_BINS), np.int64)
    made, entropy = 0, 0.0
    num_files = config.num_days or 1
    for number in range(num_files):
        name = "train.txt" if config.num_days is None else f"day_{number}"
        num_rows = (number + 1) * config.num_rows // num_files - number * config.num_rows // num_files
        parts = [(number, start, min(_PART_ROWS, num_rows - start)) for start in range(0, num_rows, _PART_ROWS)]
        with _opened(root / (f"{name}.gz" if config.gzip else name)) as file:
            for part in in_order(world.part, parts):
                file.write(part.lines)
                np.add.at(bins, (part.clicked, np.minimum(part.click * _NUM_BINS, _NUM_BINS - 1).astype(np.intp)), 1)
                made += len(part.click)
                entropy -= float(np.where(part.clicked, np.log(part.click), np.log1p(-part.click)).sum())
                sink(Event(stage="prepare", done=made, total=config.num_rows, message=f"making {name}"))
    found = Made(num_rows=made, num_clicks=int(bins[1].sum()), auc=_auc(bins), logloss=entropy / made)
    write_text(root / "_attainable.json", found.model_dump_json(indent=2))
    return found


class _Part(NamedTuple):
    """Lines of text, the true probability of each, float64 [B], and whether it was clicked, int64 [B]."""

    lines: memoryview
    click: np.ndarray
    clicked: np.ndarray


class _World:
    """What the rows follow from."""

    def __init__(self, config: Config) -> None:
        """Draw the effects."""
        rng = np.random.default_rng((config.seed, 0))
        self._config = config
        self._effects = [
            _padded(rng.normal(scale=0.25, size=min(size, NUM_EFFECTS)), size > NUM_EFFECTS) for size in NUM_VALUES
        ]
        self._vectors = {
            category: _padded(
                rng.normal(scale=0.5, size=(min(NUM_VALUES[category], NUM_EFFECTS), _DIMENSIONS)),
                NUM_VALUES[category] > NUM_EFFECTS,
            )
            for pair in _PAIRS
            for category in pair
        }
        self._slopes = rng.normal(scale=0.1, size=text.NUM_INTEGERS)

    def part(self, at: tuple[int, int, int]) -> _Part:
        """Make rows of file `at[0]`, the `at[2]` from row `at[1]` of it."""
        number, start, num_rows = at
        rng = np.random.default_rng((self._config.seed, 1, number, start))
        columns: dict[str, pa.Array] = {}
        scores = np.zeros(num_rows)
        for index, name in enumerate(text.INTEGERS):
            drawn = np.expm1(rng.normal(_MEANS[index], _SPREADS[index], num_rows).clip(0, 14)).astype(np.int64)
            values = drawn - 2 if name == "int_2" else drawn
            missing = rng.random(num_rows) < _MISSING_INTEGERS[index]
            columns[name] = pa.array(values, mask=missing)
            seen = np.log1p(np.where(missing, 0, np.maximum(values, 0)))
            scores += self._slopes[index] * (seen - _MEANS[index]) / _SPREADS[index]
        places: dict[int, np.ndarray] = {}
        for index, name in enumerate(text.CATEGORIES):
            size = NUM_VALUES[index]
            ranks = np.exp(rng.random(num_rows) * np.log(size + 1)).astype(np.int64).clip(1, size) - 1
            missing = rng.random(num_rows) < _MISSING_CATEGORIES[index]
            columns[name] = text.hexadecimal(_spread(ranks, index), missing)
            places[index] = np.minimum(ranks, len(self._effects[index]) - 1)
            scores += np.where(missing, 0.0, self._effects[index][places[index]])
        for one, other in _PAIRS:
            scores += np.einsum("bk,bk->b", self._vectors[one][places[one]], self._vectors[other][places[other]])
        click = 1 / (1 + np.exp(-(_BIAS + self._config.signal * scores)))
        clicked = (rng.random(num_rows) < click).astype(np.int64)
        table = pa.table({"label": clicked} | columns)
        buffer = pa.BufferOutputStream()
        pacsv.write_csv(table, buffer, pacsv.WriteOptions(include_header=False, delimiter="\t", quoting_style="none"))
        return _Part(memoryview(buffer.getvalue()), click, clicked)


def _padded(effects: np.ndarray, there_are_more: bool) -> np.ndarray:
    """Add a zero for all values that have no effect."""
    return np.concatenate([effects, np.zeros_like(effects[:1])]) if there_are_more else effects


def _spread(ranks: np.ndarray, category: int) -> np.ndarray:
    """Return a number of 32 bits for each rank, different for different ranks."""
    numbers = (ranks * 0x9E3779B1 + (category + 1) * 0x85EBCA6B).astype(np.uint32)
    return numbers ^ (numbers >> np.uint32(16))


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    with path.open("wb") as file:
        if path.suffix != ".gz":
            yield file
            return
        # Neither the name nor the time of writing is in the file: the same rows are the same bytes.
        with gzip.GzipFile("", "wb", compresslevel=1, fileobj=file, mtime=0) as zipped:
            yield zipped  # pyright: ignore[reportReturnType] - it writes bytes as the other does


def _auc(bins: np.ndarray) -> float:
    """Return the AUC of rows that were counted by label and ascending score, int64 [2, S]; those of a bin are ties."""
    negatives, positives = bins
    below = np.cumsum(negatives) - negatives
    return float((positives * (below + negatives / 2)).sum() / (positives.sum() * negatives.sum()))
