"""Expressions over columns of numbers: a parser of our own over a fixed grammar, and functions over whole columns.

    expression := or [ '?' expression ':' expression ]
    or         := and ( '||' and )*           and     := equal ( '&&' equal )*
    equal      := order ( ('==' | '!=') order )*
    order      := sum ( ('<' | '<=' | '>' | '>=') sum )*
    sum        := product ( ('+' | '-') product )*
    product    := unary ( ('*' | '/' | '%') unary )*
    unary      := ('-' | '+' | '!') unary | power
    power      := primary [ '^' unary ]
    primary    := number | name | name '(' expression ( ',' expression )* ')' | '(' expression ')'

A number that is missing, or that no real number answers (1 / 0, log(-1)), is NaN and makes what it is part of NaN,
except for the branch of `?:` that is not taken, `is_null` and `if_null`. True is 1 and false is 0.
"""

import re
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from recsys_core.features.columns import functions
from recsys_core.uri import nearest


class Vector(NamedTuple):
    """A list of numbers per row: `values` float64 [N], `lengths` [B]."""

    values: np.ndarray
    lengths: np.ndarray


Value = np.ndarray | Vector
"""float64 [B], or a list per row."""

_Node = Callable[[Mapping[str, Value]], Value]
_TOKEN = re.compile(
    r"\s*(?:(?P<number>(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)|(?P<name>[A-Za-z_]\w*)"
    r"|(?P<sign>\|\||&&|==|!=|<=|>=|[-+*/%^<>!?:(),]))"
)
_OPERATORS: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "||": lambda a, b: functions.truth((a != 0) | (b != 0), a, b),
    "&&": lambda a, b: functions.truth((a != 0) & (b != 0), a, b),
    "==": lambda a, b: functions.truth(a == b, a, b),
    "!=": lambda a, b: functions.truth(a != b, a, b),
    "<": lambda a, b: functions.truth(a < b, a, b),
    "<=": lambda a, b: functions.truth(a <= b, a, b),
    ">": lambda a, b: functions.truth(a > b, a, b),
    ">=": lambda a, b: functions.truth(a >= b, a, b),
    "+": np.add,
    "-": np.subtract,
    "*": np.multiply,
    "/": np.divide,
    "%": np.fmod,
    "^": np.power,
}
_LEVELS = (("||",), ("&&",), ("==", "!="), ("<", "<=", ">", ">="), ("+", "-"), ("*", "/", "%"))
_MAX_DEPTH = 100


class Expression:
    """A parsed expression; `names` are the columns that it reads, in the order of the text."""

    def __init__(self, text: str) -> None:
        """Parse `text`.

        Raises:
            ValueError: it is no expression; the message has the position, counted from 1.
        """
        parser = _Parser(text)
        self._node = parser.whole()
        self.names = tuple(parser.names)

    def __call__(self, columns: Mapping[str, Value]) -> Value:
        """Work the expression out for every row; infinite results are NaN."""
        with np.errstate(all="ignore"):
            return self._node(columns)


def _finite(numbers: np.ndarray) -> np.ndarray:
    return np.where(np.isfinite(numbers), numbers, np.nan)


class _Token(NamedTuple):
    kind: str
    text: str
    position: int


