"""How a step runs here and now, as opposed to what it computes.

Nothing in this file may enter a step's fingerprint: two runs that differ only in a `Job` make the same result.
"""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Protocol

from infra.metrics import Meter, Tally
from infra.progress import Progress
from infra.storage import Location


@dataclass(frozen=True)
class Resources:
    """What a step may use: `workers` actors, tasks or training processes with so many logical CPUs and GPUs each.

    With `min_workers`, training begins and goes on with any number from it to `workers`, as the cluster has room for.
    """

    workers: int = 2
    cpus: float = 1.0
    gpus: float = 0.0
    min_workers: int | None = None


@dataclass
class Summary:
    """What a step reports when it ends; counts are items (objects, or what the step's docstring says)."""

    completed: int
    failed: int = 0
    rejected: int = 0
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def reasons(self) -> dict[str, int]:
        """Failed items by reason, where the step tells."""
        told = self.facts.get("reasons")
        return {str(reason): n for reason, n in told.items() if isinstance(n, int)} if isinstance(told, dict) else {}

    @property
    def tally(self) -> Tally:
        """The counts, for the metrics."""
        return Tally(self.completed, self.failed, self.rejected, self.reasons)


class Run(Protocol):
    """A tracking run as steps see it; `infra.tracking.TrackedRun` writes to MLflow, `SilentRun` nowhere."""

    @property
    def run_id(self) -> str | None: ...
    @property
    def tracking_uri(self) -> str | None: ...
    @property
    def buffered(self) -> int: ...

    def params(self, values: dict[str, Any]) -> None: ...
    def metrics(self, values: dict[str, float], step: int = 0) -> None: ...
    def tags(self, values: dict[str, str]) -> None: ...
    def artifact(self, name: str, data: bytes) -> None: ...
    def last_step(self, metric: str) -> int | None: ...
    def watching_system(self) -> AbstractContextManager[None]: ...


class SilentRun:
    """Tracks nothing: for single tools and plain function calls."""

    run_id: str | None = None
    tracking_uri: str | None = None
    buffered: int = 0

    def params(self, values: dict[str, Any]) -> None:
        pass

    def metrics(self, values: dict[str, float], step: int = 0) -> None:
        pass

    def tags(self, values: dict[str, str]) -> None:
        pass

    def artifact(self, name: str, data: bytes) -> None:
        pass

    def last_step(self, metric: str) -> int | None:
        return None

    def watching_system(self) -> AbstractContextManager[None]:
        return nullcontext()


@dataclass
class Job:
    """Execution settings handed to every step function.

    Attributes:
        resources: workers and their sizes.
        cache: a place kept across builds of this step (finished pieces, downloads); None means no reuse.
        fresh_since: epoch seconds; pieces in `cache` older than this are ignored and made again (a rerun).
        retry_failed: pieces in `cache` that record a failure are ignored and tried again.
        build_id: identity of the build in progress; unchanged when an interrupted build is continued.
        run: where parameters, metrics and artifacts are tracked.
        meter: where figures for Prometheus are posted, by the driver only.
    """

    resources: Resources = Resources()
    cache: Location | None = None
    fresh_since: float | None = None
    retry_failed: bool = False
    build_id: str = "local"
    run: Run = field(default_factory=SilentRun)
    meter: Meter = field(default_factory=Meter)

    def progress(self, description: str, total: int, unit: str = "obj", done: int = 0) -> Progress:
        self.meter.kept(done)
        return Progress(description, total, unit, done, self.meter.queue)
