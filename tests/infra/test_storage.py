"""Places: joining names, atomic writes, listings that show no half-written file."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from infra.errors import UserError
from infra.storage import Location, sha256_of_tree
from tests.conftest import ROOT


def test_names_join_on_disks_and_in_urls(tmp_path):
    odd = Location(str(tmp_path)) / "what? a #1 & name"
    odd.write_text("x")
    assert odd.name == "what? a #1 & name" and (tmp_path / "what? a #1 & name").read_text() == "x"
    assert (odd.uri + "/child") == str(odd / "child")
    url = Location("s3://bucket/a?endpoint_override=host:1")
    assert str(url / "b" / "c.json") == "s3://bucket/a/b/c.json?endpoint_override=host:1" and (url / "b").name == "b"


def test_relative_paths_are_refused():
    with pytest.raises(UserError, match="relative path"):
        Location("here/there")


def test_json_refuses_what_json_cannot_hold(tmp_path):
    with pytest.raises(ValueError):
        (Location(str(tmp_path)) / "x.json").write_json({"loss": float("nan")})
    assert list(tmp_path.iterdir()) == []


def test_a_writer_killed_at_any_moment_leaves_whole_files_only(tmp_path):
    code = f"""
import itertools
from infra.storage import Location
place = Location({str(tmp_path)!r}) / "value.json"
for number in itertools.count():
    place.write_json([number] * 20000)
"""
    writer = subprocess.Popen([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": str(ROOT)})
    deadline = time.monotonic() + 60
    while not (tmp_path / "value.json").exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    time.sleep(0.2)
    os.kill(writer.pid, signal.SIGKILL)
    writer.wait()
    values = json.loads((tmp_path / "value.json").read_text())
    assert len(values) == 20000 and len(set(values)) == 1
    assert [entry.name for entry in Location(str(tmp_path)).children()] == ["value.json"], "a left-over temporary file is never listed"


def test_trees_copy_and_hash_alike(tmp_path: Path):
    source = tmp_path / "source"
    (source / "deep").mkdir(parents=True)
    (source / "a.txt").write_text("a")
    (source / "deep" / "b.txt").write_text("b")
    target = Location(str(tmp_path / "target"))
    target.upload(source)
    target.download(tmp_path / "back")
    assert sha256_of_tree(source) == sha256_of_tree(tmp_path / "target") == sha256_of_tree(tmp_path / "back")
    target.delete()
    assert not target.exists() and not target.children()
