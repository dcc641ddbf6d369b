"""The one Ray cluster of the session is handed from test to test: what a test leaves running there would starve the next ones for good."""

import time
import warnings

import psutil
import pytest

PATIENCE_S = 45.0
POLL_S = 0.1


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
    end = time.monotonic() + PATIENCE_S
    while (left := ray.available_resources().get("CPU", 0)) < (have := ray.cluster_resources().get("CPU", 0)):
        if time.monotonic() > end:
            names = [process.name() for process in psutil.Process().children(recursive=True) if process.name().startswith("ray::")]
            warnings.warn(f"before {item.nodeid} only {left:g} of {have:g} CPUs were free: {names}", Leftover, stacklevel=1)
            ray.shutdown()
            from tests.conftest import start_cluster

            start_cluster()
            return
        time.sleep(POLL_S)
