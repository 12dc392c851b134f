"""The recipe of a shipped config on data of another shape: a file of plain text, left one out, trained and measured."""

import random
from pathlib import Path
from typing import Any

from recsys_core import config as configs
from recsys_core import ingest
from recsys_core.config import RunConfig
from recsys_core.progress import silent
from recsys_core.retrieval import evaluate, preprocess, train

CONFIG = Path(__file__).parents[4] / "configs" / "ml1m_two_tower.yaml"
NUM_USERS, NUM_ITEMS = 200, 80
COMMON = {"config_hash": "", "code_version": ""}


def text(path: Path) -> Path:
    """Write walks along a circle of items, so that what comes next lies beside what was last."""
    draw = random.Random(0)
    walks = [(draw.randrange(NUM_ITEMS), draw.randrange(4, 12)) for _ in range(NUM_USERS)]
    path.write_text(
        "".join(
            " ".join([f"user{user}", *(f"item{(start + step) % NUM_ITEMS}" for step in range(length))]) + "\n"
            for user, (start, length) in enumerate(walks)
        )
    )
    return path


def test_a_shipped_recipe_learns_from_a_file_of_plain_text(tmp_path: Path) -> None:
    source = text(tmp_path / "walks.txt")
    changes = [f"data={{kind: sequences, source: {source}}}", "train.batch_size=64", "train.num_epochs=4"]
    config = configs.load(CONFIG, [*changes, "sampler.num_negatives=64"])
    assert isinstance(config, RunConfig)
    held_out = config.holdout
    day = ingest.last_day(config.data, tmp_path / "imports", silent, held_out)
    fingerprint = ingest.fingerprint(config.data, day, held_out)
    dataset = ingest.run(
        ingest.Request(
            output=tmp_path / "ingest", config=config.data, day=day, holdout=held_out,
            import_root=tmp_path / "imports", fingerprint=fingerprint, **COMMON,
        ),
        silent,
    )  # fmt: skip
    data = preprocess.run(
        preprocess.Request(
            output=tmp_path / "preprocess", config=config.preprocess, features=config.features, dataset=dataset,
            day=day, holdout=held_out, **COMMON,
        ),
        silent,
    )  # fmt: skip
    # Of each user the last two interactions are not learned from.
    assert data.num_rows == dataset.num_rows - 2 * NUM_USERS
    assert (data.num_queries, data.num_ground_truth, data.num_items) == (NUM_USERS, NUM_USERS, NUM_ITEMS)
    assert data.num_tied == 0
    shared: dict[str, Any] = {
        "model": config.model, "sampler": config.sampler, "loss": config.loss, "num_ranks": 1, "seed": 0, "data": data,
    }  # fmt: skip
    trained = train.run(
        train.Request(output=tmp_path / "train", config=config.train, base=None, **shared, **COMMON), silent
    )
    measured = evaluate.run(
        evaluate.Request(
            output=tmp_path / "evaluate", config=config.evaluate, sharding=config.train.sharding, checkpoint=trained,
            **shared, **COMMON,
        ),
        silent,
    )  # fmt: skip
    # Among 64 negatives chance finds 5 of 65.
    assert measured.num_rows == NUM_USERS
    assert measured.sampled_recall["5"] > 4 * 5 / 65
