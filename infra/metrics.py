"""Figures for Prometheus: every name stands in one table here, and steps post them through the `Meter` of their job.

Only the driver posts, for all workers of a step, from what they answer: so a counter is exact however many workers are killed,
and a cluster has as many series as it had runs and steps, not as many as it had worker processes. No label ever holds the name
of an object. What happens with the figures is in `infra.metrics_export`.
"""

import re
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from infra.metrics_export import COUNTER, GAUGE, REGISTRY, Metric

STEP = ("step", "label")
TOOL = "tool"  # label of single tools, which have none
METRICS = {
    metric.name: metric
    for metric in (
        Metric("mvforge_items_total", COUNTER, (*STEP, "status", "reason"), "items by outcome: ok, kept (of earlier), failed, rejected"),
        Metric("mvforge_views_total", COUNTER, STEP, "views rendered or generated"),
        Metric("mvforge_bytes_total", COUNTER, STEP, "bytes of the files that a step fetched and checked"),
        Metric("mvforge_steps_total", COUNTER, (*STEP, "status"), "steps that ended: finished, failed, killed"),
        Metric("mvforge_step_seconds", GAUGE, STEP, "seconds since the step in progress began"),
        Metric("mvforge_queue_items", GAUGE, STEP, "what the step in progress has still to do: items, or updates of a training"),
        Metric("mvforge_train_step", GAUGE, STEP, "updates done"),
        Metric("mvforge_train_step_seconds", GAUGE, STEP, "seconds an update, mean since the row before"),
        Metric("mvforge_train_loss", GAUGE, STEP, "training loss, mean since the row before"),
        Metric("mvforge_train_mfu", GAUGE, STEP, "share of the device's peak arithmetic rate, 0 to 1; absent where the peak is unknown"),
        Metric("mvforge_train_objects_per_second", GAUGE, STEP, "objects all ranks train on together"),
        Metric("mvforge_train_memory_bytes", GAUGE, STEP, "most memory that a rank has held"),
        Metric("mvforge_loader_stall_seconds", GAUGE, STEP, "seconds an update that ranks stood still for data, mean since the row before"),
        Metric("mvforge_checkpoint_wait_seconds", GAUGE, STEP, "seconds that training stood still for its last checkpoint"),
        Metric("mvforge_checkpoint_upload_seconds", GAUGE, STEP, "seconds that the last checkpoint took to arrive in the store"),
        Metric("mvforge_checkpoint_age_seconds", GAUGE, STEP, "seconds of training that a failure now would lose"),
    )
}
# Names in the rows of `training.loop`, and the factor to the unit in the metric's name.
TRAINING = {
    "step": ("mvforge_train_step", 1.0),
    "seconds": ("mvforge_train_step_seconds", 1.0),
    "loss": ("mvforge_train_loss", 1.0),
    "mfu": ("mvforge_train_mfu", 1.0),
    "samples_per_s": ("mvforge_train_objects_per_second", 1.0),
    "peak_memory_gb": ("mvforge_train_memory_bytes", float(2**30)),
    "data_wait_s": ("mvforge_loader_stall_seconds", 1.0),
    "checkpoint_wait_s": ("mvforge_checkpoint_wait_seconds", 1.0),
    "checkpoint_upload_s": ("mvforge_checkpoint_upload_seconds", 1.0),
}
OK, KEPT, FAILED, REJECTED = "ok", "kept", "failed", "rejected"
# A reason is a word such as `no_mesh`. Anything else, and more kinds than these, become `other`: labels must stay few.
REASON, MOST_REASONS, OTHER = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,39}"), 50, "other"


@dataclass(frozen=True)
class Tally:
    """What a step counted in the end; the parts of `infra.job.Summary` that matter here."""

    completed: int
    failed: int
    rejected: int
    reasons: Mapping[str, int]


class Meter:
    """Posts the figures of one step of one label; one without a step posts nothing."""

    def __init__(self, step: str = "", label: str = "") -> None:
        self._labels = {"step": step, "label": label}
        self._posted: Counter[tuple[str, str]] = Counter()
        self._kept = 0

    def items(self, status: str, count: int = 1, reason: str = "") -> None:
        """`count` more items have ended as `ok`, `kept`, `failed` or `rejected`; the latter two with a reason."""
        if count > 0:
            key = status, self._few(status, reason)
            self._posted[key] += count
            self._add("mvforge_items_total", count, status=key[0], reason=key[1])

    def views(self, count: int) -> None:
        """So many more views are made."""
        self._add("mvforge_views_total", count)

    def bytes(self, count: int) -> None:
        """So many more bytes are fetched and checked."""
        self._add("mvforge_bytes_total", count)

    def queue(self, left: int) -> None:
        """So much is still to do."""
        self.gauge("mvforge_queue_items", left)

    def kept(self, count: int) -> None:
        """So many items were finished before this run; `settle` tells them from those made now."""
        self._kept += count

    def training(self, row: Mapping[str, float]) -> None:
        """A row of kind `train` of the training loop."""
        for key, (name, factor) in TRAINING.items():
            if key in row:
                self.gauge(name, row[key] * factor)

    def gauge(self, name: str, value: float | Callable[[], float | None]) -> None:
        """A figure as it is now, or what tells it whenever it is exported; it goes when the step ends."""
        if self._labels["step"]:
            REGISTRY.put(METRICS[name], self._labels, value)

    def settle(self, tally: Tally) -> None:
        """Post what was not posted while the step ran, so that the sums are those of its ledger.

        Completed items that were there before are `kept`; failed ones count with the reasons of this build's ledger.
        """
        missing = tally.completed - self._sum(OK) - self._sum(KEPT)
        kept = min(max(missing, 0), self._kept)
        self.items(KEPT, kept)
        self.items(OK, missing - kept)
        self.items(REJECTED, tally.rejected - self._sum(REJECTED))
        for reason, count in tally.reasons.items():
            self.items(FAILED, min(count - self._posted[FAILED, self._few(FAILED, reason)], tally.failed - self._sum(FAILED)), reason)
        self.items(FAILED, tally.failed - self._sum(FAILED), OTHER)

    def _sum(self, status: str) -> int:
        return sum(count for (each, _), count in self._posted.items() if each == status)

    def _few(self, status: str, reason: str) -> str:
        if status not in (FAILED, REJECTED) or not reason:
            return ""
        word = reason.partition(":")[0]
        known = {each for _, each in self._posted}
        return word if REASON.fullmatch(word) and (word in known or len(known) < MOST_REASONS) else OTHER

    def _add(self, name: str, count: float, **labels: str) -> None:
        if self._labels["step"] and count > 0:
            REGISTRY.add(METRICS[name], self._labels | labels, count)


@contextmanager
def measured(step: str, label: str) -> Iterator[Meter]:
    """The meter of a step that runs while the block does; how the block ends is counted, and the step's gauges go."""
    meter, began = Meter(step, label), time.time()
    meter.gauge("mvforge_step_seconds", lambda: time.time() - began)
    status = "failed"
    with REGISTRY.exporting():
        try:
            yield meter
            status = "finished"
        except KeyboardInterrupt:
            status = "killed"
            raise
        finally:
            REGISTRY.add(METRICS["mvforge_steps_total"], {"step": step, "label": label, "status": status}, 1)
            REGISTRY.drop({"step": step, "label": label})


def exported_names() -> set[str]:
    """The names as Prometheus sees them."""
    return {metric.exported for metric in METRICS.values()}
