"""As a Ray job: the portable form, the literal command, the exit status of a failing step."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from infra import cluster
from tests.conftest import ROOT
from tests.e2e.conftest import Chain

pytestmark = [pytest.mark.ray, pytest.mark.slow]

RAY = str(Path(sys.executable).parent / "ray")


@pytest.fixture(scope="module")
def headed(smoke_chain: Chain, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Chain, cluster.Head]]:
    """A finished chain and a head started in the repository root that works on it."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**smoke_chain.environment, "MVFORGE_HOME": str(smoke_chain.home)}.items():
            patch.setenv(name, value)
        head = cluster.start_head()
        try:
            yield smoke_chain, head
        finally:
            assert cluster.stop_head()
            assert not head.is_alive()


def ray_job(head: cluster.Head, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "RAY_API_SERVER_ADDRESS": head.dashboard, "RAY_AUTH_MODE": "disabled"}
    return subprocess.run([RAY, "job", "submit", *words], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)


def test_the_portable_form(headed):
    chain, head = headed
    answer = ray_job(
        head,
        "--working-dir",
        ".",
        "--runtime-env-json",
        f'{{"env_vars": {{"MVFORGE_HOME": "{chain.home}"}}}}',
        "--",
        "python",
        "pipelines/full.py",
        "smoke",
    )
    assert answer.returncode == 0, answer.stdout[-3000:] + answer.stderr[-3000:]
    assert "0 steps run, 15 reused" in answer.stdout


def test_the_literal_command_runs_tiny_by_default(headed):
    _, head = headed
    answer = ray_job(head, "--", "pipelines/full.py", "--help")
    assert answer.returncode == 0 and "usage: mvforge run" in answer.stdout
    # Without arguments it is `tiny`: with a label that cannot be, it is refused before any work and says which recipe.
    answer = ray_job(head, "--", "pipelines/full.py", "--label", "/")
    assert answer.returncode != 0 and "'/' is not a valid label" in answer.stdout


def test_a_failing_step_gives_a_failing_job(headed):
    _, head = headed
    answer = ray_job(head, "--", "pipelines/full.py", "smoke", "--set", "source=local:/no/such/folder")
    assert answer.returncode != 0
    assert "/no/such/folder" in answer.stdout


def test_submit_follows_the_log_and_carries_the_store(headed):
    chain, _ = headed
    answer = subprocess.run(
        [sys.executable, "-m", "pipelines", "submit", "smoke"],
        env=chain.environment,
        cwd=chain.home,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert answer.returncode == 0, answer.stderr[-3000:]
    assert str(chain.store) in answer.stderr and "0 steps run, 15 reused" in answer.stderr


def test_ctrl_c_stops_the_job_keeps_the_head_and_the_next_run_goes_on(headed, tmp_path):
    """The client asks for the same stop as `ray job stop`; what was rendered before it is kept."""
    chain, head = headed
    store = tmp_path / "store"
    client = chain.start("submit", "smoke", "--only", "data", "--store", str(store), stderr=subprocess.PIPE)
    pieces = store / "render" / "_cache"
    deadline = time.monotonic() + 180
    while not list(pieces.rglob("*.arrow")):
        assert client.poll() is None and time.monotonic() < deadline, "rendering never began"
        time.sleep(0.1)
    client.send_signal(signal.SIGINT)
    _, log = client.communicate(timeout=60)
    assert client.returncode == 1 and "the head stays up" in log
    assert head.is_alive()
    again = chain.mvforge("run", "smoke", "--only", "data", "--store", str(store))
    assert again["steps"]["render"]["completed"] == 6 and again["steps"]["render"]["facts"]["rendered_now"] < 6
