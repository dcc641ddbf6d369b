"""Where posted figures go: to the Ray agent of this node, whose port Prometheus scrapes, and to a text file if one is asked for.

Ray's agent forgets a gauge that was not set again for about twenty seconds (Ray 2.60), so a thread posts all of them every few
seconds. The file named by `MVFORGE_METRICS_FILE` is for runs that no one can scrape: single tools, `torchrun`, a cluster that
ends with its driver. It is in Prometheus' text format with the same names, for node_exporter's textfile collector.
"""

import contextlib
import logging
import os
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

COUNTER, GAUGE = "counter", "gauge"
FILE_VARIABLE = "MVFORGE_METRICS_FILE"
RAY_PREFIX = "ray_"  # Ray puts it before every name
EVERY_S = 5.0

log = logging.getLogger(__name__)

Value = float | Callable[[], float | None]


@dataclass(frozen=True)
class Metric:
    """One name in Prometheus.

    Attributes:
        name: without Ray's prefix; counters end in `_total`.
        kind: `counter` or `gauge`.
        labels: names of its labels; a value is always given for each.
        help: one line, with the unit where the name has none.
    """

    name: str
    kind: str
    labels: tuple[str, ...]
    help: str

    @property
    def exported(self) -> str:
        return RAY_PREFIX + self.name


Key = tuple[Metric, tuple[str, ...]]


class Registry:
    """Sums of counters and last values of gauges in this process, and their way out."""

    def __init__(self) -> None:
        self._lock, self._sending = threading.Lock(), threading.Lock()
        self._counts: dict[Key, float] = {}
        self._gauges: dict[Key, Value] = {}
        self._sent: dict[Key, float] = {}
        self._open = 0
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None
        self._ray_job: str | None = None
        self._ray_metrics: dict[Metric, Any] = {}
        self._troubles: set[str] = set()

    def add(self, metric: Metric, labels: Mapping[str, str], count: float) -> None:
        key = _key(metric, labels)
        with self._lock:
            self._counts[key] = self._counts.get(key, 0.0) + count

    def put(self, metric: Metric, labels: Mapping[str, str], value: Value) -> None:
        with self._lock:
            self._gauges[_key(metric, labels)] = value

    def drop(self, labels: Mapping[str, str]) -> None:
        """Gauges with all of these labels are no longer true."""
        with self._lock:
            for key in [key for key in self._gauges if labels.items() <= dict(zip(key[0].labels, key[1], strict=True)).items()]:
                del self._gauges[key]

    @contextlib.contextmanager
    def exporting(self) -> Iterator[None]:
        """Figures leave the process every `EVERY_S` seconds while any such block runs, and once at its end."""
        with self._lock:
            self._open += 1
            if self._open == 1:
                self._ended = threading.Event()
                self._thread = threading.Thread(target=self._repeat, args=(self._ended,), name="metrics", daemon=True)
                self._thread.start()
        try:
            yield
        finally:
            with self._lock:
                self._open -= 1
                thread = self._thread if self._open == 0 else None
                if thread is not None:
                    self._ended.set()
            if thread is not None:
                thread.join()
            self.export()

    def _repeat(self, ended: threading.Event) -> None:
        while not ended.wait(EVERY_S):
            self.export()

    def export(self) -> None:
        """Send and write what there is now. Trouble is logged once a kind and never ends the work that is measured."""
        with self._sending:
            counts, gauges = self.values()
            for way in (self._to_ray, self._to_file):
                try:
                    way(counts, gauges)
                except Exception as error:
                    self._trouble(f"metrics are not exported: {type(error).__name__}: {error}")

    def values(self) -> tuple[dict[Key, float], dict[Key, float]]:
        """Counters and gauges as they are now."""
        with self._lock:
            counts, gauges = dict(self._counts), dict(self._gauges)
        now: dict[Key, float] = {}
        for key, value in gauges.items():
            try:
                figure = value() if callable(value) else value
            except Exception as error:  # a store that does not answer at the moment
                self._trouble(f"{key[0].name} cannot be told: {type(error).__name__}: {error}")
                continue
            if figure is not None:
                now[key] = float(figure)
        return counts, now

    def _trouble(self, text: str) -> None:
        if text not in self._troubles:
            self._troubles.add(text)
            log.warning("%s", text)

    def _to_ray(self, counts: dict[Key, float], gauges: dict[Key, float]) -> None:
        ray = sys.modules.get("ray")
        if ray is None or not hasattr(ray, "is_initialized") or not ray.is_initialized():
            return
        from ray.util import metrics

        job = ray.get_runtime_context().get_job_id()
        if job != self._ray_job:  # instruments die with the connection they were made in
            self._ray_job, self._ray_metrics = job, {}
        for key, total in counts.items():
            if (more := total - self._sent.get(key, 0.0)) > 0:
                self._instrument(key[0], metrics).inc(more, tags=_labels(key))
                self._sent[key] = total
        for key, value in gauges.items():
            self._instrument(key[0], metrics).set(value, tags=_labels(key))

    def _instrument(self, metric: Metric, metrics: Any) -> Any:
        if metric not in self._ray_metrics:
            make = metrics.Counter if metric.kind == COUNTER else metrics.Gauge
            self._ray_metrics[metric] = make(metric.name, description=metric.help, tag_keys=metric.labels)
        return self._ray_metrics[metric]

    def _to_file(self, counts: dict[Key, float], gauges: dict[Key, float]) -> None:
        if path := os.environ.get(FILE_VARIABLE):
            draft = Path(f"{path}.{os.getpid()}")  # node_exporter reads names that end in .prom, and nothing half-written
            draft.write_text(exposition(counts, gauges))
            draft.replace(path)

    def text(self) -> str:
        """All figures in Prometheus' text format."""
        return exposition(*self.values())


def exposition(counts: dict[Key, float], gauges: dict[Key, float]) -> str:
    """Counters and gauges in Prometheus' text format, under the names that Ray's agents export."""
    from prometheus_client import CollectorRegistry, generate_latest
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

    families: dict[Metric, Any] = {}
    for key, value in sorted({**counts, **gauges}.items(), key=lambda each: (each[0][0].name, each[0][1])):
        metric = key[0]
        kind = CounterMetricFamily if metric.kind == COUNTER else GaugeMetricFamily
        family = families.setdefault(metric, kind(metric.exported, metric.help, labels=metric.labels))
        family.add_metric(key[1], value)

    class Collected:
        def collect(self) -> list[Any]:
            return list(families.values())

    registry = CollectorRegistry()
    registry.register(Collected())  # type: ignore[arg-type]
    return generate_latest(registry).decode()


def _key(metric: Metric, labels: Mapping[str, str]) -> Key:
    if set(labels) != set(metric.labels):
        raise ValueError(f"{metric.name} has the labels {metric.labels}, not {tuple(labels)}")
    return metric, tuple(labels[name] for name in metric.labels)


def _labels(key: Key) -> dict[str, str]:
    return dict(zip(key[0].labels, key[1], strict=True))


REGISTRY = Registry()
