"""The hit rate stage: a model's full ranking of one day's ground truth, next to what it must beat.

Measured on the same queries, the same items and the same mask: the model by exact search and by the index that would
go live, the baselines (popularity of the whole log and of its last days, item-item cosine, what follows what), and the
champion's vectors by exact search.
"""

import json

import numpy as np

from recsys_core import artifacts, indexes, readers
from recsys_core.artifacts import Evaluation, Index, Split, TrainingData
from recsys_core.metrics.retrieval import Cut, Lists, Tally, popularity_buckets
from recsys_core.progress import Event, Sink
from recsys_core.retrieval import vectors
from recsys_core.retrieval.baselines import ItemItem, Markov, count_recent, last_items, read_history
from recsys_core.retrieval.ease import Ease
from recsys_core.retrieval.hit_rate import contenders as _day
from recsys_core.retrieval.hit_rate.contenders import Block, Day
from recsys_core.retrieval.hit_rate.parts import differences, entries, part
from recsys_core.retrieval.hit_rate.records import Details, ground_truth_digest, protocol
from recsys_core.retrieval.hit_rate.sweep import Exact, rows_of, sweep
from recsys_core.retrieval.requests import HitRateConfig as Config
from recsys_core.retrieval.requests import HitRateRequest as Request
from recsys_core.retrieval.vectors import Items


def run(request: Request, sink: Sink) -> Evaluation:
    """Measure the embeddings; writes `details.parquet` (a row per query) and `sweep.json` beside the record.

    Raises:
        ValueError: vectors that cannot be ranked, ground truth that is empty, or an index, an item table or a
            champion that is not of these items and queries; names which.
    """
    config = request.config
    items = vectors.read_items(request.embeddings.items)
    queries = vectors.read_queries(request.embeddings.queries, items.ids)
    index = _read_index(request.index, items)
    num_interactions = _num_interactions(request.data, items)
    num_queries, num_items = len(queries.users), len(items.ids)
    with_ease = config.ease is not None and num_items <= config.ease.max_items
    of_log = 0 if request.dataset is None else 3 + with_ease
    total = num_queries * (3 + of_log + (request.champion is not None))
    done = 0

    def tick(phase: str, num_rows: int) -> None:
        nonlocal done
        done += num_rows
        sink(Event(stage="hitrate", done=done, total=total, message=phase))

    nothing = Lists(np.empty(0, np.int64), np.zeros(num_queries + 1, np.int64))
    day = Day(config.ks, items.ids, queries, queries.seen if config.mask_seen else nothing, tick)
    rows = rows_of(config.num_sweep_queries, num_queries)
    with artifacts.pending(request.output) as aside:
        with Details(aside.path / "details.parquet", day) as details:
            exact, cut, lists = _exact(day, items, details, rows)
        approximate, recalls = _approximate(day, index, items, exact, cut)
        swept = sweep(
            day.take(rows)._replace(tick=lambda phase, _: tick(phase, 0)),
            request.index.kind,
            index,
            _day.Held.of(items.vectors),
            config.sweep,
            Exact(exact.ranked.take(rows), Cut(cut.scores[rows], cut.counts[rows]), lists),
            (approximate.ranked.take(rows), recalls[rows]),
        )
        artifacts.write_text(aside.path / "sweep.json", json.dumps(swept, indent=2))
        popularity = day.measure(_day.popularity(num_interactions, num_queries), "popularity")
        learned, learned_from = _of_log(request, day)
        champion = day.measure(_day.of_champion(request.champion, day), "champion") if request.champion else None
        live, slices = champion.ranked if champion else None, {}
        for name, asked in request.parts.items():
            kept = entries(name, asked, day, request.data, num_interactions)
            slices[name] = part(exact.ranked, live, kept, config.ks, request.confidence)
        evaluation = aside.commit(
            Evaluation,
            request,
            num_rows=num_queries,
            day=request.data.day,
            ground_truth_day=request.data.ground_truth_day,
            ground_truth_digest=ground_truth_digest(request.embeddings.queries),
            num_queries=num_queries,
            num_ground_truth=len(queries.truth.values),
            num_items=num_items,
            protocol=protocol(day, _split(request), request.index.factory, learned_from),
            exact=exact.metrics(),
            approximate=approximate.metrics(),
            popularity=popularity.metrics(),
            item_item=learned["item_item"].metrics() if learned else None,
            recent_popularity=learned["recent_popularity"].metrics() if learned else None,
            markov=learned["markov"].metrics() if learned else None,
            ease=learned["ease"].metrics() if "ease" in learned else None,
            champion=champion.metrics() if champion else None,
            ann_recall=day.means(recalls),
            ann_recall_by_nprobe={str(point["value"]): point["ann_recall"] for point in swept["points"]},
            hit_rate_by_popularity=_by_popularity(config, exact, num_interactions),
            differences=differences(exact.ranked, live, config.ks, request.confidence),
            slices=slices,
        )
    rates = {f"hit_rate_at_{k}": rate for k, rate in evaluation.exact.hit_rate.items()}
    sink(Event(stage="hitrate", done=done, total=total, metrics=rates))
    return evaluation


