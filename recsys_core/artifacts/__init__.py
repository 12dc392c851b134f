"""Artifacts: what stages hand over, as frozen records with a manifest that is written last."""

from recsys_core.artifacts.core import (
    MANIFEST,
    A,
    Artifact,
    FileRecord,
    Frozen,
    Pending,
    Request,
    code_version,
    move_into_place,
    pending,
)
from recsys_core.artifacts.holdout import Holdout, Learned, NextDay, Rows, Tail
from recsys_core.artifacts.log import DataCheck, Dataset, DayCount, LabelledDay, LabelledLog, Measurement
from recsys_core.artifacts.ranking import ExportedRanker, HeldOut, LabelledMetrics, Predictions, RankingEvaluation
from recsys_core.artifacts.retrieval import Embeddings, Evaluation, ExportedModel, Index, RetrievalMetrics
from recsys_core.artifacts.training import (
    HISTORY,
    STATE,
    Checkpoint,
    KeptState,
    LabelledData,
    LabelledSplit,
    Release,
    TrainingData,
)
from recsys_core.integrity import digest_of, digest_of_file, write_text

__all__ = [
    "HISTORY",
    "MANIFEST",
    "STATE",
    "A",
    "Artifact",
    "Checkpoint",
    "DataCheck",
    "Dataset",
    "DayCount",
    "Embeddings",
    "Evaluation",
    "ExportedModel",
    "ExportedRanker",
    "FileRecord",
    "Frozen",
    "HeldOut",
    "Holdout",
    "Index",
    "KeptState",
    "LabelledData",
    "LabelledDay",
    "LabelledLog",
    "LabelledMetrics",
    "LabelledSplit",
    "Learned",
    "Measurement",
    "NextDay",
    "Pending",
    "Predictions",
    "RankingEvaluation",
    "Release",
    "Request",
    "RetrievalMetrics",
    "Rows",
    "Tail",
    "TrainingData",
    "code_version",
    "digest_of",
    "digest_of_file",
    "move_into_place",
    "pending",
    "write_text",
]
