"""ESMM: a network for each task over the same embeddings; conversions are learned over all impressions.

Ma et al. 2018, Entire Space Multi-Task Model: An Effective Approach for Estimating Post-Click Conversion Rate (section
2.2). What makes it one is `space: all` of the tasks that have a `given` in `ranking.tasks`; other models of several
tasks can be trained that way too.
"""

from typing import Literal

from recsys_core.models.blocks.sections import Tasks


class Config(Tasks):
    """YAML section `model`; a tower reads all features."""

    kind: Literal["esmm"] = "esmm"
