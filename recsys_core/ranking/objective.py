"""Labelled rows: a loss of their logits, and exact metrics over rows that are not trained on. Legend: B examples."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from recsys_core import losses, models
from recsys_core.artifacts import ComponentConfig, LabelledData
from recsys_core.distributed import World
from recsys_core.exported.predictions import predictions
from recsys_core.features import Engine
from recsys_core.loading.batch import LabelledBatch, moved
from recsys_core.loading.prefetch import half_of_the_cores, prefetch
from recsys_core.loading.rank_batches import RankBatches, Rows
from recsys_core.losses.base import RankingLoss
from recsys_core.metrics.ranking import Scored
from recsys_core.metrics.streaming import Histogram, auc_of_counts
from recsys_core.models.base import RankingModel
from recsys_core.models.blocks.layout import Block, Layout, Weight
from recsys_core.ranking import ONLY, Config, opened
from recsys_core.ranking.feed import LabelledFeed, group_numbers
from recsys_core.readers.base import Reader
from recsys_core.training.objective import Objective, weighted_sum

V = TypeVar("V")


class Ranking(Objective[LabelledBatch]):
    """Predict the labels of a row, one or several tasks at once."""

    def __init__(
        self,
        config: Config,
        model: ComponentConfig,
        loss: ComponentConfig,
        data: LabelledData,
        *,
        batch_size: int,
        seed: int,
    ) -> None:
        """`model` and `loss` are configs of components, `loss` of tasks without their own.

        `batch_size` is that of validation, per rank.
        """
        self.engine = Engine.load(data.engine)
        self._losses = {name: losses.build(task.loss or loss, RankingLoss) for name, task in config.named.items()}
        reads_groups = any(one.reads_groups for one in self._losses.values())
        self.feed = LabelledFeed(self.engine, config, training=True, groups=reads_groups)
        self.reader = opened(data, "train")
        torch.manual_seed(seed)
        ranker = models.build(model, self.engine, RankingModel, tables_device="meta")
        self._log_variances = nn.Parameter(torch.zeros(len(config.tasks)))
        if config.task_weights == "uncertainty":
            # Of the model, so that they are trained, kept and continued with it; nothing that is exported reads them.
            ranker.log_variances = self._log_variances
        self._ranker = ranker
        self.model, self.tables, self.dense = ranker, ranker.tables, (ranker.head,)
        self._seen = {name: Histogram() for name, task in config.named.items() if task.predicts == "probability"}
        self.predicts = config.outputs
        self._config, self._batch_size, self._model = config, batch_size, model
        self._valid = opened(data, "valid") if data.has("valid") else None

    def layout(self, engine: Engine | None = None) -> Layout:
        """See `Objective.layout`."""
        ranker = self._ranker
        if engine is not None:
            ranker = models.build(self._model, engine, RankingModel, tables_device="meta")
        found = ranker.layout()
        # What is continued without a layout is taken over by name and shape.
        if self._config.task_weights == "uncertainty" and found:
            tasks = tuple(Block(label=name, width=1) for name in self._config.tasks)
            found = found | {"log_variances": Weight(place="log variances", axes=(tasks,))}
        return found

    def loss(self, model: Callable[..., Any], batch: LabelledBatch, world: World) -> dict[str, Tensor]:
        """See `Objective.loss`."""
        found: dict[str, Tensor] = {}
        logits = by_task(self._config, model(batch.sparse, batch.dense_BF, batch.numbers))
        positive = {name: labels_B > 0.5 for name, labels_B in batch.labels.items()} if self._config.tasks else {}
        for name, logits_B in logits.items():
            labels_B, weights_B = batch.labels[name], batch.weights[name]
            if name in self._seen:
                self._seen[name].add(logits_B, labels_B, _weights_of(self._config, name, positive, weights_B))
            learned_B = learned(self._config, name, logits)
            losses_B = _losses(self._losses[name], learned_B, labels_B, weights_B, batch.groups_B)
            total = weighted_sum(losses_B, weights_B, batch.global_rows, world)
            weight = self._config.named[name].weight
            found[name] = total if weight == 1 else weight * total
        return self._by_uncertainty(found, logits) if self._config.task_weights == "uncertainty" else found

    def _by_uncertainty(self, losses: dict[str, Tensor], logits: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the losses over their variances exp(s), plus s/2 for each row (Kendall et al. 2018, equation 10)."""
        by_task = zip(losses.items(), self._log_variances.unbind(), strict=True)
        return {name: total * (-one).exp() + one / 2 * len(logits[name]) for (name, total), one in by_task}

    def figures(self, world: World) -> dict[str, float | None]:
        """See `Objective.figures`: the AUC of the rows as they were scored before the model learned from them.

        Of several tasks it is that of the first one, and `auc_NAME` each one's. Values have none.
        """
        found: dict[str, dict[str, float | None]] = {name: {} for name in self._config.named}
        for name, seen in self._seen.items():
            found[name]["auc"] = auc_of_counts(world.sum(seen.take(world.device)).cpu().numpy())
        if self._config.task_weights == "uncertainty":
            shares = (-self._log_variances.detach()).exp().tolist()
            for name, share in zip(found, shares, strict=True):
                found[name]["task_weight"] = share
        return _named(found)

    def validate(self, model: nn.Module, world: World) -> dict[str, float]:
        """See `Objective.validate`: the metrics of the split `valid`."""
        if self._valid is None:
            raise ValueError(
                "train.evaluate_every_steps, train.evaluate_every_epochs: the data has no split `valid`; give it one, "
                "or leave them out"
            )
        rows = gathered(model, self.engine, self._config, self._valid, world, batch_size=self._batch_size)
        return _named({name: scored.metrics().figures() for name, scored in rows.items() if scored.weights.sum()})


