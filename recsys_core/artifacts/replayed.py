"""What a model makes of requests that a service has logged."""

from typing import ClassVar

from recsys_core.artifacts.core import Artifact


class ReplayedLog(Artifact):
    """Logged requests, answered by a new model and by the live one, in one process.

    `log` is where they are from, and `champion` the live release, null where there is none: nothing is compared then.
    Of `num_rows` requests of the paths that such a model answers, `unanswered` are refused by the new model alone
    (without a champion: though they were answered when they were logged); `refusal` is the first such reason.
    `compared` are those that both answer with items to choose from: of them `changed` is the share whose best item is
    another, and `overlap` the mean share of the champion's items that come again (null where items are given, and not
    found). `seconds` and `champion_seconds` are the medians of what a request takes alone, in CPU time.
    """

    stage: ClassVar[str] = "replay"

    log: str
    champion: str | None
    unanswered: int
    refusal: str | None
    compared: int
    changed: float | None
    overlap: float | None
    seconds: float | None
    champion_seconds: float | None
