"""Ids that are written as texts of whole numbers."""

import pyarrow as pa
import pytest

from recsys_core import columns


@pytest.mark.parametrize(
    "texts",
    [
        ["7", "0", "9223372036854775807"],
        ["007", "00", "09223372036854775807"],
        ["+7", "-0", "9223372036854775807.0"],
        ["7.0", "0.", "+9223372036854775807.000"],
    ],
)
def test_texts_of_whole_numbers_are_these_numbers(texts: list[str]) -> None:
    assert columns.integers(pa.array(texts)).equals(pa.array([7, 0, 2**63 - 1]))


def test_no_texts_are_no_numbers_and_some_are_below_zero() -> None:
    assert columns.integers(pa.array([], pa.string())).equals(pa.array([], pa.int64()))
    assert columns.integers(pa.array(["-9223372036854775808", "-7.0"])).equals(pa.array([-(2**63), -7]))


@pytest.mark.parametrize(
    "text", ["", " 7", "7 ", "7.5", "7.01", "1e3", "0x10", "1_0", "٣", ".0", "-", "--7", "7\n", "x"]
)
def test_other_texts_are_refused_with_their_row(text: str) -> None:
    for before in ("7", "7.0"):
        with pytest.raises(columns.RowError, match="is no whole number") as raised:
            columns.integers(pa.array([before, "8", text, "9", text]))
        assert (raised.value.row, repr(text) in raised.value.reason) == (2, True)


@pytest.mark.parametrize("text", ["9223372036854775808", "-9223372036854775809", "99999999999999999999.0"])
def test_numbers_beyond_int64_are_refused_with_their_row(text: str) -> None:
    with pytest.raises(columns.RowError, match=f"row 1: id {text.removesuffix('.0')} is beyond int64"):
        columns.integers(pa.array(["7", text]))
