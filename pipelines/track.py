"""One MLflow parent run per pipeline run, a child per step that runs; reused steps are named on the parent."""

import os
import socket
from typing import Any

from infra import tracking
from infra.job import Run
from infra.processes import start_time
from pipelines.artifact import Record
from pipelines.dag import Step
from pipelines.fingerprint import canonical

EXPERIMENT = "mvforge"
DRIVER, STORE, STEP, LABEL = "mvforge.driver", "mvforge.store", "mvforge.step", "mvforge.label"


def this_driver() -> str:
    """What tells this process from all others: host, number, start in clock ticks since boot."""
    return f"{socket.gethostname()}/{os.getpid()}/{start_time(os.getpid())}"


def is_gone(driver: str) -> bool:
    """Whether a driver ran on this host and does not any more."""
    host, pid, started = driver.rsplit("/", 2)
    return host == socket.gethostname() and start_time(int(pid)) != started


class PipelineTracking:
    """Opens runs lazily: a call that finds everything done leaves no trace in the tracking store."""

    def __init__(self, uri: str, name: str, params: dict[str, Any], tags: dict[str, str]) -> None:
        self._uri, self._name, self._params, self._tags = uri, name, params, tags | {DRIVER: this_driver()}
        # On the runs of steps too, so that those of a killed driver are found.
        self._origin = {name: value for name, value in self._tags.items() if name in (DRIVER, STORE)}
        self._parent: tracking.TrackedRun | None = None
        self._reused: dict[str, str] = {}

    def _open(self, name: str, **options: Any) -> tracking.TrackedRun:
        return tracking.open_run(self._uri, EXPERIMENT, name, **options)

    def step_run(self, step: Step, label: str, build_id: str) -> Run:
        if self._parent is None:
            self._parent = self._open(self._name, tags=self._tags)
            self._parent.params(self._params)
            self._parent.tags(self._reused)
        self._end_abandoned(step.name, label)
        run = self._open(
            step.name,
            parent_run_id=self._parent.run_id,
            tags=self._origin | {STEP: step.name, LABEL: label, "mvforge.build_id": build_id},
        )
        run.params(canonical(step.config))
        return run

    def end_step(self, run: Run, status: str) -> None:
        assert isinstance(run, tracking.TrackedRun)
        run.end(status)

    def reused(self, record: Record) -> None:
        tag = {f"mvforge.reused.{record.step}": f"{record.label}/{record.build_id}"}
        self._reused |= tag
        if self._parent is not None:
            self._parent.tags(tag)

    def end(self, status: str) -> None:
        """Close the parent run, if one was opened."""
        if self._parent is not None:
            self._end_abandoned()
            self._parent.end(status)

    def _end_abandoned(self, step: str | None = None, label: str | None = None) -> None:
        """Mark runs on this store as KILLED whose driver is gone: it died on this host, or we hold the lease of what it built."""
        store = self._origin.get(STORE)
        going = tracking.running_runs(self._uri, EXPERIMENT, {STORE: store}) if store else []
        ours = this_driver()
        others = [(run, tags) for run, tags in going if tags.get(DRIVER, ours) != ours]
        gone = {
            tags[DRIVER]
            for _, tags in others
            if is_gone(tags[DRIVER]) or (step is not None and (tags.get(STEP), tags.get(LABEL)) == (step, label))
        }
        for run, tags in others:
            if tags[DRIVER] in gone:
                run.end("KILLED")

    @property
    def parent_run_id(self) -> str | None:
        return self._parent.run_id if self._parent is not None else None
