"""Served lists and the clicks on them: labelled rows by day, with the position at which each item was shown.

`request_log` reads what `dayline serve --log` wrote, `clicks` an interaction log, `attribution` finds the list that a
click belongs to, `table` makes the rows of requests and items, `join` does all of it day by day.
"""

from recsys_core.serving.impressions.join import Day, Report, Request, run
from recsys_core.serving.impressions.options import Options

__all__ = ["Day", "Options", "Report", "Request", "run"]
