"""`publish.absorb`: a state that the gate lets pass learns from the rows it was measured on, and is released then."""

from recsys_core.artifacts import Dataset, HeldOut
from recsys_core.gate import Decision
from tasks.absorbed import Absorbed, absorbed
from tasks.embed import embed
from tasks.evaluate import evaluate
from tasks.export import export
from tasks.index import index
from tasks.perform import Candidate, Run
from tasks.preprocess import preprocess
from tasks.train import train


def absorb(
    run: Run, dataset: Dataset, measured: Candidate, before: HeldOut, decision: Decision
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
    outcome = absorbed(onward, data, checkpoint, before, after)
    if outcome.refused is not None:
        return measured, outcome
    model = export(onward, data, checkpoint)
    embeddings = embed(onward, data, model)
    search_index = index(onward, embeddings)
    return Candidate(data=data, checkpoint=checkpoint, model=model, embeddings=embeddings, index=search_index), outcome
