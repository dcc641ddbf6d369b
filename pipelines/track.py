"""One MLflow parent run per pipeline run, a child per step that runs; reused steps are named on the parent."""

from typing import Any

from infra import tracking
from infra.job import Run
from pipelines.artifact import Record
from pipelines.dag import Step
from pipelines.fingerprint import canonical

EXPERIMENT = "mvforge"


class PipelineTracking:
    """Opens runs lazily: a call that finds everything done leaves no trace in the tracking store."""

    def __init__(self, uri: str, name: str, params: dict[str, Any], tags: dict[str, str]) -> None:
        self._uri, self._name, self._params, self._tags = uri, name, params, tags
        self._parent: tracking.TrackedRun | None = None
        self._reused: dict[str, str] = {}

    def _open(self, name: str, **options: Any) -> tracking.TrackedRun:
        return tracking.open_run(self._uri, EXPERIMENT, name, **options)

    def step_run(self, step: Step, label: str, build_id: str) -> Run:
        if self._parent is None:
            self._parent = self._open(self._name, tags=self._tags)
            self._parent.params(self._params)
            self._parent.tags(self._reused)
        run = self._open(
            step.name,
            parent_run_id=self._parent.run_id,
            tags={"mvforge.step": step.name, "mvforge.label": label, "mvforge.build_id": build_id},
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
            self._parent.end(status)

    @property
    def parent_run_id(self) -> str | None:
        return self._parent.run_id if self._parent is not None else None
