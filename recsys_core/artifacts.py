"""Artifacts: the frozen records that stages hand to each other, and the only way they reach the disk.

A stage writes its files into a directory that nobody else sees; `Pending.commit` writes the manifest last and renames
the directory into place. A directory without a manifest is therefore never an artifact, whatever killed its writer.
"""

import contextlib
import datetime
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, Self, TypeVar

import xxhash
from pydantic import BaseModel, ConfigDict

from recsys_core import integrity
from recsys_core.integrity import digest_of, digest_of_file, read_record, sealed, write_text

# A query's column `history__price` holds what column `price` of the item table is of each item it has seen.
HISTORY = "history__"
MANIFEST = "manifest.json"
STATE = "state"
A = TypeVar("A", bound="Artifact")


class Frozen(BaseModel):
    """Base of every record and every component's `Config`: immutable, and unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Request(Frozen):
    """What a stage needs, and nothing else: its own config section, artifacts, plain values, and where to write.

    Two requests with the same `key` make the same artifact: the key covers every field but the ones in `UNKEYED`,
    artifacts by their content and not by where they lie, and the code's version.
    """

    UNKEYED: ClassVar[frozenset[str]] = frozenset({"output", "config_hash"})

    output: Path
    config_hash: str
    code_version: str

    @property
    def key(self) -> str:
        """Digest of the inputs, 32 hexadecimal digits."""
        fields = self.model_dump(mode="json", exclude=set(self.UNKEYED))
        for name in type(self).model_fields:
            value = getattr(self, name)
            if isinstance(value, Artifact):
                fields[name] = value.digest
        return digest_of([type(self).__module__, fields])


class FileRecord(Frozen):
    """One file of an artifact; `path` is relative to the artifact's directory, `digest` is xxh3-128 of its bytes."""

    path: str
    num_bytes: int
    digest: str


class Artifact(Frozen):
    """What one stage made. `digest` identifies its content; `key` identifies the inputs that it was made from."""

    stage: ClassVar[str]

    path: Path
    key: str
    digest: str
    num_rows: int
    config_hash: str
    code_version: str
    files: tuple[FileRecord, ...]

    @classmethod
    def load(cls, directory: Path) -> Self:
        """Read the record back from `directory`; the directory may have been moved since it was written.

        Raises:
            ValueError: there is no manifest (an unfinished artifact), it is damaged, or a file is missing or has
                another size than it had when it was committed.
        """
        manifest = directory / MANIFEST
        if not manifest.exists():
            raise ValueError(f"{directory}: no {MANIFEST}, so no finished {cls.__name__}; run its stage again")
        record = read_record(cls, manifest, path=directory)
        for file in record.files:
            found = directory / file.path
            num_bytes = found.stat().st_size if found.is_file() else None
            if num_bytes != file.num_bytes:
                state = "is missing" if num_bytes is None else f"has {num_bytes} bytes"
                raise ValueError(f"{found}: {state} where the manifest says {file.num_bytes} bytes")
        return record

    def digests(self) -> dict[Path, str]:
        """Return the digest that each file had when it was committed, by its path."""
        return {self.path / file.path: file.digest for file in self.files}

    def verify(self, home: Path) -> None:
        """Compare the files with their digests; `home` is where it is remembered which files are verified.

        Raises:
            ValueError: one has changed since it was committed.
        """
        integrity.verify(self.digests(), self._memory(home))

    def remember(self, home: Path) -> None:
        """Take the files as verified: they have just been committed."""
        integrity.remember(self.digests(), memory=self._memory(home))

    def _memory(self, home: Path) -> Path:
        return home / "cache" / "verified" / f"{self.digest}.json"


class DayCount(Frozen):
    """Rows of one day's partition in each table of the log."""

    day: datetime.date
    num_interactions: int
    num_users: int
    num_items: int


class Dataset(Artifact):
    """A checked log in the daily layout: `root/{interactions,users,items}/ds=YYYY-MM-DD/*.parquet`."""

    stage: ClassVar[str] = "ingest"

    root: Path
    day: datetime.date
    days: tuple[DayCount, ...]
    columns: dict[str, dict[str, str]]

    def log_digests(self) -> dict[Path, str]:
        """Return the digest that each file of the log had when it was checked, by its path."""
        return {self.root / file["path"]: file["digest"] for file in integrity.read_json(self.path / "files.json")}


