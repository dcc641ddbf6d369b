"""The Slurm script, with programs in place of srun and scontrol that write down how they were called (no Slurm is here)."""

import os
import shlex
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from infra.notice import STATUS
from tests.infra.deployment import ROOT, SBATCH

# Steps that would go on for ever do so until they are told to end; the others answer as on a node.
SRUN = """#!/usr/bin/env bash
printf '%s\\n' "RAY_AUTH_MODE=$RAY_AUTH_MODE token=$(stat -c %a "$RAY_AUTH_TOKEN_PATH") $*" >>"$CALLS"
case "$*" in
    *"hostname --ip-address"*) echo "10.1.2.3 fe80::1" ;;
    *"ray health-check"*) [ -z "$HEAD_FAILS" ] ;;
    *"ray start"*) [ -z "$HEAD_FAILS" ] || exit 1; trap 'echo ended >>"$CALLS"; exit 0' TERM; while :; do sleep 0.05; done ;;
esac
"""
SCONTROL = """#!/usr/bin/env bash
printf '%s\\n' "scontrol $*" >>"$CALLS"
if [ "$1" = show ]; then printf 'node%s\\n' 1 2 3; fi
"""
PYTHON = """#!/usr/bin/env bash
if [ "$1" = -c ]; then exec "$REAL_PYTHON" "$@"; fi
printf '%s\\n' "driver RAY_ADDRESS=$RAY_ADDRESS token=$RAY_AUTH_TOKEN $*" >>"$CALLS"
trap 'echo "driver stopped notice=$MVFORGE_NOTICE_S" >>"$CALLS"; [ -n "$DEAF" ] || exit 75' TERM
until [ "$(grep -c "ray start" "$CALLS")" -ge 3 ]; do sleep 0.05; done
for _ in $(seq "$DRIVER_TENTHS"); do sleep 0.1; done
exit "$DRIVER_STATUS"
"""


