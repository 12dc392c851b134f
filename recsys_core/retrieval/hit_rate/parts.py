"""How far a model is from the champion, on a day's ground truth and on parts of it, with intervals over the users."""

from collections.abc import Sequence

import numpy as np

from recsys_core import gate, readers
from recsys_core.artifacts import Difference, RetrievalSlice, TrainingData
from recsys_core.metrics import bootstrap
from recsys_core.metrics.bootstrap import quotient
from recsys_core.metrics.retrieval import Ranked
from recsys_core.retrieval.hit_rate.contenders import Day, align


def differences(model: Ranked, champion: Ranked | None, ks: Sequence[int], confidence: float) -> dict[str, Difference]:
    """Return the difference of each metric at each K, named `hit_rate@50`; none without a champion.

    Users are drawn, each with all of its ground truth.
    """
    if champion is None:
        return {}
    pairs = {}
    for k in ks:
        theirs = champion.sums(k)
        for name, sums in model.sums(k).items():
            pairs[f"{name}@{k}"] = (quotient(*sums), quotient(*theirs[name]))
    return bootstrap.differences(pairs, len(model.truth.lengths), confidence)


def part(
    model: Ranked, champion: Ranked | None, kept: np.ndarray, ks: Sequence[int], confidence: float
) -> RetrievalSlice:
    """Measure the model and the champion on the entries of the ground truth that are `kept`, bool [N]."""
    if not kept.any():
        return RetrievalSlice(num_queries=0, num_ground_truth=0, exact=None, champion=None, differences={})
    mine, theirs = model.part(kept), champion.part(kept) if champion else None
    return RetrievalSlice(
        num_queries=len(mine.truth.lengths),
        num_ground_truth=len(mine.truth.values),
        exact=mine.metrics(ks),
        champion=theirs.metrics(ks) if theirs else None,
        differences=differences(mine, theirs, ks, confidence),
    )


def entries(name: str, asked: gate.Part, day: Day, data: TrainingData, num_interactions_I: np.ndarray) -> np.ndarray:
    """Return which entries of the ground truth a part has, bool [N].

    A user is new that has seen nothing; an item is cold that has no interactions in the item table, or is not in it.
    Another part is of the users whose column has the value, or else of the items of which that is so.

    Raises:
        ValueError: neither users nor items have the column, both have it, or its values are of another type.
    """
    truth = day.queries.truth
    inside = truth.values >= 0
    if asked.column is None:
        if name == gate.NEW_USERS:
            return (day.queries.seen.lengths == 0)[truth.owners]
        return ~inside | (num_interactions_I[truth.values] == 0)
    users, items = readers.opened(data.ground_truth), readers.opened(data.items)
    there = [asked.column in reader.schema.names for reader in (users, items)]
    key = f"gate.slices.{name}"
    if sum(there) != 1:
        found = "both the users and the items have" if all(there) else "neither the users nor the items have"
        names = ", ".join(dict.fromkeys([*users.schema.names, *items.schema.names]))
        raise ValueError(
            f"{key}.column: {found} a column {asked.column!r}; name one that only one of them has, of {names}"
        )
    if there[0]:
        table = readers.read_all(users, ["user_id", asked.column])
        at = align(table["user_id"].combine_chunks(), day.queries.users, f"{data.ground_truth}: the users")
        return gate.matching(table[asked.column], asked, key)[at][truth.owners]
    table = readers.read_all(items, ["item_id", asked.column])
    at = align(table["item_id"].combine_chunks(), day.items, f"{data.items}: the items")
    return inside & gate.matching(table[asked.column], asked, key)[at][truth.values]
