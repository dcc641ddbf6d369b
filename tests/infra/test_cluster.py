"""The local head's record: other versions and dead processes are told apart from ours."""

import json
import os
from pathlib import Path

import pytest

from infra import cluster
from infra.errors import UserError
from infra.processes import start_time


@pytest.fixture
def head_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MVFORGE_HOME", str(tmp_path))
    return tmp_path / "head.json"


def note(path: Path, **changes) -> None:
    ray_version, python_version = cluster.versions()
    head = {
        "pid": os.getpid(),
        "pid_started": start_time(os.getpid()),
        "port": 1,
        "dashboard": "http://127.0.0.1:1",
        "ray_version": ray_version,
        "python_version": python_version,
    }
    path.write_text(json.dumps({**head, **changes}))


@pytest.mark.parametrize("changes", [{"ray_version": "2.1.0"}, {"python_version": "3.9.0"}])
def test_a_head_of_another_version_is_refused(head_file, changes):
    note(head_file, **changes)
    for use in (cluster.start_head, cluster.running_dashboard):
        with pytest.raises(UserError, match="the running head has Ray"):
            use()


def test_a_running_head_is_used_again(head_file):
    note(head_file)
    assert cluster.start_head().pid == os.getpid()


def test_a_reused_pid_is_not_our_head(head_file):
    note(head_file, pid_started="1")
    assert cluster.own_head() is None
    assert not cluster.stop_head() and not head_file.exists()
