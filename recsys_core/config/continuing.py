"""What a config would change of the release that it continues: found before any data is read."""

from recsys_core import models
from recsys_core.artifacts import Checkpoint
from recsys_core.config import RankingConfig, RunConfig
from recsys_core.features import Engine, differences


def is_alike(config: RunConfig | RankingConfig, base: Checkpoint, before: Engine) -> bool:
    """Whether nothing differs, as on most days: it is seen without torch, in what `base` says of itself."""
    if base.architecture is None:
        return False
    try:
        now = Engine.build(config.features, base=before)
    except ValueError:
        return False  # `changes` says what differs
    alike = base.architecture == models.architecture(config.model, now, *config.train.optimizers)
    return alike and not differences(before, now)


def changes(config: RunConfig | RankingConfig, base: Checkpoint, before: Engine) -> list[str]:
    """Return in words what differs: features, tables, dense weights and the optimizers' kinds; none: all is the same.

    `before` are the features that `base` was trained with.

    Raises:
        ValueError: there is something that cannot be taken over, and `train.on_change` does not say to start cold.
    """
    try:
        now = Engine.build(config.features, base=before)
    except ValueError as error:
        if config.train.on_change == "cold":
            return [str(error)]
        raise

    # They take torch, which takes seconds.
    from recsys_core.checkpoint import carrying
    from recsys_core.models.base import RankingModel, RetrievalModel

    def built(engine: Engine) -> RetrievalModel | RankingModel:
        if isinstance(config, RunConfig):
            return models.build(config.model, engine, RetrievalModel, tables_device="meta")
        return models.build(config.model, engine, RankingModel, tables_device="meta")

    def layout(engine: Engine) -> carrying.Layout:
        return built(engine).layout()

    model = built(now)
    source = carrying.source(base.state, (before, now), model.layout(), layout)
    train, weights = config.train, model.state_dict()
    kinds = train.optimizers if train.restore_optimizer else None
    found = source.changes(weights, kinds)
    if found and train.on_change == "carry" and not source.has_any(weights):
        raise ValueError(
            f"{carrying.nothing(found)}; start cold with train.on_change: cold, or give the model a new name"
        )
    return found
