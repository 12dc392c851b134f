"""What the machine does while a run lasts: MLflow's own figures, sent as everything else is."""

import contextlib
from collections.abc import Callable, Iterator, Mapping

from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor


@contextlib.contextmanager
def monitor(
    keep: Callable[[Mapping[str, float], int], None],
    uri: str,
    mlflow_run_id: str,
    interval_seconds: int,
    *,
    resumed: bool,
) -> Iterator[None]:
    """Measure every so often, and hand the figures to `keep` with the number of the measurement."""
    measuring = _Monitor(mlflow_run_id, interval_seconds, resume_logging=resumed, tracking_uri=uri)
    measuring.keep = keep
    measuring.start()
    try:
        yield
    finally:
        measuring.finish()


class _Monitor(SystemMetricsMonitor):
    """MLflow's own asks the server before each figure, and ends for good where it does not answer."""

    keep: Callable[[Mapping[str, float], int], None]

    def monitor(self) -> None:
        while True:
            self.collect_metrics()
            if self._shutdown_event.wait(self.sampling_interval):
                return
            self.publish_metrics(self.aggregate_metrics())

    def publish_metrics(self, metrics: dict[str, float]) -> None:
        self.keep({f"{self._metrics_prefix}{name}": value for name, value in metrics.items()}, self._logging_step)
        self._logging_step += 1
        for one in self.monitors:
            one.clear_metrics()
