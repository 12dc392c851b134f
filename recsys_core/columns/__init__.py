"""Columns of users' files: of which types they may be, and which few types every stage reads of them."""

from recsys_core.columns.ids import id_type, ids, integers, is_id, is_inexact
from recsys_core.columns.layout import (
    RowError,
    alike,
    by_chunk,
    cast,
    digest,
    is_bytes,
    is_list,
    is_number,
    plain,
    plain_type,
    refuse_twice,
    require_text,
    shown,
    text,
    united,
)
from recsys_core.columns.times import UNITS, Times, is_time, seconds

__all__ = [
    "UNITS",
    "RowError",
    "Times",
    "alike",
    "by_chunk",
    "cast",
    "digest",
    "id_type",
    "ids",
    "integers",
    "is_bytes",
    "is_id",
    "is_inexact",
    "is_list",
    "is_number",
    "is_time",
    "plain",
    "plain_type",
    "refuse_twice",
    "require_text",
    "seconds",
    "shown",
    "text",
    "united",
]