@pytest.fixture
def batch(tmp_path):
    """`batch(status=..., tenths=..., ...)` starts the script as Slurm's batch shell would."""
    fakes, venv = tmp_path / "fakes", tmp_path / "venv" / "bin"
    for folder, name, text in ((fakes, "srun", SRUN), (fakes, "scontrol", SCONTROL), (venv, "python", PYTHON)):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    started = []

    def start(
        *arguments: str, status: int = 0, tenths: int = 1, deaf: str = "", head_fails: str = "", **more: str
    ) -> subprocess.Popen[str]:
        environment = {
            **os.environ,
            "PATH": f"{fakes}{os.pathsep}{os.environ['PATH']}",
            "CALLS": str(tmp_path / "calls"),
            "REAL_PYTHON": sys.executable,
            "DRIVER_STATUS": str(status),
            "DRIVER_TENTHS": str(tenths),
            "DEAF": deaf,
            "HEAD_FAILS": head_fails,
            "SLURM_JOB_ID": "123456",
            "SLURM_JOB_NODELIST": "node[1-3]",
            "SLURM_SUBMIT_DIR": str(ROOT),
            "SLURM_CPUS_ON_NODE": "64",
            "MVFORGE_VENV": str(tmp_path / "venv"),
            "MVFORGE_TOKENS": str(tmp_path / "tokens"),
            "MVFORGE_STORE": "s3://bucket/store",
            "MLFLOW_TRACKING_URI": "http://tracking:5000",
            "MVFORGE_PATIENCE_S": "1",
            "RAY_AUTH_TOKEN": "one that must not win over the file",
            **more,
        }
        script = subprocess.Popen(
            ["bash", str(SBATCH), *arguments],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        started.append(script)
        return script

    yield start
    for script in started:
        if script.poll() is None:
            os.killpg(script.pid, signal.SIGKILL)


def calls(tmp_path: Path) -> list[str]:
    path = tmp_path / "calls"
    return path.read_text().splitlines() if path.exists() else []


def wait_for(tmp_path: Path, text: str) -> None:
    deadline = time.monotonic() + 30
    while not any(text in line for line in calls(tmp_path)):
        assert time.monotonic() < deadline, calls(tmp_path)
        time.sleep(0.02)


def test_head_workers_and_pipeline(batch, tmp_path):
    from ray.scripts.scripts import start

    script = batch("small", "--set", "objects=10")
    _, errors = script.communicate(timeout=60)
    assert script.returncode == 0, errors
    said = calls(tmp_path)
    starts = [line for line in said if "ray start" in line]
    assert [line.partition("--nodelist=")[2].split()[0] for line in sorted(starts, key=lambda line: line.partition("--nodelist=")[2])] == [
        "node1",
        "node2",
        "node3",
    ]
    for line in starts:
        assert line.startswith("RAY_AUTH_MODE=token token=600 "), "on, and readable by its owner alone"
        given = start.make_context("start", shlex.split(line.partition("ray start")[2])).params
        assert given["block"] and given["num_cpus"] == 64
        assert given["head"] == ("node1" in line)
        if given["head"]:
            assert (given["node_ip_address"], given["port"], given["dashboard_host"]) == ("10.1.2.3", 23456, "127.0.0.1")
        else:
            assert given["address"] == "10.1.2.3:23456"
    (driver,) = [line for line in said if line.startswith("driver RAY")]
    assert driver == "driver RAY_ADDRESS=10.1.2.3:23456 token= pipelines/full.py small --set objects=10"
    wait_for(tmp_path, "ended")
    assert not any("requeue" in line for line in said)
    assert list((tmp_path / "tokens").iterdir()) == [], "the token goes with the cluster"
    assert stat.S_IMODE((tmp_path / "tokens").stat().st_mode) == 0o700


def test_failure_of_the_pipeline_is_the_jobs(batch, tmp_path):
    script = batch("small", status=2)
    script.communicate(timeout=60)
    assert script.returncode == 2
    assert not any("requeue" in line for line in calls(tmp_path)), "an error would come back for ever"


@pytest.mark.parametrize("deaf", ["", "yes"])
def test_notice_stops_the_pipeline_and_requeues(batch, tmp_path, deaf):
    script = batch("small", tenths=600, deaf=deaf)
    wait_for(tmp_path, "driver RAY")
    script.send_signal(signal.SIGTERM)
    _, errors = script.communicate(timeout=60)
    said = calls(tmp_path)
    assert "driver stopped notice=0" in said, "of one second of patience, a training gets none"
    assert "scontrol requeue 123456" in said, errors
    assert script.returncode == (137 if deaf else STATUS), "a pipeline that does not listen is killed when patience ends"
    wait_for(tmp_path, "ended")


def test_pipeline_that_ends_well_in_spite_of_a_notice_is_not_run_again(batch, tmp_path):
    script = batch("small", tenths=5, deaf="yes", MVFORGE_PATIENCE_S="30")
    wait_for(tmp_path, "driver RAY")
    script.send_signal(signal.SIGTERM)
    _, errors = script.communicate(timeout=60)
    assert script.returncode == 0, errors
    assert not any("requeue" in line for line in calls(tmp_path))


def test_head_that_does_not_start_is_told(batch, tmp_path):
    script = batch("small", head_fails="yes")
    _, errors = script.communicate(timeout=60)
    assert script.returncode == 1 and "did not come up" in errors
    assert not any("driver" in line for line in calls(tmp_path))


@pytest.mark.parametrize("missing", ["MVFORGE_STORE", "MLFLOW_TRACKING_URI", "SLURM_SUBMIT_DIR"])
def test_missing_settings_are_named(batch, tmp_path, missing):
    script = batch("small", **{missing: ""})
    _, errors = script.communicate(timeout=60)
    assert script.returncode != 0 and missing in errors
    assert calls(tmp_path) == []


def test_directives_allow_what_the_script_relies_on():
    directives = [line.removeprefix("#SBATCH ") for line in SBATCH.read_text().splitlines() if line.startswith("#SBATCH")]
    assert {"--requeue", "--ntasks-per-node=1", "--open-mode=append"} <= set(directives)
    (notice,) = [int(line.rpartition("@")[2]) for line in directives if line.startswith("--signal=B:TERM@")]
    assert notice > 90, "the default patience ends before Slurm's"


def test_a_training_has_time_for_its_checkpoint(batch, tmp_path):
    """The usual settings: more than the 30 seconds that a notice promises at least, and less than the patience of the script."""
    script = batch("small", tenths=600, MVFORGE_PATIENCE_S="")
    wait_for(tmp_path, "driver RAY")
    script.send_signal(signal.SIGTERM)
    script.communicate(timeout=60)
    assert script.returncode == STATUS and "driver stopped notice=70" in calls(tmp_path)
    assert any("requeue" in line for line in calls(tmp_path))
