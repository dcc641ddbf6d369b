"""Processor, memory, disk, network and GPUs of this machine as figures of a run."""

from collections.abc import Callable
from typing import Any

from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

Log = Callable[[dict[str, float], int], None]


class SystemWatch(SystemMetricsMonitor):
    """MLflow's own monitor, whose figures go where all others go: its own loop asks the server at every sample whether the run is still
    open and ends for good when there is no answer.

    Args:
        log: takes figures and their step.
        go_on: ask the server for the last step of an earlier watch, instead of beginning at 0.
    """

    def __init__(self, tracking_uri: str, run_id: str, log: Log, go_on: bool) -> None:
        super().__init__(run_id, resume_logging=go_on, tracking_uri=tracking_uri)
        self._log = log

    def monitor(self) -> None:
        while not self._shutdown_event.is_set():
            for _ in range(self.samples_before_logging):
                self.collect_metrics()
                if self._shutdown_event.wait(self.sampling_interval):
                    return
            self.publish_metrics(self.aggregate_metrics())

    def publish_metrics(self, metrics: dict[str, Any]) -> None:
        prefix = self._metrics_prefix + (f"{self.node_id}/" if self.node_id else "")
        self._log({f"{prefix}{name}": value for name, value in metrics.items()}, self._logging_step)
        self._logging_step += 1
        for monitor in self.monitors:
            monitor.clear_metrics()