class Measurement(Frozen):
    """One check of one day's table or column: the figure, its limit (null: none), and whether it held; in words too."""

    day: datetime.date
    table: str
    column: str | None
    check: str
    figure: float | None
    limit: float | None
    held: bool
    stops: bool
    told: str


class DataCheck(Artifact):
    """The log held against the data contract: `measurements.parquet`, one row per check, and `report.md`.

    `num_rows` counts the measurements; those of `breaches` did not hold. The days `first_day`..`day` were checked.
    """

    stage: ClassVar[str] = "check"

    day: datetime.date
    first_day: datetime.date
    breaches: tuple[Measurement, ...]

    @property
    def measurements(self) -> Path:
        """Parquet file of all `Measurement`s."""
        return self.path / "measurements.parquet"

    @property
    def report(self) -> Path:
        """The outcome as Markdown, for people."""
        return self.path / "report.md"


class TrainingData(Artifact):
    """What one day's training and evaluation read: `examples/`, `items/`, `ground_truth/`, `features/`.

    `num_rows` counts the examples. `first_day`..`day` are the days the examples come from; `ground_truth_day` is
    the day whose interactions are to be predicted.
    """

    stage: ClassVar[str] = "preprocess"

    day: datetime.date
    first_day: datetime.date
    ground_truth_day: datetime.date
    num_items: int
    num_queries: int
    num_ground_truth: int
    engine_digest: str

    @property
    def examples(self) -> Path:
        """Parquet folder: user_id, item_id, timestamp, the query's columns, and history__item_id and its like."""
        return self.path / "examples"

    @property
    def items(self) -> Path:
        """Parquet folder: item_id, the item's columns, sampling_weight, num_interactions."""
        return self.path / "items"

    @property
    def ground_truth(self) -> Path:
        """Parquet folder: user_id, the query's columns, history__item_id, …, gt_items, seen_items."""
        return self.path / "ground_truth"

    @property
    def engine(self) -> Path:
        """The fitted feature engine."""
        return self.path / "features"


class LabelledSplit(Frozen):
    """One table of labelled rows: what it is for (`train`, `valid` or `test`), and how many rows are positive."""

    name: str
    num_rows: int
    num_positives: int


class LabelledData(Artifact):
    """Labelled tables `root/{train,valid,test}/`, checked; `features/` is the engine fitted on `train`.

    `num_rows` counts the training rows. The rows themselves stay where they are. `csv` is how files of CSV among them
    are read, by a section `csv` that names the type of every column.
    """

    stage: ClassVar[str] = "prepare"

    root: Path
    splits: tuple[LabelledSplit, ...]
    columns: dict[str, str]
    csv: dict[str, Any] | None = None
    engine_digest: str

    @property
    def train(self) -> Path:
        """Folder of the training rows."""
        return self.root / "train"

    @property
    def valid(self) -> Path | None:
        """Folder of the rows that decide when training stops, if there are any."""
        return self.root / "valid" if any(split.name == "valid" for split in self.splits) else None

    @property
    def test(self) -> Path | None:
        """Folder of the rows that are measured at the end, if there are any."""
        return self.root / "test" if any(split.name == "test" for split in self.splits) else None

    @property
    def engine(self) -> Path:
        """The fitted feature engine."""
        return self.path / "features"


class KeptState(Frozen):
    """A state of a training that validated well; `folder` is relative to the artifact's directory."""

    step: int
    metric: str
    value: float
    folder: str


class Checkpoint(Artifact):
    """A finished training: distributed checkpoint in `state/`, the loss curve in `curve.parquet`.

    `plan.json` says where its tables lay, and `plan.txt` says it to people. `touched` is the share of each table's rows
    that were ever updated, where the optimizer keeps what tells that. `kept` are the states that validated best, the
    best one, which is in `state/`, first. `folder` is that of the state that is meant.
    """

    stage: ClassVar[str] = "train"

    day: datetime.date
    num_steps: int
    loss: float
    examples_per_second: float
    num_ranks: int
    warm_started_from: str | None
    touched: dict[str, float] = {}
    kept: tuple[KeptState, ...] = ()
    folder: str = STATE

    @property
    def state(self) -> Path:
        """Folder of torch's distributed checkpoint: model and optimizers."""
        return self.path / self.folder

    def at(self, step: int | None) -> Self:
        """Return the same training with the kept state of `step`; None is the best one.

        Raises:
            ValueError: that one was not kept; those that were are listed.
        """
        if step is None:
            return self
        folders = {one.step: one.folder for one in self.kept}
        if step not in folders:
            told = ", ".join(f"{one.step} ({one.metric} {one.value:.6g})" for one in self.kept) or "none"
            raise ValueError(
                f"use_step: {self.path} has no state of step {step}, but of {told}; name one of these, or keep more "
                "with train.keep_best"
            )
        folder = folders[step]
        # What is made of another state is another artifact.
        digest = self.digest if folder == self.folder else digest_of([self.digest, folder])
        return self.model_copy(update={"folder": folder, "digest": digest})

    @property
    def carried(self) -> Path:
        """Text: what it took over of another training; there only if that was not simply all (JSON beside it)."""
        return self.path / "carried.txt"

    @property
    def plan(self) -> Path:
        """Text: which rank held which part of which table, and what that took."""
        return self.path / "plan.txt"


