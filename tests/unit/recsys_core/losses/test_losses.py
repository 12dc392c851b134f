"""A loss is found by its kind, and only where what it judges is there to be judged."""

import pytest
import torch
from pydantic import ValidationError

from recsys_core import losses
from recsys_core.config import RankingConfig, RunConfig, building
from recsys_core.losses import binary_cross_entropy, sampled_softmax
from recsys_core.losses.base import RankingLoss, RetrievalLoss
from recsys_core.losses.binary_cross_entropy.loss import Loss as BinaryCrossEntropy
from recsys_core.losses.sampled_softmax.loss import Loss as SampledSoftmax

_USER = {"kind": "id", "name": "user", "num_embeddings": 8}
_ITEM = {"kind": "id", "name": "item_id", "num_embeddings": 8}
_SHARED = {"name": "m", "features": {"embedding_dim": 4, "query": [_USER], "item": [_ITEM]}}
RETRIEVAL = _SHARED | {"data": {"kind": "daily", "source": "d"}, "model": {"kind": "two_tower"}, "sampler": {}}
RANKING = _SHARED | {"data": {"kind": "splits", "source": "d", "day": "2024-01-01"}, "model": {"kind": "dlrm"}}
RANKING |= {"ranking": {}}


@pytest.mark.parametrize(
    ("record", "sections", "own", "other"),
    [
        (RunConfig, RETRIEVAL, sampled_softmax.Config(), "binary_cross_entropy"),
        (RankingConfig, RANKING, binary_cross_entropy.Config(), "sampled_softmax"),
    ],
)
def test_a_config_has_its_product_s_loss_and_no_other(record, sections, own, other):
    config = record.model_validate(sections)
    assert config.loss == own
    assert record.model_validate_json(config.model_dump_json()) == config
    assert record.model_validate(sections | {"loss": {}}).loss == own
    with pytest.raises(ValueError, match=f"loss.kind '{other}': not a loss that .*; use one of .*{own.kind}"):
        building.check(record.model_validate(sections | {"loss": {"kind": other}}))
    with pytest.raises(
        ValidationError, match="losses: unknown kind 'binary_crossentropy'.* did you mean 'binary_cross"
    ):
        record.model_validate(sections | {"loss": {"kind": "binary_crossentropy"}})


@pytest.mark.parametrize("loss", [{"kind": "bpr"}, {"kind": "weighted", "parts": [{"loss": {"kind": "jrc"}}]}])
def test_a_loss_of_groups_needs_groups(loss):
    message = f"loss.kind {loss['kind']}: compares rows of one group, and ranking.group is null; name the column"
    with pytest.raises(ValueError, match=message):
        building.check(RankingConfig.model_validate(RANKING | {"loss": loss}))
    tasks = {"a": {"label": "a"}, "b": {"label": "b", "loss": loss}}
    with pytest.raises(ValueError, match=message):
        building.check(RankingConfig.model_validate(RANKING | {"ranking": {"tasks": tasks}}))
    building.check(RankingConfig.model_validate(RANKING | {"loss": loss, "ranking": {"group": "user"}}))


def test_a_loss_is_built_by_its_contract():
    assert isinstance(losses.build(binary_cross_entropy.Config(), RankingLoss), BinaryCrossEntropy)
    with pytest.raises(ValueError, match="not a loss that judges the logits of labelled rows"):
        losses.build(sampled_softmax.Config(), RankingLoss)


def test_a_retrieval_loss_of_logits_alone_adds_up_its_rows():
    class Hinge(SampledSoftmax):
        total = RetrievalLoss.total

        def of_logits(self, positive_B, negative_BN):
            return (1 - positive_B[:, None] + negative_BN).clamp(min=0).sum(dim=1)

    hinge = Hinge(sampled_softmax.Config(temperature=1.0))
    query, item = torch.tensor([[1.0], [2.0]]), torch.tensor([[1.0], [1.0], [0.5]])
    # Positives 1 and 2; the negative has .5 and 1: 1 - 1 + .5 and 1 - 2 + 1.
    asked = query, item, torch.tensor([0, 1, 2]), torch.zeros(3)
    assert hinge(*asked).tolist() == [0.5, 0.0]
    assert hinge.total(*asked).item() == 0.5
