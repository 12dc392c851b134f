"""Ranking: a logit per labelled row and task, from labelled tables to a checked, exported scorer."""

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import Field, model_validator

from recsys_core import readers
from recsys_core.artifacts import ComponentConfig, Frozen, LabelledData
from recsys_core.artifacts.ranking import ONLY, Predicts, score_columns
from recsys_core.lookup import OneOf

_M = TypeVar("_M")
__all__ = ["ONLY", "Config", "Task", "opened", "score_columns"]
_NAME = re.compile(r"[a-z][a-z0-9_]*")


class Task(Frozen):
    """One of several labels, and what is learned of it."""

    label: str = Field(description="column of what is to be predicted, 0 and 1 (or booleans) unless `predicts` differs")
    predicts: Predicts = Field(
        default="probability",
        description="what the label is and what is learned of it: `probability` of 0 and 1 (or booleans), `value` of "
        "any number, `amount` of a number from 0 on; the loss is one of that",
    )
    given: str | None = Field(
        default=None,
        description="an earlier task: the rows of this one are the positive ones of that, and in others its label may "
        "be null",
    )
    space: Literal["given", "all"] = Field(
        default="given",
        description="rows that a task with a `given` learns from: its own, or `all`, by the chance that what it is "
        "given happens and it too (Ma et al. 2018, ESMM, section 2.2); it is measured on its own",
    )
    weight: float = Field(default=1.0, gt=0, description="of its loss in the sum of all")
    loss: Annotated[ComponentConfig, OneOf("recsys_core.losses", default="binary_cross_entropy")] | None = Field(
        default=None, description="null: the section `loss`"
    )
    sample_weight: str | None = Field(
        default=None, description="column of weights ≥ 0 of rows in this task; null: ranking.sample_weight"
    )


