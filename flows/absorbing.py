"""`publish.absorb`: a state that the gate lets pass learns from the rows it was measured on, and is released then."""

from recsys_core.artifacts import Dataset, ExampleLog, HeldOut, LabelledLog
from recsys_core.gate import Decision
from tasks.absorbed import Absorbed, absorbed
from tasks.embed import embed
from tasks.evaluate import evaluate
from tasks.export import export
from tasks.export_ranker import export_ranker
from tasks.index import index
from tasks.measure import loss
from tasks.perform import Candidate, RankingCandidate, RankingRun, Run
from tasks.prepare_days import prepare_days
from tasks.preprocess import preprocess
from tasks.score import score
from tasks.train import train
from tasks.train_ranker import train_ranker


def absorb(
    run: Run, dataset: Dataset | ExampleLog, measured: Candidate, before: HeldOut, decision: Decision
) -> tuple[Candidate, Absorbed | None]:
    """Return what is to be released, and what came of absorbing; the measured state, where nothing is absorbed.

    `before` is how the measured state does on those rows: one that does worse once it has learned from them is not
    released.
    """
    if not (decision.passed and run.config.publish.absorb):
        return measured, None
    onward = run.absorbing(measured)
    data = preprocess(onward, dataset, measured.data)
    checkpoint = train(onward, data)
    after = evaluate(onward, measured.data, checkpoint, data)
    outcome = absorbed(onward, data, checkpoint, before.loss, after.loss)
    if outcome.refused is not None:
        return measured, outcome
    model = export(onward, data, checkpoint)
    embeddings = embed(onward, data, model)
    search_index = index(onward, embeddings)
    return Candidate(data=data, checkpoint=checkpoint, model=model, embeddings=embeddings, index=search_index), outcome


def absorb_ranking(
    run: RankingRun, log: LabelledLog, measured: RankingCandidate, decision: Decision
) -> tuple[RankingCandidate, Absorbed | None]:
    """Return the same of a ranking model, whose scores say how it does on those rows."""
    if not (decision.passed and run.config.publish.absorb):
        return measured, None
    onward = run.absorbing(measured)
    data = prepare_days(onward, log, absorbs=True)
    checkpoint = train_ranker(onward, data)
    model = export_ranker(onward, data, checkpoint)
    scores = score(onward, data, model)
    outcome = absorbed(onward, data, checkpoint, loss(run, measured.scores), loss(onward, scores))
    if outcome.refused is not None:
        return measured, outcome
    return RankingCandidate(data=data, checkpoint=checkpoint, model=model, scores=scores), outcome
