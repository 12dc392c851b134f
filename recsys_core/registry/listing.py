"""The releases in a SQLite file, read without MLflow: importing that takes longer than all else a list needs."""

import contextlib
import sqlite3
from pathlib import Path
from typing import NamedTuple

from recsys_core.registry.versions import PREFIX, ReleaseInfo, info_of

SCHEMA = "dc11669786a5"
"""The version of the tables that are read here; MLflow's own code reads, migrates or refuses others."""
_VERSIONS = """
    SELECT version, creation_time, run_id FROM model_versions
    WHERE workspace = 'default' AND name = ? AND current_stage != 'Deleted_Internal'
"""
_TAGS = "SELECT version, key, value FROM model_version_tags WHERE workspace = 'default' AND name = ?"
_ALIASES = "SELECT alias, version FROM registered_model_aliases WHERE workspace = 'default' AND name = ?"


class _Version(NamedTuple):
    """What `versions.info_of` needs of MLflow's record of a version."""

    name: str
    version: int
    creation_timestamp: int
    run_id: str
    tags: dict[str, str]


def listed(database: Path, name: str) -> list[ReleaseInfo] | None:
    """Return what `versions.releases` would, or None where MLflow has to be asked.

    Raises:
        ValueError: a version's record is damaged.
    """
    if not database.exists():
        return []
    try:
        with contextlib.closing(sqlite3.connect(f"{database.resolve().as_uri()}?mode=ro", uri=True)) as opened:
            if opened.execute("SELECT version_num FROM alembic_version").fetchall() != [(SCHEMA,)]:
                return None
            tags: dict[int, dict[str, str]] = {}
            for version, key, value in opened.execute(_TAGS, [name]):
                tags.setdefault(version, {})[key] = value
            aliases = dict(opened.execute(_ALIASES, [name]).fetchall())
            rows = opened.execute(_VERSIONS, [name]).fetchall()
    except sqlite3.Error:
        # A file that is locked, damaged or of another program: MLflow says what it is, in words for the user.
        return None
    known = [_Version(name, number, created, run_id, tags.get(number, {})) for number, created, run_id in rows]
    infos = [info_of(version, aliases) for version in known if PREFIX + "run_id" in version.tags]
    return sorted(infos, key=lambda info: info.version, reverse=True)