class ExportedModel(Artifact):
    """`query/model.pt` and `item/model.pt`, each with `signature.json`; `features/` is the fitted engine."""

    stage: ClassVar[str] = "export"

    embedding_dim: int
    similarity: str
    parity_max_abs_difference: float

    @property
    def query(self) -> Path:
        """Folder of the scripted query tower."""
        return self.path / "query"

    @property
    def item(self) -> Path:
        """Folder of the scripted item tower."""
        return self.path / "item"

    @property
    def engine(self) -> Path:
        """The fitted feature engine, a byte-for-byte copy of the one trained with."""
        return self.path / "features"


class Embeddings(Artifact):
    """Vectors of one model: `items/` (item_id, embedding) and `queries/` (user_id, gt_items, seen_items, embedding).

    `embedding` columns are fixed-size lists of float32; `model_digest` is the digest of the ExportedModel used.
    """

    stage: ClassVar[str] = "embed"

    embedding_dim: int
    num_items: int
    num_queries: int
    model_digest: str

    @property
    def items(self) -> Path:
        """Parquet folder of the item vectors."""
        return self.path / "items"

    @property
    def queries(self) -> Path:
        """Parquet folder of the query vectors, each with what is to be found and what it has seen."""
        return self.path / "queries"


class Index(Artifact):
    """A FAISS index in `index.faiss` and `id_map.parquet` (item_id; row i is FAISS id i)."""

    stage: ClassVar[str] = "index"

    kind: str
    factory: str
    embedding_dim: int
    num_items: int

    @property
    def faiss(self) -> Path:
        """The index as FAISS writes it."""
        return self.path / "index.faiss"

    @property
    def id_map(self) -> Path:
        """Parquet file that maps FAISS ids (row numbers) to item ids."""
        return self.path / "id_map.parquet"


class RankingMetrics(Frozen):
    """Full-ranking retrieval metrics by K (the K is the key, as text: JSON has no other).

    hit_rate: hits over all ground-truth items; recall: mean over queries of found÷relevant; ndcg and mrr: means over
    queries; coverage: share of the item table that was recommended to anyone.
    """

    hit_rate: dict[str, float]
    recall: dict[str, float]
    ndcg: dict[str, float]
    mrr: dict[str, float]
    coverage: dict[str, float]


class Evaluation(Artifact):
    """Metrics of one day's ground truth. `protocol` states how they were measured; `sweep.json` has the ANN sweep."""

    stage: ClassVar[str] = "hitrate"

    day: datetime.date
    ground_truth_day: datetime.date
    ground_truth_digest: str
    num_queries: int
    num_ground_truth: int
    num_items: int
    protocol: str
    exact: RankingMetrics
    approximate: RankingMetrics
    popularity: RankingMetrics
    item_item: RankingMetrics
    champion: RankingMetrics | None
    ann_recall: dict[str, float]
    ann_recall_by_nprobe: dict[str, dict[str, float]]
    hit_rate_by_popularity: dict[str, float]


class HeldOut(Artifact):
    """Sampled-softmax loss and recall of the checkpoint on the ground-truth day's rows, each row once."""

    stage: ClassVar[str] = "evaluate"

    loss: float
    sampled_recall: dict[str, float]


