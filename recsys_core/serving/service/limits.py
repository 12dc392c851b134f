"""What the service takes, at most. What is more is refused at once: nothing waits without end."""

from pydantic import Field

from recsys_core.artifacts import Frozen
from recsys_core.serving import asked


class Limits(Frozen):
    """Options of `dayline serve`."""

    max_body_bytes: int = Field(default=256 << 10, ge=1, le=asked.MAX_BODY_BYTES, description="of a request (413)")
    max_k: int = Field(default=1_000, ge=1, description="items that a request may ask for, or give (422)")
    max_concurrency: int = Field(default=64, ge=1, description="requests that are answered or wait for it (429)")
    max_connections: int = Field(default=512, ge=1, description="open connections; a further one is closed with 429")
    max_batch: int = Field(default=32, ge=1, description="requests that are answered together")
    batch_wait_ms: float = Field(
        default=0,
        ge=0,
        le=100,
        description="how long the first request of a batch waits for others; 0 takes those that came meanwhile",
    )
    request_seconds: float = Field(default=2, gt=0, description="until a request that waits is given up (503)")
    body_seconds: float = Field(default=5, gt=0, description="until a request's head, and its body, are there (408)")
    drain_seconds: int = Field(default=30, ge=0, description="that requests get to end after SIGTERM")
