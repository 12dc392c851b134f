# faiss wraps C++ and adds to its classes when it is imported.
from typing import Any

def __getattr__(name: str) -> Any: ...
