"""The one Ray cluster of the session is handed from test to test: what a test leaves running there would starve the next ones for good."""

import time
import warnings
from pathlib import Path

import psutil
import pytest

PATIENCE_S = 30.0
POLL_S = 0.1
_SEEN: set[Path] = set()


class Leftover(UserWarning):
    """A test did not give all of the cluster back."""


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Wait until all CPUs are free; start another cluster, and say so, where that never comes."""
    if "ray_cluster" not in getattr(item, "fixturenames", ()):
        return
    import ray  # tests without a cluster should not wait for it

    if not ray.is_initialized():
        return
    if item.path not in _SEEN and not _answers():
        _renew(f"before {item.nodeid} this process no longer heard of new actors")
    _SEEN.add(item.path)
    end = time.monotonic() + PATIENCE_S
    while (left := ray.available_resources().get("CPU", 0)) < (have := ray.cluster_resources().get("CPU", 0)):
        if time.monotonic() > end:
            names = [process.name() for process in psutil.Process().children(recursive=True) if process.name().startswith("ray::")]
            _renew(f"before {item.nodeid} only {left:g} of {have:g} CPUs were free: {names}")
            return
        time.sleep(POLL_S)


def _answers() -> bool:
    """Whether an actor can be made and spoken to; see `infra.hearing` for why that is asked."""
    from infra.hearing import Echo

    return Echo().answered(PATIENCE_S)


def _renew(why: str) -> None:
    import ray

    from tests.conftest import start_cluster

    warnings.warn(why, Leftover, stacklevel=1)
    ray.shutdown()
    start_cluster()