class Config(Frozen):
    """YAML section `ranking`: what the columns of labelled tables mean; a config that has it is a ranking one."""

    label: str = Field(
        default="label",
        description="column of what is to be predicted; with `tasks` it is the first one's",
    )
    predicts: Predicts = Field(default="probability", description="see tasks.NAME.predicts; of the one `label`")
    tasks: dict[str, Task] = Field(
        default={},
        description="several labels, by the names that the model's outputs have; by the first one training is stopped, "
        "and the gate decides unless `gate.task` names another; {}: the one `label`",
    )
    task_weights: Literal["fixed", "uncertainty"] = Field(
        default="fixed",
        description="how the tasks' losses are added up: each times its `weight`, or each over a variance that is "
        "learned with the model, so that a noisier task counts less (Kendall et al. 2018, section 3.2)",
    )
    sample_weight: str | None = Field(
        default=None, description="column of weights ≥ 0 of training rows; null: rows count alike"
    )
    group: str | None = Field(
        default=None, description="column by which GAUC groups the evaluated rows, such as user_id; null: no GAUC"
    )
    item: str | None = Field(
        default=None,
        description="column of what a row offers, such as item_id, for the gate's baseline `item_rate` and slice "
        "`cold_items` of a daily config",
    )

    @model_validator(mode="before")
    @classmethod
    def _label_of_first(cls, section: Any) -> Any:
        tasks = section.get("tasks") if isinstance(section, dict) else None
        first = next(iter(tasks.values()), None) if isinstance(tasks, dict) and "label" not in section else None
        label = first.get("label") if isinstance(first, dict) else getattr(first, "label", None)
        return section if label is None else section | {"label": label}

    @model_validator(mode="after")
    def _tasks_agree(self) -> Self:
        if len(self.tasks) == 1:
            raise ValueError("tasks: there is one; name its column in label, and leave tasks out")
        for name in self.tasks:
            self._agrees(name)
        if self.task_weights == "uncertainty" and not self.tasks:
            raise ValueError(
                "task_weights: uncertainty, and there is one label; name several in tasks, or leave it out"
            )
        if self.tasks and self.predicts != "probability":
            raise ValueError(f"predicts: {self.predicts}, and tasks have their own; leave it out")
        if self.tasks and self.label != self.named[next(iter(self.tasks))].label:
            raise ValueError(f"label: {self.label!r}, and tasks have labels of their own; leave it out")
        return self

    def _agrees(self, name: str) -> None:
        """Check one task, and that those it builds on stand before it."""
        task, earlier = self.tasks[name], [*self.tasks][: [*self.tasks].index(name)]
        if not _NAME.fullmatch(name):
            raise ValueError(f"tasks: {name!r} is to be part of columns' names; use a to z, 0 to 9 and _")
        if task.given is not None and task.given not in earlier:
            known = f"those before it are {', '.join(earlier)}" if earlier else "it is the first, of all rows"
            raise ValueError(f"tasks.{name}.given: {task.given!r} is no earlier task ({known}); name one, or null")
        if task.given is not None and self.tasks[task.given].predicts != "probability":
            raise ValueError(f"tasks.{name}.given: {task.given!r} predicts no probability, so nothing is given it")
        if task.space == "all" and task.predicts != "probability":
            raise ValueError(f"tasks.{name}.space: all, and it predicts no probability; leave it out")
        if task.space == "all" and task.given is None:
            raise ValueError(f"tasks.{name}.space: all, and given is null; name a task there, or leave it out")
        if task.weight != 1 and self.task_weights == "uncertainty":
            raise ValueError(
                f"tasks.{name}.weight: {task.weight}, and task_weights: uncertainty learns it; leave one out"
            )

    @property
    def named(self) -> dict[str, Task]:
        """The tasks by name, the first one first; of a config with one label it is called `ONLY`."""
        return self.tasks or {ONLY: Task(label=self.label, predicts=self.predicts)}

    @property
    def label_columns(self) -> tuple[str, ...]:
        """The columns of all labels, each once."""
        return tuple(dict.fromkeys(task.label for task in self.named.values()))

    @property
    def weight_columns(self) -> dict[str, str]:
        """The columns of sample weights, each once, with the key of the config that names it."""
        found = {task.sample_weight: f"ranking.tasks.{name}.sample_weight" for name, task in self.tasks.items()}
        found |= {self.sample_weight: "ranking.sample_weight"}
        return {column: key for column, key in found.items() if column is not None}

    def weight_column(self, task: str) -> str | None:
        """Return the column of a task's sample weights, None where its rows count alike."""
        return self.named[task].sample_weight or self.sample_weight

    def label_key(self, task: str) -> str:
        """Return the key of the config that names a task's label."""
        return "ranking.label" if task == ONLY else f"ranking.tasks.{task}.label"

    @property
    def outputs(self) -> tuple[Predicts, ...]:
        """What each output of a model stands for; none where all are logits of probabilities."""
        found: tuple[Predicts, ...] = tuple(task.predicts for task in self.named.values())
        return found if {*found} != {"probability"} else ()

    def columns_of(self, task: str) -> tuple[str, str]:
        """Return what the columns of a task's output and of what it predicts are called."""
        return score_columns(task, self.named[task].predicts)

    def given(self, task: str) -> tuple[str, ...]:
        """Return a task with those that it is given, directly or not, the earliest one first."""
        before = self.named[task].given
        return (task,) if before is None else (*self.given(before), task)

    def rows_of(self, task: str, positive: Mapping[str, _M]) -> _M | None:
        """Return which rows are a task's sample space, None for all; `positive` has bool [B] by task."""
        given = self.named[task].given
        if given is None:
            return None
        before: Any = self.rows_of(given, positive)
        return positive[given] if before is None else before & positive[given]


def opened(data: LabelledData, split: str) -> readers.Reader:
    """Open the rows of a split.

    Raises:
        ValueError: it has not the rows that were checked.
    """
    options, folders = readers.CsvOptions.model_validate(data.csv or {}), data.folders(split)
    reader, (checked,) = readers.opened(folders, options), (p for p in data.splits if p.name == split)
    if reader.num_rows != checked.num_rows:
        raise ValueError(
            f"{', '.join(map(str, folders))}: {reader.num_rows} rows where prepare checked {checked.num_rows}; the "
            "split has changed since, so run again"
        )
    return reader
