"""Rows with two long sequences, in the shape of the ones that RecIS's CTR example is trained on; nothing is read.

    label    0 or 1                       dense1   8 numbers in [0, 1)
    dense2   one number in [0, 1)         sparse1, sparse2, sparse3   the row's number in its file
    sparse4  1 to `max_length` integers below 1,000,000
    sparse5  1 to `max_length` texts of 10 letters and digits, out of `num_texts`

There the label is drawn by itself. Here, with a `signal`, it follows in part from dense1, dense2 and the first texts of
sparse5, so that a model has something to find. Each part of a file has its own random stream and memory holds one part.
"""

import string
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
from pyarrow import orc
from pydantic import Field

from recsys_core.datasets.labelled import base
from recsys_core.progress import Event, Sink

_ROWS_PER_PART = 256
_STRIPE_BYTES = 8 << 20
_NUM_DENSE, _TEXT_LENGTH, _NUM_INTEGERS, _FIRST_TEXTS = 8, 10, 1_000_000, 20


class Config(base.Config):
    """Files of `rows_per_file` rows each, in ORC: `num_files` of them are `train`, and `num_test_files` are `test`."""

    kind: Literal["deepctr"] = "deepctr"
    source: None = None
    num_files: int = Field(default=10, ge=1)
    num_test_files: int = Field(default=1, ge=0)
    rows_per_file: int = Field(default=2047, ge=1)
    max_length: int = Field(default=2000, ge=1, description="the longest sequence")
    num_texts: int = Field(default=1000, ge=1, description="different texts of sparse5")
    signal: float = Field(default=1.0, ge=0, description="how far the label follows from the columns; 0: not at all")
    seed: int = Field(default=0, ge=0)


def fingerprint(config: Config) -> str:
    """Return what stands for the source: the keys alone say what is made."""
    return config.kind


def write(config: Config, root: Path, sink: Sink) -> dict[str, int]:
    """Make the files below `root`."""
    counts: dict[str, int] = {}
    total = (config.num_files + config.num_test_files) * config.rows_per_file
    first = 0
    for split, num_files in (("train", config.num_files), ("test", config.num_test_files)):
        if num_files:
            (root / split).mkdir(parents=True)
        counts[split] = 0
        for number in range(first, first + num_files):
            path = root / split / f"part-{number - first:05d}.orc"
            with orc.ORCWriter(path, compression="zstd", stripe_size=_STRIPE_BYTES) as file:
                for table in parts(config, number):
                    file.write(table)
                    counts[split] += table.num_rows
                    done = sum(counts.values())
                    sink(Event(stage="prepare", done=done, total=total, message=f"making rows for {split}"))
        first += num_files
    return counts


def parts(config: Config, number: int) -> Iterator[pa.Table]:
    """Yield the rows of file `number`, part by part; parts are the same whichever files are made besides."""
    rng = np.random.default_rng((config.seed, 0))
    letters = np.array(list(string.ascii_letters + string.digits))
    texts = pa.array(
        ["".join(row) for row in letters[rng.integers(len(letters), size=(config.num_texts, _TEXT_LENGTH))]]
    )
    effects = rng.normal(size=config.num_texts)
    slopes = rng.normal(size=_NUM_DENSE)
    for start in range(0, config.rows_per_file, _ROWS_PER_PART):
        rng = np.random.default_rng((config.seed, 1 + number, start))
        ids = np.arange(start, min(start + _ROWS_PER_PART, config.rows_per_file))
        dense1, dense2 = rng.random((len(ids), _NUM_DENSE)), rng.random(len(ids))
        int_lengths, text_lengths = rng.integers(1, config.max_length, size=(2, len(ids)), endpoint=True)
        integers = rng.integers(_NUM_INTEGERS, size=int_lengths.sum())
        chosen = rng.integers(config.num_texts, size=text_lengths.sum())
        scores = (
            (dense1 - 0.5) @ slopes + np.where(dense2 < 0.5, -0.5, 0.5) + _first_mean(effects[chosen], text_lengths)
        )
        labels = rng.random(len(ids)) < 1 / (1 + np.exp(-2 * config.signal * scores))
        ones = np.ones(len(ids), np.int64)
        yield pa.table(
            {
                "label": pa.array(labels.astype(np.int64)),
                "dense1": _lists(pa.array(dense1.reshape(-1)), ones * _NUM_DENSE),
                "dense2": _lists(pa.array(dense2), ones),
                "sparse1": _lists(pa.array(ids), ones),
                "sparse2": _lists(pa.array(ids), ones),
                "sparse3": _lists(pa.array(ids), ones),
                "sparse4": _lists(pa.array(integers), int_lengths),
                "sparse5": _lists(texts.take(pa.array(chosen)), text_lengths),
            }
        )


def _lists(values: pa.Array, lengths: np.ndarray) -> pa.Array:
    return pa.ListArray.from_arrays(pa.array(np.concatenate([[0], np.cumsum(lengths)]), pa.int32()), values)


def _first_mean(values: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Return the mean of each row's first values, scaled so that it varies as much as one of them."""
    starts = np.cumsum(lengths) - lengths
    cut = np.minimum(lengths, _FIRST_TEXTS)
    sums = np.concatenate([[0.0], np.cumsum(values)])
    return (sums[starts + cut] - sums[starts]) / np.sqrt(cut)
