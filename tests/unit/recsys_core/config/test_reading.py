"""Whatever a config file or an override holds, the answer is values or one line that names the place."""

import os
import re
from pathlib import Path

import pytest

from recsys_core.config import reading
from recsys_core.config.overrides import override


def refusal(file: Path) -> str:
    """Return the one line that `read` refuses the file with."""
    with pytest.raises(ValueError, match=re.escape(str(file))) as error:
        reading.read(file)
    (line,) = str(error.value).splitlines()
    return line.removeprefix(str(file))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: 1\nb:\n  c: 1\n  d: 2\n  c: 3\n", ":5: key 'c' is in line 3 too; keep one of them"),
        ("a: [{b: 1, b: 2}]", ":1: key 'b' is in line 1 too"),
        ("a: [1\nb: 2\n", ":2: not YAML"),
        ("a: 1\n---\nb: 2\n", ":2: not YAML: but found another document"),
        ("- a\n", ": holds a list where the config's sections are wanted"),
        ("2024-01-15\n", ": holds a date where"),
        ("", ": holds nothing"),
        ("# only words\n", ": holds nothing"),
        ("name: tiny # \x07", ":1:14: character U+0007 cannot stand in YAML"),
        ("name: a\nb: a\0b\n", ":2:5: character U+0000 cannot stand"),
        ('a: 1\nname: "a\\0b"\n', ":2: character U+0000 stands in a text"),
        ('name: "\\uD800"\n', ":1: character U+D800 stands in a text"),
        ("? [a, b]\n: 1\n", ":1: a key is no text"),
        ("? {a: b}\n: 1\n", ":1: a key is no text"),
        ("a:\n  null: 1\n", ":2: null is a key and no text; put quotes around it"),
        ("on: 1\n", ":1: on is a key and no text"),
        ("1: 1\n", ":1: 1 is a key and no text"),
        ("2024-01-15: 1\n", ":1: 2024-01-15 is a key and no text"),
        ("a: 1\nx: !!timestamp soon\n", ":2: not YAML: soon: "),
        ("x: !!int ''\n", ":1: not YAML: "),
        ("x: 2024-02-30\n", ":1: not YAML: 2024-02-30: day is out of range for month"),
        (
            "a: 1\nx: 9223372036854775808\n",
            ":2: not YAML: 9223372036854775808: whole numbers lie between -2^63 and 2^63",
        ),
        (f"x: {'9' * 5_000}\n", ":1: not YAML: 9999"),
        ("x: *nowhere\n", ":1: not YAML: found undefined alias 'nowhere'"),
        ("x: !!set {a, b}\n", ":1: tag !!set is not taken"),
        ("x: !!binary aGk=\n", ":1: tag !!binary is not taken"),
        ("x: !!python/object/apply:os.system [ls]\n", ":1: tag !!python/object/apply:os.system is not taken"),
        ("a: &x [*x]\n", ":1: an alias stands for what it stands in"),
        ("a: &x {b: {c: *x}}\n", ":1: an alias stands for what it stands in"),
        (f"a: {'[' * 80}{']' * 80}\n", ":1: nested too deeply"),
        (f"a: {'[' * 100_000}\n", ": nested too deeply"),
        ("\t\tname: a\n", ":1: not YAML"),
        ("name: @a\n", ":1: not YAML"),
    ],
)
def test_a_text_that_is_no_config_is_refused_with_its_line(tmp_path: Path, text: str, expected: str) -> None:
    file = tmp_path / "shop.yaml"
    file.write_text(text, errors="surrogatepass")
    assert refusal(file).startswith(expected)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("a: 1\nname: tin\xe9\n".encode("latin-1"), ":2: byte 0xe9 is not UTF-8; save the file as UTF-8"),
        ("name: tiny\n".encode("utf-16"), ":1: UTF-16 or UTF-32; save the file as UTF-8"),
        ("name: tiny\n".encode("utf-16-le"), ":1: UTF-16 or UTF-32"),
        ("name: tiny\n".encode("utf-16-be"), ":1: UTF-16 or UTF-32"),
        ("name: tiny\n".encode("utf-32-be"), ":1: UTF-16 or UTF-32"),
        (b"a: 1\n" * 300_000, ": larger than 1,048,576 bytes, which no config is"),
    ],
)
def test_other_encodings_and_huge_files_are_refused(tmp_path: Path, content: bytes, expected: str) -> None:
    file = tmp_path / "shop.yaml"
    file.write_bytes(content)
    assert refusal(file).startswith(expected)