def _of_log(request: Request, day: Day) -> tuple[dict[str, Tally], str]:
    """Measure the baselines that learn from the log, by their fields of `Evaluation`, and say what they learned."""
    config, num_items = request.config, len(day.items)
    if request.dataset is None:
        return {}, "the other baselines: none, as there is no log"
    dataset, at, held_out = request.dataset, request.data.day, request.holdout
    counts = count_recent(dataset, at, day.items, config.popularity_days, held_out)
    history = read_history(dataset, at, day.items, config.item_item_interactions, held_out)
    cosine = ItemItem(history.users, history.items, num_items, config.item_item_history)
    markov = Markov(history.users, history.items, num_items, config.markov_span, config.markov_decay)
    last = last_items(history, day.queries.users, num_items, config.markov_span, config.markov_decay)
    found = {
        "recent_popularity": day.measure(_day.popularity(counts, len(day.queries.users)), "recent popularity"),
        "item_item": day.measure(_day.item_item(cosine, day.queries.seen, num_items), "item-item"),
        "markov": day.measure(_day.by_history(markov, last), "Markov"),
    }
    ease = ""
    if config.ease is not None and num_items > config.ease.max_items:
        ease = f"; EASE: none, as there are {num_items} items and hitrate.ease.max_items is {config.ease.max_items}"
    elif config.ease is not None:
        table = Ease(history.users, history.items, num_items, config.ease.regularization)
        found["ease"] = day.measure(_day.item_item(table, day.queries.seen, num_items), "EASE")
        ease = f"; EASE: of the same interactions, regularization {config.ease.regularization:g}"
    return found, (
        f"recent popularity: interactions of the last {config.popularity_days} days; item-item: cosine over users of "
        f"the log ({len(history.users)} interactions, each user's last {config.item_item_history}), summed over the "
        f"query's seen items, and nothing for a query without any; Markov: what of these interactions followed an item "
        f"within {config.markov_span}, weighted by {config.markov_decay}^(distance - 1), summed over the user's last "
        f"{config.markov_span} items by the same weights{ease}"
    )


def _exact(day: Day, items: Items, details: Details, rows: np.ndarray) -> tuple[Tally, Cut, np.ndarray]:
    """Search exactly; return also where the lists end, and the lists of the queries `rows`, which rise."""
    shape = (len(day.queries.users), len(day.ks))
    cut = Cut(np.empty(shape, np.float32), np.empty(shape, np.int64))
    lists = np.empty((len(rows), max(day.ks) + 1), np.int64)
    at = np.full(len(day.queries.users), -1)
    at[rows] = np.arange(len(rows))

    def observe(block: Block) -> None:
        details.write(block)
        cut.scores[block.rows], cut.counts[block.rows] = Cut.of(block.ids, block.scores, day.ks)
        kept = at[block.rows] >= 0
        lists[at[block.rows[kept]]] = block.ids[kept]

    return (
        day.measure(_day.exact(_day.Held.of(items.vectors), day.queries.vectors), "exact search", observe),
        cut,
        lists,
    )


def _approximate(day: Day, index: indexes.Index, items: Items, exact: Tally, cut: Cut) -> tuple[Tally, np.ndarray]:
    """Search the index; a flat one of these very vectors is what exact search has searched."""
    num_queries = len(day.queries.users)
    if index.holds(items.vectors):
        day.tick("approximate search", num_queries)
        return exact, np.ones((num_queries, len(day.ks)))
    return day.compare(
        _day.by_index(index, _day.Held.of(items.vectors), day.queries.vectors), cut, "approximate search"
    )


def _split(request: Request) -> str:
    held_out, num_tied = request.holdout, request.data.num_tied
    if not isinstance(held_out, Split):
        return ""
    learned = "learned from" if held_out.learns_validation else "known, but not learned from"
    validation = f"; validation rows are {learned}" if held_out.part == "test" else ", and test rows are left out"
    return (
        f"Split of the whole log ({held_out.kind}): measured on its {held_out.part} rows{validation}; {num_tied} of "
        "them would be others in another order of the log's files among interactions of one second. "
    )


def _read_index(record: Index, items: Items) -> indexes.Index:
    index = indexes.load(record.path)
    if not index.ids.equals(items.ids):
        raise ValueError(f"{record.path}: an index of other items than the embeddings; run the index stage again")
    if index.dim != items.vectors.shape[1]:
        raise ValueError(
            f"{record.path}: an index of {index.dim} dimensions where the embeddings have "
            f"{items.vectors.shape[1]}; run the index stage again"
        )
    return index


def _num_interactions(data: TrainingData, items: Items) -> np.ndarray:
    table = readers.read_all(readers.opened(data.items), ["item_id", "num_interactions"])
    rows = _day.align(table["item_id"].combine_chunks(), items.ids, f"{data.items}: the item table's ids")
    return table["num_interactions"].to_numpy().astype(np.int64)[rows]


def _by_popularity(config: Config, exact: Tally, num_interactions: np.ndarray) -> dict[str, float]:
    bucket, labels = popularity_buckets(num_interactions, config.num_popularity_buckets)
    known = exact.truth.values >= 0
    bucket_N = bucket[exact.truth.values[known]]
    hit_N = exact.ranks_N[known] <= (config.popularity_k or config.ks[len(config.ks) // 2])
    return {
        label: float(hit_N[bucket_N == number].mean())
        for number, label in enumerate(labels)
        if (bucket_N == number).any()
    }
