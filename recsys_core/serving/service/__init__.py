"""The HTTP service of released models: `dayline serve`.

`watch` sees a new release and fetches it, `live` loads it whole and swaps it in, `shapes` makes the requests' models of
its signature, `batching` answers requests together, `operations` says how, `app` is the door, `server` runs it all.
"""

from recsys_core.serving.service.limits import Limits
from recsys_core.serving.service.sources import Folder, Registered, source

__all__ = ["Folder", "Limits", "Registered", "source"]