def test_what_is_no_file_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    assert refusal(tmp_path) == ": a directory; name a config file in it"
    os.mkfifo(tmp_path / "pipe.yaml")
    assert refusal(tmp_path / "pipe.yaml").startswith(": a pipe or a device")
    assert refusal(Path("/dev/zero")).startswith(": a pipe or a device")
    (tmp_path / "loop.yaml").symlink_to(tmp_path / "loop.yaml")
    assert "cannot be read (Too many levels" in refusal(tmp_path / "loop.yaml")
    assert "cannot be read (File name too long)" in refusal(tmp_path / ("x" * 300))
    (tmp_path / "link.yaml").symlink_to("nowhere.yaml")
    assert refusal(tmp_path / "link.yaml") == ": a link to nowhere.yaml, which is not there; mend the link"
    (tmp_path / "file").touch()
    assert "cannot be read (Not a directory)" in refusal(tmp_path / "file" / "shop.yaml")


def test_a_missing_file_names_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "shop_two_tower.yaml").write_text("name: a")
    assert refusal(tmp_path / "shop_two_towers.yaml").endswith(
        f"no such config file; did you mean {tmp_path / 'shop_two_tower.yaml'}?"
    )
    assert refusal(tmp_path / "x.yaml") == ": no such config file"


def test_aliases_stand_for_no_more_than_a_config_needs(tmp_path: Path) -> None:
    lines = ["a: &a [x,x,x,x,x,x,x,x,x]"]
    lines += [f"{chr(98 + i)}: &{chr(98 + i)} [{','.join(['*' + chr(97 + i)] * 9)}]" for i in range(9)]
    file = tmp_path / "bomb.yaml"
    file.write_text("\n".join(lines))
    assert refusal(file).endswith("aliases stand for more than 10,000 values; write out what is meant")
    merged = ["m0: &m0 {k: 1}", *(f"m{i}: &m{i} {{<<: [{','.join([f'*m{i - 1}'] * 9)}]}}" for i in range(1, 9))]
    file.write_text("\n".join(merged))
    assert "aliases stand for more than" in refusal(file)


def test_aliases_and_merges_are_taken_and_not_shared(tmp_path: Path) -> None:
    file = tmp_path / "shop.yaml"
    file.write_text("\ufeffa: &a {k: [1], day: 2024-01-15}\nb: *a\nc: {<<: *a, k: 2}\n")
    sections = reading.read(file)
    assert sections["c"] == sections["a"] | {"k": 2}
    override(sections, "a.k=[5]")
    assert (sections["a"]["k"], sections["b"]["k"]) == ([5], [1])


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ("a=\x07", "--set a=\\x07: character U+0007"),
        ("a=2024-02-30", "--set a=2024-02-30: not YAML: 2024-02-30: day is out of range"),
        ("a=[*x]", "--set a=[*x]: not YAML: found undefined alias 'x'"),
        ("a=&x [*x]", "--set a=&x [*x]: an alias stands for what it stands in"),
        ("a=18446744073709551616", "whole numbers lie between"),
        ("a={1: 2}", "--set a={1: 2}: 1 is a key and no text"),
        ("a=" + "[" * 2_000, "nested too deeply"),
        ('{"a": NaN}', "not JSON: NaN is no number"),
        ('{"a": 18446744073709551616}', "whole numbers lie between"),
        ('{"a": "\\u0000"}', "character U+0000 stands in a text"),
        ('{"a": ["\\ud800"]}', "character U+D800 stands in a text"),
        ('{"a": 1, "a": 2}', "a is there twice"),
        ('{"a": ' + "[" * 100_000, "nested too deeply"),
        ('{"a": ' + "[" * 80 + "]" * 80 + "}", "nested too deeply"),
        ("a[99999999999999999999]=1", "selects nothing"),
        ("a" + ".a" * 5_000 + "=1", "not of the form section.key=value"),
        ('{"a' + ".a" * 5_000 + '": 1}', "is not of the form section.key or"),
    ],
)
def test_an_override_is_read_like_a_file(change: str, expected: str) -> None:
    with pytest.raises(ValueError, match=re.escape(expected)) as error:
        override({"a": [1]}, change)
    assert len(str(error.value).splitlines()) == 1
