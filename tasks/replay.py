"""Ask the new model, and the live one, for requests that a service has logged; the gate has conditions on it."""

import tempfile
from pathlib import Path
from typing import Any

from recsys_core import launch, registry
from recsys_core.artifacts import ReplayedLog
from recsys_core.progress import Sink
from recsys_core.ranking import publish as ranking
from recsys_core.registry.bundle import Bundle
from recsys_core.retrieval import publish as retrieval
from tasks.perform import AnyRun, Candidate, RankingCandidate, RankingRun, Run, perform, stage_task
from tasks.score import HELD_OUT


def replay(run: Run, candidate: Candidate) -> ReplayedLog | None:
    """Return how the new model answers; where the gate has no condition on it there is no task, and None."""
    return None if run.config.gate.replay is None else replay_towers(run, candidate)


def replay_ranker(run: RankingRun, candidate: RankingCandidate) -> ReplayedLog | None:
    """Return how the new ranking model answers; see `replay`."""
    return None if run.config.gate.replay is None else replay_scorer(run, candidate)


@stage_task("replay")
def replay_towers(run: Run, candidate: Candidate) -> ReplayedLog:
    """Return how the two towers and their index answer."""
    model, index, config = candidate.model, candidate.index, run.config
    kept = retrieval.queries(model, candidate.data, candidate.embeddings, config.publish.num_queries)
    bundle = retrieval.Bundle(model, index, kept, mask_seen=config.hitrate.mask_seen, items=candidate.data.items)
    return _replayed(run, "replay", bundle, f"{model.digest} {index.digest}")


@stage_task("replay")
def replay_scorer(run: RankingRun, candidate: RankingCandidate) -> ReplayedLog:
    """Return how the ranking model scores."""
    model, num_rows = candidate.model, run.config.publish.num_rows
    rows, scores = ranking.examples(model, candidate.data, HELD_OUT, candidate.scores, num_rows)
    return _replayed(run, "rank_replay", ranking.Bundle(model, rows, scores), model.digest)


def _replayed(run: AnyRun[Any], stage: str, bundle: Bundle, digest: str) -> ReplayedLog:
    # What serving imports is not needed by days without a replay.
    from recsys_core.serving import replay as answering
    from recsys_core.serving.service import watch

    config = run.config.gate.replay
    run.tracker.require()
    live = registry.champion(run.tracker.uri, run.config.name)
    champion = None
    if live is not None:
        champion = watch.fetched(live, run.tracker.uri, (run.config.run_root / "serving").resolve())
    request = run.request(
        answering.Request,
        "replay",
        log=config.log,
        files=answering.newest(config.log, config.requests),
        num_requests=config.requests,
        bundle=run.directory / "replay",
        bundle_digest=digest,
        champion=champion,
        champion_digest=None if live is None else live.bundle_digest,
    )

    def work(asked: answering.Request, sink: Sink) -> ReplayedLog:
        if not asked.files:
            return answering.run(asked, sink)
        with tempfile.TemporaryDirectory(prefix=".replay-", dir=run.directory) as aside:
            bundle.fill(Path(aside))
            asked = asked.model_copy(update={"bundle": Path(aside)})
            return launch.run(stage, ReplayedLog, asked, sink, config=launch.alone(run.config.launch))

    return perform(run, "replay", ReplayedLog, request, work)
