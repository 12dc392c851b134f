"""Credentials are taken out of whatever is written down, shown or sent: URIs, queries, headers, settings by name.

When in doubt more is taken out than need be: a password may hold any sign, `/`, `@` and `&` percent-encoded among them.
"""

import re
from collections.abc import Mapping
from typing import Any

MASK = "***"

# Words that stand for nothing else, wherever they end a name; and short ones, as a word of their own.
_PLAIN = (
    "password|passwd|passphrase|authorization|x-api-key|x-(?:amz|goog|oss)-[a-z-]+|api[_-]?key|account[_-]?key|"
    "access[_-]?key(?:[_-]?(?:id|secret))?|(?:secret|private|signing|encryption|master)[_-]?key"
)
_LOOSE = "secrets?|token|signature|credentials?|(?<![a-z])(?:sig|pass|pwd|auth|jwt)"
_NAME = f"(?:{_PLAIN}|{_LOOSE})"
_ENCODED = "%(?:25)*"  # a percent sign, encoded any number of times
_RUN = r"""[^\s&]*[^\s&"'<>)\]},;:.]|[^\s&]+"""
_QUOTED = r""""(?:\\.|[^"\\])*"(?=[\s,;&)\]}]|$)|'(?:\\.|[^'\\])*'(?=[\s,;&)\]}]|$)"""
_VALUE = f"(?:{_QUOTED}|{_RUN})"

_SECRET = re.compile(f"{_NAME}$", re.IGNORECASE)
_RULES = [
    (re.compile(pattern, re.IGNORECASE | re.MULTILINE), put)
    for pattern, put in (
        # user:password@ and user@ of a URI, up to the last @ before a blank.
        (r"(://)[^\s/:@?#]*(?::\S*)?@", rf"\1{MASK}@"),
        (
            f"({_ENCODED}3A{_ENCODED}2F{_ENCODED}2F)[^\\s%&]*(?:{_ENCODED}3A\\S*)?({_ENCODED}40)",
            rf"\1{MASK}\2",
        ),
        # Authorization: Bearer …, to the end of the text or the line; and Bearer … alone.
        (rf"""(authorization["']?\s*[:=]\s*)(?:{_QUOTED}|[^\n]+)""", rf"\1{MASK}"),
        (r"(\bbearer\s+)[\w.~+/=-]{8,}", rf"\1{MASK}"),
        # ?token=…, password='…', token%3D…%26
        (f"({_NAME}[\"']?\\s*=\\s*){_VALUE}", rf"\1{MASK}"),
        (rf"({_NAME}{_ENCODED}3D)(?:(?!{_ENCODED}26)[^\s&])+", rf"\1{MASK}"),
        # 'token': '…', password: …, client_secret: …, and of a line of YAML also token: …
        (rf"({_NAME}[\"']\s*:\s*){_VALUE}", rf"\1{MASK}"),
        (rf"((?:{_PLAIN}|(?<=[\w-])(?:secrets?|token|signature|credentials?)):\s*){_VALUE}", rf"\1{MASK}"),
        (rf"(^[ \t-]*[\w.-]*{_NAME}:[ \t]+){_VALUE}", rf"\1{MASK}"),
        # --token …
        (rf"(--[\w-]*{_NAME}[ \t]+){_VALUE}", rf"\1{MASK}"),
    )
]


def redact(text: str) -> str:
    """Return `text` without the credentials in it."""
    for rule, put in _RULES:
        text = rule.sub(put, text)
    return text


def is_secret(name: str) -> bool:
    """Whether what is called `name`, a key or a variable, is a credential."""
    return _SECRET.search(name) is not None


def redacted(value: Any) -> Any:
    """Return JSON values without the credentials in them: in texts, and whatever stands below a key that names one."""
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, Mapping):
        return {
            key: MASK if held is not None and isinstance(key, str) and is_secret(key) else redacted(held)
            for key, held in value.items()
        }
    return [redacted(one) for one in value] if isinstance(value, list | tuple) else value


def cleaned(error: BaseException) -> None:
    """Take the credentials out of an exception's message, and of those that it came from."""
    seen: set[int] = set()
    waiting: list[BaseException | None] = [error]
    while waiting:
        one = waiting.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        one.args = tuple(redact(part) if isinstance(part, str) else part for part in one.args)
        if isinstance(one, OSError) and isinstance(one.filename, str):
            one.filename = redact(one.filename)
        waiting += [one.__cause__, one.__context__]
