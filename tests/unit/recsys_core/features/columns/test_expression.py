"""Expressions: precedence and every function by hand, errors with positions, and Python as the oracle of arithmetic."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys_core.features.columns.expression import Expression, Vector

NAN = float("nan")


def value(text: str, **columns: Any) -> Any:
    given_columns = {
        name: Vector(np.array([x for row in rows for x in row], float), np.array([len(row) for row in rows]))
        if isinstance(rows[0], list)
        else np.array(rows, float)
        for name, rows in columns.items()
    }
    found = Expression(text)(given_columns)
    return found if isinstance(found, Vector) else found.tolist()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1 + 2 * x ^ 2", 19),
        ("-x ^ 2", -9),
        ("2 ^ 3 ^ 2 * x", 1536),
        ("(1 + 2) * x", 9),
        ("10 - 3 - x", 4),
        ("7 % x", 1),
        ("x > 2 && x < 3", 0),
        ("x > 2 || x < 1", 1),
        ("!(x == 3)", 0),
        ("x != 3 ? 1 : x >= 3 ? 2 : 3", 2),
        ("1e-1 * x", 0.3),
        (".5 + x", 3.5),
        ("x / 0", NAN),
        ("log(-x)", NAN),
        ("log1p(x - 3)", 0),
        ("ln(e) * x", 3),
        ("sin(pi * x / 6)", 1),
        ("sigmoid(x - 3)", 0.5),
        ("relu(-x)", 0),
        ("round(x / 2)", 2),
        ("round(-x / 2)", -2),
        ("round(x / 7, 2)", 0.43),
        ("min(x, 5, 1)", 1),
        ("max(x, 5, 1)", 5),
        ("sum(x, 5, 1)", 9),
        ("avg(x, 5, 1)", 3),
        ("clip(x, 0, 2)", 2),
        ("if(x > 1, 10, 20)", 10),
        ("is_null(x / 0)", 1),
        ("if_null(x / 0, 7)", 7),
        ("pow(x, 2)", 9),
        ("sqrt(x + 1)", 2),
        ("cbrt(x + 5)", 2),
        ("floor(x / 2)", 1),
        ("ceil(x / 2)", 2),
        ("sign(-x)", -1),
        ("abs(-x)", 3),
        ("square(x)", 9),
        ("log2(x + 5)", 3),
        ("log10(x + 97)", 2),
        ("exp(x - 3)", 1),
        ("hypot(x, 4)", 5),
        ("atan2(0, x)", 0),
        ("degrees(pi) + x", 183),
        ("asin(x - 2)", math.pi / 2),
        ("mod(x, 2)", 1),
        ("haversine(0, 0, 0, x)", 333.585),
        ("logit(x / 6)", 0),
        ("gamma(x)", 2),
        ("trunc(-x / 2)", -1),
    ],
)
def test_by_hand(text: str, expected: float) -> None:
    np.testing.assert_allclose(value(text, x=[3]), [expected], atol=1e-3 if "haversine" in text else 1e-12)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("length(a)", [2, 0]),
        ("vsum(a)", [7, 0]),
        ("vmean(a)", [3.5, NAN]),
        ("vmin(a)", [3, NAN]),
        ("vmax(a)", [4, NAN]),
        ("variance(a)", [0.25, NAN]),
        ("std(a)", [0.5, NAN]),
        ("median(a)", [3.5, NAN]),
        ("first(a)", [3, NAN]),
        ("last(a)", [4, NAN]),
        ("l1_norm(-a)", [7, 0]),
        ("l2_norm(a)", [5, 0]),
        ("dot(a, b)", [11, 0]),
        ("cosine(a, a)", [1, NAN]),
        ("euclidean(a, b)", [math.sqrt(8), 0]),
        ("corr(a, b)", [1, NAN]),
        ("vsum(a * x + b)", [17, 0]),
    ],
)
def test_lists_by_hand(text: str, expected: list[float]) -> None:
    columns = {"a": [[3, 4], []], "b": [[1, 2], []], "x": [2, 9]}
    np.testing.assert_allclose(value(text, **{name: columns[name] for name in Expression(text).names}), expected)


def test_a_list_stays_one_number_by_number() -> None:
    found = value("a > 3 ? a : x", a=[[3, 4], [], [5]], x=[7, 8, NAN])
    assert found.lengths.tolist() == [2, 0, 1]
    assert found.values.tolist() == [7, 4, 5]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "position 1: a number, a name or '\\('"),
        ("a + ", "position 4"),
        ("a $ b", r"position 3: '\$' is no part"),
        ("(a + b", "position 7: '\\)' is missing before 'the end'"),
        ("a b", "position 3: 'b' is not expected"),
        ("a ? b", "position 6: ':' is missing"),
        ("1 + lgo(a)", "position 5: there is no function 'lgo'; did you mean 'log"),
        ("pow(a)", "position 1: pow takes 2 arguments, not 1"),
        ("round(a, b, c)", "takes 1 to 2 arguments"),
        ("(" * 200 + "a" + ")" * 200, "nested more than 100 deep"),
        ("-" * 200 + "a", "nested more than 100 deep"),
        ("__import__('os')", 'position 12: "\'" is no part'),
        ("a.b", "position 2"),
    ],
)
def test_errors_say_where(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Expression(text)


def test_refuses_lists_that_do_not_go_together() -> None:
    with pytest.raises(ValueError, match="row 1 has lists of 1 and of 2 numbers"):
        value("a + b", a=[[1], [1]], b=[[1], [1, 2]])
    with pytest.raises(ValueError, match="dot: lists of different lengths"):
        value("dot(a, b)", a=[[1], [1]], b=[[1], [1, 2]])
    with pytest.raises(ValueError, match="vsum takes lists"):
        value("vsum(x)", x=[1])


ARITHMETIC = st.recursive(
    st.one_of(st.sampled_from(["x", "y"]), st.integers(0, 9).map(str)),
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from(["+", "-", "*", "<", "==", ">="]), inner).map(" ".join),
        inner.map("({})".format),
    ),
    max_leaves=8,
)


@given(ARITHMETIC, st.integers(-5, 5), st.integers(-5, 5))
def test_arithmetic_is_pythons(text: str, x: int, y: int) -> None:
    # Python chains comparisons, C does not: compared only where there is no more than one.
    if sum(text.count(sign) for sign in ("<", "==", ">=")) > 1:
        return
    found = Expression(text)({"x": np.array([x], float), "y": np.array([y], float)})
    assert float(np.ravel(found)[0]) == float(eval(text, {"x": x, "y": y}))