class _Parser:
    def __init__(self, text: str) -> None:
        self._text, self._next, self._depth = text, 0, 0
        self._tokens = list(self._read())
        self.names: dict[str, None] = {}

    def whole(self) -> _Node:
        node = self._expression()
        if self._token.kind != "end":
            raise self._error(f"{self._token.text!r} is not expected here")
        return node

    def _read(self):
        position, text = 0, self._text.rstrip()
        while position < len(text):
            match = _TOKEN.match(text, position)
            if match is None:
                start = len(text) - len(text[position:].lstrip())
                raise ValueError(f"expression {self._text!r}, position {start + 1}: {text[start]!r} is no part of one")
            kind = match.lastgroup
            assert kind is not None
            yield _Token(kind, match[kind], match.start(kind))
            position = match.end()
        yield _Token("end", "the end", len(text))

    @property
    def _token(self) -> _Token:
        return self._tokens[self._next]

    def _error(self, what: str, position: int | None = None) -> ValueError:
        place = self._token.position if position is None else position
        return ValueError(f"expression {self._text!r}, position {place + 1}: {what}")

    def _take(self, *signs: str) -> str | None:
        if self._token.kind == "sign" and self._token.text in signs:
            self._next += 1
            return self._tokens[self._next - 1].text
        return None

    def _need(self, sign: str) -> None:
        if self._take(sign) is None:
            raise self._error(f"{sign!r} is missing before {self._token.text!r}")

    def _expression(self) -> _Node:
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise self._error(f"nested more than {_MAX_DEPTH} deep")
        condition = self._level(0)
        if self._take("?"):
            yes = self._expression()
            self._need(":")
            no = self._expression()
            node = _applied(functions.choose, [condition, yes, no])
        else:
            node = condition
        self._depth -= 1
        return node

    def _level(self, level: int) -> _Node:
        if level == len(_LEVELS):
            return self._unary()
        node = self._level(level + 1)
        while sign := self._take(*_LEVELS[level]):
            node = _applied(_OPERATORS[sign], [node, self._level(level + 1)])
        return node

    def _unary(self) -> _Node:
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise self._error(f"nested more than {_MAX_DEPTH} deep")
        sign = self._take("-", "+", "!")
        if sign is None:
            node = self._primary()
            if self._take("^"):
                node = _applied(_OPERATORS["^"], [node, self._unary()])
        else:
            function = {"-": np.negative, "+": np.positive, "!": lambda a: functions.truth(a == 0, a)}[sign]
            node = _applied(function, [self._unary()])
        self._depth -= 1
        return node

    def _primary(self) -> _Node:
        token = self._token
        if token.kind == "number":
            self._next += 1
            return _constant(float(token.text))
        if token.kind == "name":
            self._next += 1
            return self._call(token) if self._take("(") else self._name(token.text)
        if self._take("("):
            node = self._expression()
            self._need(")")
            return node
        raise self._error(f"a number, a name or '(' is missing before {token.text!r}")

    def _name(self, name: str) -> _Node:
        if name in functions.CONSTANTS:
            return _constant(functions.CONSTANTS[name])
        self.names[name] = None
        return lambda columns: columns[name]

    def _call(self, token: _Token) -> _Node:
        arguments = [self._expression()]
        while self._take(","):
            arguments.append(self._expression())
        self._need(")")
        known = {**functions.SCALAR, **functions.VECTOR}
        if token.text not in known:
            raise self._error(f"there is no function {token.text!r}{nearest(token.text, list(known))}", token.position)
        function, low, high = known[token.text]
        if not low <= len(arguments) <= high:
            wanted = str(low) if low == high else f"{low} or more" if high > 9 else f"{low} to {high}"
            raise self._error(f"{token.text} takes {wanted} arguments, not {len(arguments)}", token.position)
        if token.text in functions.SCALAR:
            return _applied(function, arguments)
        return _reducing(token.text, function, arguments)


def _constant(number: float) -> _Node:
    # No rows of its own: it broadcasts over whatever it meets.
    return lambda _: np.float64(number)  # pyright: ignore[reportReturnType] - a number is an array of no dimension


def _applied(function: Callable[..., np.ndarray], arguments: list[_Node]) -> _Node:
    """Apply `function` to every number; a single number per row goes with each of a list's."""

    def node(columns: Mapping[str, Value]) -> Value:
        values = [argument(columns) for argument in arguments]
        lists = [value for value in values if isinstance(value, Vector)]
        if not lists:
            return _finite(function(*values))
        lengths = lists[0].lengths
        for other in lists[1:]:
            different = np.flatnonzero(other.lengths != lengths)
            if len(different):
                row = different[0]
                raise ValueError(
                    f"row {row} has lists of {lengths[row]} and of {other.lengths[row]} numbers, which have to go "
                    "together; give lists of one length"
                )
        flat = [
            value.values if isinstance(value, Vector) else value if not np.ndim(value) else np.repeat(value, lengths)
            for value in values
        ]
        return Vector(_finite(function(*flat)), lengths)

    return node


def _reducing(name: str, function: Callable[..., np.ndarray], arguments: list[_Node]) -> _Node:
    """Apply `function` to the lists of each row: one number per row."""

    def node(columns: Mapping[str, Value]) -> Value:
        vectors: list[Vector] = []
        for argument in arguments:
            value = argument(columns)
            if not isinstance(value, Vector):
                raise ValueError(f"{name} takes lists of numbers, and an argument has one number per row")  # noqa: TRY004 - of the data
            vectors.append(value)
        lengths = vectors[0].lengths
        if any((vector.lengths != lengths).any() for vector in vectors):
            raise ValueError(f"{name}: lists of different lengths in one row; give lists of one length")
        return _finite(function(*(vector.values for vector in vectors), lengths))

    return node
