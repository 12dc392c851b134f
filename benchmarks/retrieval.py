"""Full-ranking retrieval against the ways one would write it first, on the same queries, in one run.

    python benchmarks/retrieval.py [--items N] [--queries N] [--dim N] [--seed N] [--json FILE]

Every case answers the same queries twice: as the hit rate stage does it, and naively. The answers are compared before
any time is printed. Times are the best of three, taken in turns; the ratio is ours over the naive one, in queries per
second.
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from scipy import sparse

from recsys_core.metrics.retrieval import Lists, Tally, keep_unseen
from recsys_core.retrieval.baselines import ItemItem
from recsys_core.retrieval.hit_rate.contenders import Held, exact, item_item
from recsys_core.retrieval.vectors import masked_lists

K = 200
_REPEATS = 3


class World:
    """Random unit vectors, and histories whose lengths fall off as a shop's do: many short ones, few long."""

    def __init__(self, num_items: int, num_queries: int, dim: int, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.items, self.queries = (self._unit(rng, n, dim) for n in (num_items, num_queries))
        lengths = np.minimum(rng.geometric(0.14, num_queries), num_items // 4)
        self.num_items = num_items
        self.seen = self._lists(rng, lengths, num_items)
        self.truth = self._lists(rng, np.minimum(rng.geometric(0.6, num_queries), num_items), num_items)

    @staticmethod
    def _unit(rng: np.random.Generator, num_rows: int, dim: int) -> np.ndarray:
        rows = rng.normal(size=(num_rows, dim)).astype(np.float32)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    @staticmethod
    def _lists(rng: np.random.Generator, lengths: np.ndarray, num_items: int) -> Lists:
        """Draw items by a power law, each once per list."""
        owners = np.repeat(np.arange(len(lengths)), lengths)
        drawn = (num_items * rng.random(len(owners)) ** 3).astype(np.int64)
        keys = np.unique(owners * num_items + drawn)
        counts = np.bincount(keys // num_items, minlength=len(lengths))
        return Lists(keys % num_items, np.concatenate([[0], np.cumsum(counts)]))


def exact_search(world: World) -> tuple[Callable, Callable]:
    """Unmasked top K: blocks through FAISS against a matrix product and a full sort of every row."""
    search = exact(Held.of(world.items), world.queries)
    nothing = Lists(np.empty(0, np.int64), np.zeros(len(world.queries) + 1, np.int64))

    def ours() -> np.ndarray:
        found = np.empty((len(world.queries), K), np.int64)
        for rows, ids, _ in masked_lists(search, nothing, world.num_items, K):
            found[rows] = ids
        return found

    def naive() -> np.ndarray:
        blocks = np.array_split(world.queries, max(1, len(world.queries) // 256))
        return np.concatenate([np.argsort(-(block @ world.items.T), axis=1)[:, :K] for block in blocks])

    return ours, naive


def masking(world: World) -> tuple[Callable, Callable]:
    """Take seen items out of retrieved lists: whole blocks against a loop over queries."""
    width = K + int(world.seen.lengths.max())
    rng = np.random.default_rng(0)
    ids = np.stack([rng.permutation(world.num_items)[:width] for _ in range(1_000)])[
        np.arange(len(world.queries)) % 1_000
    ]
    scores = np.broadcast_to(-np.arange(width, dtype=np.float32), ids.shape)

    def ours() -> np.ndarray:
        return keep_unseen(ids, scores, world.seen, K)[0]

    def naive() -> np.ndarray:
        found = np.full((len(ids), K), -1, np.int64)
        for query, row in enumerate(ids):
            seen = set(world.seen.values[world.seen.offsets[query] : world.seen.offsets[query + 1]].tolist())
            kept = [item for item in row.tolist() if item not in seen][:K]
            found[query, : len(kept)] = kept
        return found

    return ours, naive


def metrics(world: World) -> tuple[Callable, Callable]:
    """Hit rate, recall, NDCG, MRR and coverage at K from given lists: whole blocks against a loop over queries."""
    rng = np.random.default_rng(0)
    ids = np.stack([rng.permutation(world.num_items)[: K + 1] for _ in range(1_000)])[
        np.arange(len(world.queries)) % 1_000
    ]
    scores = np.broadcast_to(-np.arange(K + 1, dtype=np.float32), ids.shape)
    rows, exactly = np.arange(len(ids)), np.zeros(len(ids))

    def ours() -> np.ndarray:
        tally = Tally(world.truth, world.num_items, (K,))
        tally.add(rows, ids, scores, exactly)
        return np.array([by_k[str(K)] for by_k in tally.metrics().model_dump().values()])

    def naive() -> np.ndarray:
        found, recall, ndcg, mrr, shown = 0, 0.0, 0.0, 0.0, set()
        for query, row in enumerate(ids):
            wanted = set(world.truth.values[world.truth.offsets[query] : world.truth.offsets[query + 1]].tolist())
            listed = row.tolist()[:K]
            ranks = [rank for rank, item in enumerate(listed, 1) if item in wanted]
            shown.update(listed)
            found += len(ranks)
            recall += len(ranks) / len(wanted)
            ideal = sum(1 / np.log2(rank + 1) for rank in range(1, min(K, len(wanted)) + 1))
            ndcg += sum(1 / np.log2(rank + 1) for rank in ranks) / ideal
            mrr += 1 / ranks[0] if ranks else 0.0
        means = [value / len(ids) for value in (recall, ndcg, mrr)]
        return np.array([found / len(world.truth.values), *means, len(shown) / world.num_items])

    return ours, naive


def item_item_cosine(world: World) -> tuple[Callable, Callable]:
    """Masked top K of the item-item baseline: sparse rows, partitioned, against dense rows sorted in full."""
    baseline = ItemItem(world.seen.owners, world.seen.values, world.num_items, 200)
    search = item_item(baseline, world.seen, world.num_items)
    ones = np.ones(len(world.seen.values), np.float32)
    history = sparse.csr_array(
        (ones, world.seen.values, world.seen.offsets), shape=(len(world.queries), world.num_items)
    )

    def ours() -> np.ndarray:
        best = np.empty((len(world.queries), K), np.float32)
        for rows, _, scores in masked_lists(search, world.seen, world.num_items, K):
            best[rows] = np.where(np.isfinite(scores), scores, 0)
        return best

    def naive() -> np.ndarray:
        best = []
        for rows in np.array_split(np.arange(len(world.queries)), max(1, len(world.queries) // 256)):
            scores = (history[rows] @ baseline.similarity_II).toarray()
            seen = world.seen.take(rows)
            scores[seen.owners, seen.values] = 0
            ids = np.argsort(-scores, axis=1)[:, :K]
            best.append(np.take_along_axis(scores, ids, axis=1))
        return np.concatenate(best)

    return ours, naive


def measure(case: Callable[[World], tuple[Callable, Callable]], world: World) -> dict[str, object]:
    """Run both ways in turns; return a row of the table. Refuses to time answers that differ."""
    ours, naive = case(world)
    best = [float("inf"), float("inf")]
    for _ in range(_REPEATS):
        answers = []
        for number, way in enumerate((ours, naive)):
            start = time.perf_counter()
            answers.append(way())
            best[number] = min(best[number], time.perf_counter() - start)
        # Ids may swap where two scores are a rounding apart.
        same = np.isclose(answers[0], answers[1], rtol=1e-4).mean()
        if same < 0.999:
            raise SystemExit(f"{case.__name__}: only {same:.2%} of the answers agree; their times mean nothing")
    rates = [len(world.queries) / seconds for seconds in best]
    return {
        "case": case.__name__,
        "figure": "queries per second",
        "value": rates[0],
        "unit": "1/s",
        "reference": rates[1],
        "ratio": rates[0] / rates[1],
    }


def main() -> None:
    """Measure every case and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=25_000)
    parser.add_argument("--queries", type=int, default=4_000)
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there too")
    arguments = parser.parse_args()
    world = World(arguments.items, arguments.queries, arguments.dim, arguments.seed)
    print(f"{arguments.queries} queries, {arguments.items} items, {arguments.dim} dimensions, top {K}\n")
    print(f"{'case':<18} {'ours':>12} {'naive':>12}  queries/s  {'ratio':>7}")
    rows = []
    for case in (exact_search, masking, metrics, item_item_cosine):
        rows.append(row := measure(case, world))
        print(f"{row['case']:<18} {row['value']:>12,.0f} {row['reference']:>12,.0f} {row['ratio']:>18.1f}")
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
