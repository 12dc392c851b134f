"""What ranking models with one head share: how features are looked up, and which are refused.

Legend: B examples, P pooled widths, F dense fields.
"""

from abc import abstractmethod
from typing import ClassVar, Generic, TypeVar

import torch
from torch import nn

from recsys_core.artifacts import ComponentConfig
from recsys_core.features import TableSpec
from recsys_core.models import base
from recsys_core.models.blocks import behaviours, layout
from recsys_core.models.blocks.embeddings import Embeddings
from recsys_core.models.blocks.sections import Sequential

Settings = TypeVar("Settings", bound=ComponentConfig)
SequentialSettings = TypeVar("SequentialSettings", bound=Sequential)


class PooledModel(base.RankingModel, Generic[Settings]):
    """Pooled features and dense fields of query and item alike; a kind says what its head makes of them.

    Attributes:
        num_dense: F.
        num_inputs: P + F.
    """

    def __init__(
        self,
        config: Settings,
        tables: tuple[TableSpec, ...],
        query: base.TowerInputs,
        item: base.TowerInputs,
        *,
        tables_device: torch.device,
    ) -> None:
        """Build on the CPU; tables on `tables_device` (`meta` where they are to be sharded).

        Raises:
            ValueError: a sequence that is not pooled; or see `make_head` of the kind.
        """
        super().__init__()
        self.tables = Embeddings(tables, {"query": query.sparse, "item": item.sparse}, tables_device)
        self.tables.require_pooled(config.kind)
        self._dense = (*query.dense, *item.dense)
        self.num_dense = query.num_dense + item.num_dense
        self.num_inputs = sum(self.tables.pooled_widths) + self.num_dense
        self.head = self.make_head(config)

    @abstractmethod
    def make_head(self, config: Settings) -> nn.Module:
        """Return the head, (pooled [B, P], dense [B, F], unused lists) → logits [B]; the tables are there by now."""

    def inputs(self) -> layout.Axis:
        """Return what [pooled, dense] [B, P + F] stands for."""
        return layout.pooled(self.tables.pooled_features, self.tables.pooled_widths) + layout.numbers(self._dense)


class BehaviourModel(base.RankingModel, Generic[SequentialSettings]):
    """Features of query and item alike, and one set of behaviour sequences, `model.behaviours`."""

    reads_number_sequences: ClassVar[bool] = True

    def __init__(
        self,
        config: SequentialSettings,
        tables: tuple[TableSpec, ...],
        query: base.TowerInputs,
        item: base.TowerInputs,
        *,
        tables_device: torch.device,
    ) -> None:
        """Build on the CPU; tables on `tables_device` (`meta` where they are to be sharded).

        Raises:
            ValueError: a sequence or a target is not there or not of its kind; or see `make_head` of the kind.
        """
        super().__init__()
        self.tables = Embeddings(tables, {"query": query.sparse, "item": item.sparse}, tables_device)
        self._dense, numbers = (*query.dense, *item.dense), (*query.numbers, *item.numbers)
        places = behaviours.places("model.behaviours", config.behaviours, self.tables, self._dense, numbers)
        behaviours.refuse_unread("model.behaviours", config.behaviours.sequences, self.tables, numbers)
        self.head = self.make_head(places, config)

    @abstractmethod
    def make_head(self, places: behaviours.Places, config: SequentialSettings) -> nn.Module:
        """Return the head; see `base.RankingModel`. Its MLP `deep` reads [pooled, dense] first."""

    def of_head(self, behind: layout.Axis) -> layout.Layout:
        """Return the layout of the head, whose `deep` reads `behind` after the pooled features and dense fields."""
        inputs = layout.pooled(self.tables.pooled_features, self.tables.pooled_widths) + layout.numbers(self._dense)
        # A behaviour's numbers are read together from the first layer on: they mean the same as long as all do.
        found = behaviours.of_hidden("head", self.head, "deep")
        return found | layout.of_mlp("head.deep", self.head.get_submodule("deep"), inputs + behind)
