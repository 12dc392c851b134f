"""What `dayline serve` refuses before it listens."""

import pytest
from typer.testing import CliRunner

from flows import cli


@pytest.mark.parametrize(
    ("arguments", "token", "message"),
    [
        (
            ["./shop"],
            None,
            "'./shop' is no release: give NAME@champion, NAME@previous, NAME@VERSION, or the folder of a",
        ),
        (["shop"], None, "--release shop@champion: there is no folder of that name, and no "),
        (["champion"], None, "--release champion: there is no folder of that name, and no "),
        (
            ["shop@champion", "--rank-release", "ctr@v3"],
            None,
            "--release shop@champion, ctr@3: there is no folder of th",
        ),
        (
            ["shop@champion", "--tracking-uri", "sqlite:///m.db"],
            None,
            "--release shop@champion: there is no folder of t",
        ),
        (["."], None, ".: neither a run, a checkpoint, an exported model, a bundle nor another artifact"),
        (["shop@champion", "--rank-release", "ctr/"], None, "'ctr/' is no release"),
        (["shop@champion", "--run", "runs/shop/d/r"], None, "name one of the two: --release NAME@champion (or a bundl"),
        (["shop@champion", "--host", "0.0.0.0"], None, "--host 0.0.0.0 is open to other machines: give --token-file"),
        (["shop@champion", "--token-file", "absent"], None, "--token-file absent: cannot be read"),
        (["shop@champion"], "short", "the token has to be 16 or more signs of ASCII without blanks"),
        (["shop@champion"], "one two three four five", "the token has to be 16 or more signs"),
        (["shop@champion", "--limit", "max_k"], None, "--limit max_k: give KEY=VALUE; the keys are max_body_bytes, "),
        (["shop@champion", "--limit", "max_kk=3"], None, "--limit max_kk=3: give KEY=VALUE"),
        (["shop@champion", "--limit", "max_k=0"], None, "--limit max_k=0: Input should be greater than or equal to 1"),
        (["shop@champion", "--limit", "max_k=x"], None, "--limit max_k=x: Input should be a valid integer"),
    ],
)
def test_what_cannot_be_served_is_refused(tmp_path, monkeypatch, arguments, token, message):
    monkeypatch.chdir(tmp_path)
    if token is not None:
        monkeypatch.setenv("DAYLINE_SERVE_TOKEN", token)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    ended = CliRunner().invoke(cli.app, ["serve", "--release", *arguments])
    assert ended.exit_code == 2
    assert ended.stderr.startswith(f"error: {message}")
    assert ended.stderr.count("\n") == 1
    assert token is None or token not in ended.stderr
    assert not [*tmp_path.iterdir()]


def test_a_run_that_published_nothing_is_not_served(tmp_path):
    (tmp_path / "config.yaml").write_text("name: shop\n")
    for arguments in (["--run", str(tmp_path)], ["--release", str(tmp_path)]):
        ended = CliRunner().invoke(cli.app, ["serve", *arguments])
        assert ended.exit_code == 2
        assert "nothing of the stage publish is there" in ended.stderr
    ended = CliRunner().invoke(cli.app, ["check-serving"])
    assert (ended.exit_code, ended.stderr.startswith("error: name one of the two")) == (2, True)
