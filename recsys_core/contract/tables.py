"""What the columns of the log's tables are agreed to be: a YAML file that people read, keep with the config, and edit.

tables:
  interactions:
    user_id: {type: int64, tags: [user, id], maximum_null_rate: 0.0}
    price: {type: double, tags: [item], minimum: 0, maximum: 10000}
"""

from pathlib import Path
from typing import Any

import yaml
from pydantic import Field, ValidationError

from recsys_core.artifacts import Frozen, write_text
from recsys_core.profile.records import TableProfile, Tag

_HEAD = """# What each column of the log is: its type, and what it is to the recommender (user, item, context,
# label, weight, id, sequence). Written by `dayline data profile --schema`; correct it, keep it, and name it as
# contract.file in the config. A column may also have maximum_null_rate, minimum and maximum.
"""


class Column(Frozen):
    """What a column is: Arrow's name of its `type`, what it means, and which values it may have."""

    type: str
    tags: tuple[Tag, ...] = ()
    maximum_null_rate: float | None = Field(default=None, ge=0, le=1)
    minimum: float | None = None
    maximum: float | None = None


class Tables(Frozen):
    """Columns by name, by table."""

    tables: dict[str, dict[str, Column]]


def read(path: Path) -> Tables:
    """Read a contract.

    Raises:
        ValueError: no such file, not YAML, or a key or value that a contract does not have; names the place.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such contract; write it with `dayline data profile TABLE --schema {path}`")
    try:
        return Tables.model_validate(yaml.safe_load(path.read_text()))
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ValueError(f"{path}:{line}: not YAML: {error.problem}") from None
    except ValidationError as error:
        mistakes = [f"{path}: {'.'.join(map(str, e['loc'])) or 'the file'}: {e['msg']}" for e in error.errors()]
        raise ValueError("\n".join(mistakes)) from None


def write(path: Path, name: str, profile: TableProfile) -> None:
    """Put the columns of `profile` into the file as table `name`; the file's other tables stay as they are.

    Raises:
        ValueError: the file is there and is no contract.
    """
    kept = read(path).tables if path.exists() else {}
    inferred = {
        column: (Column(type=found.type, tags=found.tags), found.reason) for column, found in profile.columns.items()
    }
    known = {table: {column: (entry, "") for column, entry in columns.items()} for table, columns in kept.items()}
    lines = ["tables:"]
    for table, columns in (known | {name: inferred}).items():
        lines.append(f"  {_key(table)}:")
        for column, (entry, reason) in columns.items():
            comment = f"  # {' '.join(reason.split())}" if reason else ""
            lines.append(f"    {_key(column)}: {_flow(entry.model_dump(mode='json', exclude_defaults=True))}{comment}")
    write_text(path, _HEAD + "\n".join(lines) + "\n")


def _key(name: str) -> str:
    return yaml.safe_dump({name: 0}, width=10_000, allow_unicode=True).rpartition(":")[0]


def _flow(value: dict[str, Any]) -> str:
    return yaml.safe_dump(value, default_flow_style=True, width=10_000, sort_keys=False, allow_unicode=True).strip()
