"""Releases: the versions of a registered model, of which `champion` is live and `previous` is one command away.

Every version that went live names the one it replaced (a tag, written before the alias moves), so that going back is
following a chain, however often and from wherever it is done. What a version holds is its product's to say.
"""

from recsys_core.registry.aliases import history, make_live, promote, rollback
from recsys_core.registry.listing import listed
from recsys_core.registry.versions import (
    CHALLENGER,
    CHAMPION,
    PREFIX,
    PREVIOUS,
    ReleaseInfo,
    base_release,
    champion,
    connect,
    load_checkpoint,
    load_model,
    releases,
    tag,
)

__all__ = [
    "CHALLENGER",
    "CHAMPION",
    "PREFIX",
    "PREVIOUS",
    "ReleaseInfo",
    "base_release",
    "champion",
    "connect",
    "history",
    "listed",
    "load_checkpoint",
    "load_model",
    "make_live",
    "promote",
    "releases",
    "rollback",
    "tag",
]
