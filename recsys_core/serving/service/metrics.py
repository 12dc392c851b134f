"""What `/metrics` shows, in Prometheus' text format."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5, 1, 2, 5)
_SIZES = (1, 2, 4, 8, 16, 32, 64)


class Metrics:
    """The service's own counters; every service has its own."""

    def __init__(self) -> None:
        """Start at nothing."""
        self._registry = registry = CollectorRegistry(auto_describe=True)
        self._requests = Counter("dayline_requests", "Requests answered", ["path", "status"], registry=registry)
        self._seconds = Histogram(
            "dayline_request_seconds",
            "From a request's head to its answer",
            ["path"],
            buckets=_SECONDS,
            registry=registry,
        )
        self._batches = Histogram(
            "dayline_batch_requests", "Requests that were answered together", buckets=_SIZES, registry=registry
        )
        self._batch_seconds = Histogram(
            "dayline_batch_seconds", "Time of the model and the index for a batch", buckets=_SECONDS, registry=registry
        )
        self.held = Gauge("dayline_requests_held", "Requests that wait or are being answered", registry=registry)
        self._swaps = Counter("dayline_swaps", "Releases that went live", registry=registry)
        self._refused = Counter("dayline_swaps_refused", "Releases that were not taken", registry=registry)
        self._release = Gauge(
            "dayline_release_info", "What is live", ["place", "release", "version"], registry=registry
        )
        self._children: dict[tuple[str, int], Counter] = {}
        self._timers: dict[str, Histogram] = {}

    def answered(self, path: str, status: int, seconds: float) -> None:
        """Count an answer."""
        if (counter := self._children.get((path, status))) is None:
            counter = self._children[path, status] = self._requests.labels(path, status)
        counter.inc()
        if (timer := self._timers.get(path)) is None:
            timer = self._timers[path] = self._seconds.labels(path)
        timer.observe(seconds)

    def batch(self, num_requests: int, seconds: float) -> None:
        """Count a batch."""
        self._batches.observe(num_requests)
        self._batch_seconds.observe(seconds)

    def swapped(self, releases: dict[str, tuple[str, str]]) -> None:
        """Say what is live now: name and version by place."""
        self._swaps.inc()
        self._release.clear()
        for place, (name, version) in releases.items():
            self._release.labels(place, name, version).set(1)

    def refused(self) -> None:
        """Count a release that was not taken."""
        self._refused.inc()

    def text(self) -> bytes:
        """Return all of it."""
        return generate_latest(self._registry)