class LabelledMetrics(Frozen):
    """What labelled rows measure; None where it is not defined (rows of one label only, no groups).

    auc: the share of pairs (positive, negative) in which the positive scores higher, ties half, pairs weighted by
        the product of their weights; the area under the ROC curve.
    gauc: the mean of the groups' AUCs by their weight of rows, over groups with both labels (Zhou et al. 2018,
        section 6.2).
    logloss: the mean binary cross-entropy in nats.
    normalized_entropy: logloss over that of always predicting the share of positives (He et al. 2014, section 3).
    calibration: predicted positives over actual ones.
    accuracy: the share of rows, by weight, whose label is what a probability of at least .5 predicts; None in records
        of before it was measured.
    """

    num_rows: int
    num_positives: int
    auc: float | None
    gauc: float | None
    logloss: float
    normalized_entropy: float | None
    calibration: float | None
    accuracy: float | None = None


class RankingEvaluation(Artifact):
    """Metrics of every row of a split; `roc.parquet` and `calibration.parquet` have the points of its pictures."""

    stage: ClassVar[str] = "evaluate"

    split: str
    metrics: LabelledMetrics


class ExportedRanker(Artifact):
    """`model.pt` with `signature.json`: one scripted module; `features/` is the fitted engine."""

    stage: ClassVar[str] = "export"

    parity_max_abs_difference: float

    @property
    def engine(self) -> Path:
        """The fitted feature engine, a byte-for-byte copy of the one trained with."""
        return self.path / "features"


class Predictions(Artifact):
    """Scored rows in `rows/`, in the order of the table they come from: its columns, `score` and `probability`."""

    stage: ClassVar[str] = "predict"

    source: str
    model_digest: str

    @property
    def rows(self) -> Path:
        """Parquet folder."""
        return self.path / "rows"


class Release(Artifact):
    """The bundle of one day (`query/`, `item/`, `features/`, `index/`) as it was published, or why it was not."""

    stage: ClassVar[str] = "publish"

    day: datetime.date
    run_id: str
    decision: str
    reasons: tuple[str, ...]
    model_name: str
    version: str | None


class Pending:
    """A directory being filled. Files written below `path` become an artifact on `commit`, and never otherwise."""

    def __init__(self, destination: Path) -> None:
        """`destination` is where the artifact will appear; its parent is created."""
        self.destination = destination
        self.path = destination.with_name(f".{destination.name}.partial")

    def commit(self, record: type[A], request: Request, **fields: Any) -> A:
        """Digest the files, write the manifest last, and rename the directory into place."""
        for stray in self.path.glob(f".{MANIFEST}.*"):
            stray.unlink()
        files = tuple(_describe(self.path, file) for file in sorted(self.path.rglob("*")) if file.is_file())
        content = xxhash.xxh3_128()
        for file in files:
            content.update(f"{file.path}\0{file.digest}\0".encode())
        artifact = record(
            path=self.destination,
            key=request.key,
            digest=content.hexdigest(),
            config_hash=request.config_hash,
            code_version=request.code_version,
            files=files,
            **fields,
        )
        write_text(self.path / MANIFEST, sealed(artifact.model_dump(mode="json", exclude={"path"})))
        move_into_place(self.path, self.destination)
        return artifact


@contextlib.contextmanager
def pending(destination: Path, *, keep_partial: bool = False) -> Iterator[Pending]:
    """Open a directory to fill. On an error its files are removed, unless `keep_partial` (a stage that can resume)."""
    aside = Pending(destination)
    if not keep_partial and aside.path.exists():
        shutil.rmtree(aside.path)
    aside.path.mkdir(parents=True, exist_ok=True)
    try:
        yield aside
    except BaseException:
        if not keep_partial:
            shutil.rmtree(aside.path, ignore_errors=True)
        raise


def move_into_place(aside: Path, destination: Path) -> None:
    """Rename the directory `aside`; a directory that is there is never seen half deleted."""
    replaced = destination.with_name(f".{destination.name}.replaced")
    if destination.exists():
        shutil.rmtree(replaced, ignore_errors=True)
        destination.rename(replaced)
    aside.rename(destination)
    _sync(destination.parent)
    shutil.rmtree(replaced, ignore_errors=True)


def code_version() -> str:
    """Return a digest of the core's own sources: a stage made by other code is another stage."""
    package = Path(__file__).parent
    return digest_of([(str(f.relative_to(package)), digest_of_file(f)) for f in sorted(package.rglob("*.py"))])[:12]


def _describe(root: Path, file: Path) -> FileRecord:
    with file.open("rb") as opened:
        os.fsync(opened.fileno())
    return FileRecord(path=str(file.relative_to(root)), num_bytes=file.stat().st_size, digest=digest_of_file(file))


def _sync(directory: Path) -> None:
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
