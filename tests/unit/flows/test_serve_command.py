"""What `dayline serve` refuses before it listens."""

import pytest
from typer.testing import CliRunner

from flows import cli


@pytest.mark.parametrize(
    ("arguments", "token", "message"),
    [
        (["shop"], None, "'shop' is no release: give NAME@champion, NAME@previous, NAME@VERSION, or the folder of a"),
        (["shop@newest"], None, "'shop@newest' is no release"),
        (["shop@0"], None, "'shop@0' is no release"),
        (["shop@champion", "--rank-release", "ctr"], None, "'ctr' is no release"),
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
    ended = CliRunner().invoke(cli.app, ["serve", "--release", *arguments])
    assert ended.exit_code == 2
    assert ended.stderr.startswith(f"error: {message}")
    assert ended.stderr.count("\n") == 1
    assert token is None or token not in ended.stderr
    assert not [*tmp_path.iterdir()]
