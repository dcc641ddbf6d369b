"""Shared fixtures: the real assets when they are at hand, and one Ray cluster for the whole test session."""

import os
import shutil
import sys
import traceback
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

os.environ.setdefault("RAY_AUTH_MODE", "disabled")
os.environ.setdefault("DS_ACCELERATOR", "cpu")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
# Ray's processes report to their agent every ten seconds, and it forgets a gauge after twice that; tests of metrics wait for both.
os.environ.setdefault("RAY_metrics_report_interval_ms", "2000")
os.environ.setdefault("RAY_prestart_worker_first_driver", "0")  # workers start when they have something to do

pytest_plugins = ["tests.hang_report", "tests.ray_leftovers"]
ROOT = Path(__file__).resolve().parents[1]


SETTINGS = ("MVFORGE_", "MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI", "RAY_ADDRESS")


def settings() -> dict[str, str]:
    """Variables by which a person tells the project what to do, as they are now."""
    return {name: value for name, value in os.environ.items() if name.startswith(SETTINGS)}


@pytest.fixture(autouse=True)
def settings_stay() -> Iterator[None]:
    """A test that leaves a setting behind fails itself, rather than one that comes after it."""
    before = settings()
    yield
    after = settings()
    for name in before.keys() | after.keys():
        os.environ.pop(name, None)
    os.environ.update(before)
    assert after == before, "the test left settings of its own in the environment"


FORKED: list[str] = []


def _forked() -> None:
    stack = traceback.extract_stack()[:-1]
    if not any(frame.filename.endswith("/subprocess.py") for frame in stack):  # those become other programs at once
        FORKED.append("".join(traceback.format_list(stack[-6:])))


os.register_at_fork(after_in_parent=_forked)


@pytest.fixture(autouse=True)
def no_fork_beside_ray() -> Iterator[None]:
    """A forked child shares its parent's connections to Ray: one call of the child, and the parent's next waits for ever (Ray 2.60)."""
    FORKED.clear()
    yield
    if FORKED and "ray" in sys.modules and sys.modules["ray"].is_initialized():
        warnings.warn(f"the test forked a process that is connected to Ray; start a fresh one instead\n{FORKED[0]}", stacklevel=1)


@pytest.fixture(scope="session")
def assets() -> Path:
    """Folder of real 3D files that no one here wrote; the tests that need it are skipped where it is absent."""
    folder = os.environ.get("MVFORGE_ASSETS")
    if not folder:
        pytest.skip("MVFORGE_ASSETS is not set")
    return Path(folder)


def start_cluster() -> None:
    """A local cluster with four logical CPUs; two would starve Ray Data."""
    import ray

    ray.init(
        address="local",
        num_cpus=4,
        include_dashboard=False,
        ignore_reinit_error=True,
        log_to_driver=False,
        runtime_env={"env_vars": {"PYTHONPATH": str(ROOT), "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}},
    )


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """One real local cluster for the whole session; `tests.ray_leftovers` starts another where a test leaves work behind."""
    import ray

    start_cluster()
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def empty_tracking_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An MLflow sqlite file with its tables: making them takes seconds, copying them none."""
    from infra import tracking

    folder = tmp_path_factory.mktemp("tracking")
    tracking.check(tracking.default_uri(folder))
    return folder / "mlflow.db"


@pytest.fixture
def tracking_uri(empty_tracking_store: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A fresh, empty, embedded tracking store."""
    from infra import tracking

    folder = tmp_path_factory.mktemp("mlflow")
    shutil.copy(empty_tracking_store, folder / "mlflow.db")
    return tracking.default_uri(folder)
