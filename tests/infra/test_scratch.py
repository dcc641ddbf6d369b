"""Temporary folders of killed processes are removed by the next one; those of living ones are left alone."""

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from infra import scratch
from tests.conftest import ROOT

HOLD = """
import sys
from infra.scratch import make_scratch
made = make_scratch("share")
(made.folder / "weights").write_bytes(b"x" * 1000)
print(made.folder, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The system's temporary folder, of this test alone."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return tmp_path


def holder() -> tuple[subprocess.Popen[str], Path]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen([sys.executable, "-c", HOLD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
    assert process.stdout is not None
    return process, Path(process.stdout.readline().strip())


def test_a_killed_process_s_folder_is_removed_and_a_living_one_s_is_not(place: Path):
    (dead, dead_folder), (alive, alive_folder) = holder(), holder()
    try:
        assert dead_folder.parent == alive_folder.parent == place
        dead.send_signal(signal.SIGKILL)
        dead.wait()
        assert dead_folder.exists()
        scratch.remove_abandoned()
        assert not dead_folder.exists() and (alive_folder / "weights").stat().st_size == 1000
        with scratch.scratch_folder("mine") as own:
            scratch.remove_abandoned()
            assert own.is_dir()
    finally:
        alive.communicate("")
    scratch.remove_abandoned()
    assert list(place.iterdir()) == []


def test_other_files_are_nobody_s_business(place: Path):
    for name in ("mvforge-old", "notes.lock", "mvforge-blender-1-x"):
        (place / name).mkdir()
    scratch.remove_abandoned()
    assert len(list(place.iterdir())) == 3
