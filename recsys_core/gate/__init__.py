"""The gate: whether an evaluated model may go live, and why (not), in sentences for the engineer on call."""

from recsys_core.artifacts import Evaluation, Frozen, RankingEvaluation, ReplayedLog
from recsys_core.gate import ranking, replay, retrieval
from recsys_core.gate.conditions import Condition
from recsys_core.gate.limits import Slice
from recsys_core.gate.parts import COLD_ITEMS, NEW_USERS, Part, Values, matching
from recsys_core.gate.ranking import Config as RankingConfig
from recsys_core.gate.retrieval import Config

__all__ = [
    "COLD_ITEMS",
    "NEW_USERS",
    "Condition",
    "Config",
    "Decision",
    "Part",
    "RankingConfig",
    "Slice",
    "Values",
    "decide",
    "matching",
]

# Limits of these keys say whether a model is good; the index's recall and the calibration do not.
_OF_QUALITY = {"gate.minimum", "gate.maximum", "gate.minimum_lift", "gate.maximum_drop"}


class Decision(Frozen):
    """`passed`, and why: the conditions that failed, or, if none did, those that held; and all `conditions`."""

    passed: bool
    reasons: tuple[str, ...]
    conditions: tuple[Condition, ...] = ()


def decide(
    config: Config | RankingConfig,
    evaluation: Evaluation | RankingEvaluation,
    replayed: ReplayedLog | None = None,
) -> Decision:
    """Hold `evaluation`, and what was `replayed`, against every condition of `config`, the one of its product.

    A comparison with the champion that chance may have made is no reason for either: the other conditions decide. If
    none of them holds either, nothing speaks for the model, and it does not pass.

    Raises:
        ValueError: a metric that `config` names was not measured.
    """
    if isinstance(config, Config):
        assert isinstance(evaluation, Evaluation)
        found = retrieval.conditions(config, evaluation)
    else:
        assert isinstance(evaluation, RankingEvaluation)
        found = ranking.conditions(config, evaluation)
    if config.replay is not None:
        assert replayed is not None, "what the gate asks for is replayed"
        found += replay.conditions(config.replay, replayed)
    return _decision(found, abstains=config.unclear == "abstain")


def _decision(found: list[Condition], *, abstains: bool) -> Decision:
    turned_down = (False,) if abstains else (False, None)
    failed = [condition.sentence for condition in found if condition.held in turned_down]
    open_ones = [c.sentence for c in found if c.held is None and c.key in _OF_QUALITY]
    if not failed and open_ones and not any(c.held and c.key in _OF_QUALITY for c in found):
        failed = [*open_ones, "No other limit on the metric is set, so nothing speaks for the model."]
    reasons = failed or [condition.sentence for condition in found]
    return Decision(passed=not failed, reasons=tuple(reasons), conditions=tuple(found))