def learned(config: Config, task: str, logits: Mapping[str, Tensor]) -> Tensor:
    """Return the logits [B] that a task's loss reads: its own, or over all rows those of it and all that it is given.

    Of logits x and y it is -log(e^-x + e^-y + e^-(x + y)): that of the product of their probabilities.
    """
    if config.named[task].space == "given":
        return logits[task]
    own, *others = (logits[name] for name in config.given(task))
    for x in others:
        own = -torch.stack([-x, -own, -(x + own)]).logsumexp(dim=0)
    return own


def _weights_of(config: Config, task: str, positive: Mapping[str, Tensor], weights_B: Tensor | None) -> Tensor | None:
    """Return the weights of the rows that a task is measured on, of those that it learns from."""
    if config.named[task].space == "given":
        return weights_B
    rows_B = config.rows_of(task, positive)
    assert rows_B is not None, "it is given another task"
    return rows_B.float() if weights_B is None else weights_B * rows_B


def _losses(
    loss: RankingLoss, logits_B: Tensor, labels_B: Tensor, weights_B: Tensor | None, groups_B: Tensor | None
) -> Tensor:
    """Return each row's loss [B]; a row of no weight, which is none of the task's, is compared with no other."""
    if not loss.reads_groups:
        return loss(logits_B, labels_B)
    assert groups_B is not None, "a config with such a loss has groups"
    if weights_B is None:
        return loss.of_groups(logits_B, labels_B, groups_B)
    rows = (weights_B > 0).nonzero().flatten()
    return torch.zeros_like(logits_B).index_copy(
        0, rows, loss.of_groups(logits_B[rows], labels_B[rows], groups_B[rows])
    )


def gathered(
    model: nn.Module, engine: Engine, config: Config, reader: Reader, world: World, *, batch_size: int
) -> dict[str, Scored]:
    """Return all rows of `reader` that are of a task, by task, scored, each once, on every rank."""
    parts = [part for part, _ in scored(model, engine, config, reader, world, batch_size=batch_size)]
    return joined(world.gather(joined(parts)))


def joined(parts: Sequence[dict[str, Scored]]) -> dict[str, Scored]:
    """Return all rows of all parts (of batches, of ranks), by task."""
    return {name: Scored.joined([part[name] for part in parts]) for name in parts[0]}


def by_task(config: Config, logits: Tensor) -> dict[str, Tensor]:
    """Return each task's logits [B] of a model's output [B], or [B, T] in the order of `config.tasks`."""
    return dict(zip(config.tasks, logits.unbind(dim=1), strict=True)) if config.tasks else {ONLY: logits}


def _named(found: dict[str, dict[str, V]]) -> dict[str, V]:
    """Return figures of the first task as they are called, and of several tasks each one's as `FIGURE_TASK`."""
    first = next(iter(found.values()), {})
    if [*found] == [ONLY]:
        return first
    return first | {f"{figure}_{task}": value for task, own in found.items() for figure, value in own.items()}


def scored(
    model: nn.Module, engine: Engine, config: Config, reader: Reader, world: World, *, batch_size: int
) -> Iterator[tuple[dict[str, Scored], int]]:
    """Score this rank's share of the rows; yield each batch by task, with how many rows all ranks have scored by it."""
    feed = LabelledFeed(engine, config)
    columns = list(dict.fromkeys([*feed.columns, *filter(None, [config.group])]))
    shard = RankBatches.in_order(reader, columns, batch_size=batch_size, rank=world.rank, num_ranks=world.num_ranks)
    training, done = model.training, 0

    def prepare(rows: Rows) -> tuple[LabelledBatch, np.ndarray | None]:
        return feed.batch(rows), group_numbers(rows.table, config.group) if config.group else None

    model.eval()
    with torch.no_grad():
        for prepared, groups in prefetch(iter(shard), prepare, num_threads=half_of_the_cores()):
            batch = moved(prepared, world.device)
            logits = by_task(config, model(batch.sparse, batch.dense_BF, batch.numbers).double().cpu())
            done += batch.global_rows
            yield _labelled(config, batch, logits, groups), done
    model.train(training)


def _labelled(
    config: Config, batch: LabelledBatch, logits: dict[str, Tensor], groups: np.ndarray | None
) -> dict[str, Scored]:
    """Return the rows of each task, with their scores."""
    positive = {name: labels_B.cpu().numpy() > 0.5 for name, labels_B in batch.labels.items()}
    found: dict[str, Scored] = {}
    for name, logits_B in logits.items():
        own, predicts = batch.weights[name], config.named[name].predicts
        weights = np.ones(len(logits_B)) if own is None else own.double().cpu().numpy()
        if predicts == "probability":
            rows = Scored(logits_B.numpy(), positive[name], weights, groups)
        else:
            labels = batch.labels[name].double().cpu().numpy()
            values = predictions(logits_B, predicts).astype(np.float64)
            rows = Scored(values, labels, weights, groups, values=True)
        kept = config.rows_of(name, positive)
        found[name] = rows if kept is None else rows.taken(kept)
    return found
