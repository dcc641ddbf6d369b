"""Checkpoints on disk: what is kept, what a step waits for, and which damage is noticed."""

import json
import logging
import threading
import time
from pathlib import Path

import pytest

from infra.storage import Location
from training.checkpoint import LocalCheckpoints, SharedCheckpoints
from training.checkpoint_folder import LocalFolder


class Elsewhere(LocalFolder):
    """A folder that can only be reached as an object store can: by reading and writing whole files."""

    is_local = False

    def local_path(self):
        raise AssertionError("there is no local path")

    def __truediv__(self, name):
        return Elsewhere(self.path / name)


STORES = {"local": LocalFolder, "location": lambda path: Location(str(path)), "elsewhere": Elsewhere}


def write(step):
    def into(folder: Path):
        (folder / "deep").mkdir()
        (folder / "weights.bin").write_bytes(bytes([step]) * 3000)
        (folder / "deep" / "more.bin").write_bytes(bytes([step + 100]) * 10)

    return into


def save(checkpoints, step, score=None):
    checkpoints.save(step, write(step), {"step": step, "world": 1}, score)
    checkpoints.close()


def newest(checkpoints):
    with checkpoints.latest() as saved:
        if saved is None:
            return None
        assert (saved.folder / "weights.bin").read_bytes() == bytes([saved.state["step"]]) * 3000
        assert (saved.folder / "deep" / "more.bin").read_bytes() == bytes([saved.state["step"] + 100]) * 10
        return saved.state["step"]


@pytest.fixture(params=STORES)
def make(request, tmp_path):
    return lambda **settings: SharedCheckpoints(STORES[request.param](tmp_path), **settings)


def steps_in(folder):
    return sorted(int(path.name.split("-")[1]) for path in folder.glob("step-*"))


def test_what_was_saved_is_found_again(make, tmp_path):
    assert newest(make()) is None
    save(make(), 6)
    save(make(), 12)
    assert newest(make()) == 12
    assert not list(tmp_path.rglob("*.tmp"))


def test_the_last_and_the_best_are_retained(make, tmp_path):
    checkpoints = make(keep=2, keep_best=1)
    for step, loss in ((1, 0.9), (2, 0.3), (3, 0.5), (4, 0.3), (5, 0.4), (6, None)):
        save(checkpoints, step, loss)
    assert steps_in(tmp_path) == [2, 5, 6]  # of two equally good ones the one nearer to its validation
    assert newest(make()) == 6


def damage(folder: Path, how: str) -> None:
    if how == "flipped byte":
        content = bytearray((folder / "weights.bin").read_bytes())
        content[1234] ^= 1
        (folder / "weights.bin").write_bytes(content)
    elif how == "truncated":
        (folder / "weights.bin").write_bytes((folder / "weights.bin").read_bytes()[:-1])
    elif how == "missing file":
        (folder / "deep" / "more.bin").unlink()
    elif how == "changed manifest":
        manifest = json.loads((folder / "manifest.json").read_text())
        manifest["body"]["state"]["step"] = 13
        (folder / "manifest.json").write_text(json.dumps(manifest))
    elif how == "truncated manifest":
        (folder / "manifest.json").write_text((folder / "manifest.json").read_text()[:50])


@pytest.mark.parametrize("how", ["flipped byte", "truncated", "missing file", "changed manifest", "truncated manifest"])
def test_a_damaged_checkpoint_is_refused_by_name_and_the_one_before_is_used(make, tmp_path, how, caplog):
    checkpoints = make()
    save(checkpoints, 6)
    save(checkpoints, 12)
    (damaged,) = tmp_path.glob("step-00000012-*")
    damage(damaged, how)
    with caplog.at_level(logging.ERROR):
        assert newest(make()) == 6
    what = "manifest.json" if "manifest" in how else "more.bin" if "missing" in how else "weights.bin"
    assert damaged.name in caplog.text and what in caplog.text
    assert newest(make()) == 6 and not damaged.exists()  # and it is not tried again
    save(make(), 12)
    assert newest(make()) == 12


def test_a_half_written_checkpoint_is_named_and_removed(make, tmp_path, caplog):
    save(make(), 6)
    (complete,) = tmp_path.glob("step-*")
    half = tmp_path / "step-00000012-killed"
    half.mkdir()
    (half / "weights.bin").write_bytes((complete / "weights.bin").read_bytes())
    with caplog.at_level(logging.WARNING):
        assert newest(make()) == 6
    assert half.name in caplog.text and not half.exists()


class Slow(LocalFolder):
    """Its uploads wait for a permit."""

    permit = threading.Event()

    def __truediv__(self, name):
        return Slow(self.path / name)

    def upload(self, source):
        assert self.permit.wait(60)
        super().upload(source)


def test_training_goes_on_while_the_upload_runs(tmp_path):
    Slow.permit.clear()
    checkpoints = SharedCheckpoints(Slow(tmp_path))
    checkpoints.save(6, write(6), {"step": 6, "world": 1})  # returns although nothing can be uploaded
    waited = checkpoints.timings()
    assert set(waited) == {"checkpoint_wait_s"} and newest(LocalCheckpoints(tmp_path / "other")) is None
    assert not list(tmp_path.rglob("manifest.json"))
    time.sleep(0.2)
    Slow.permit.set()
    checkpoints.close()
    uploaded = checkpoints.timings()
    assert set(uploaded) == {"checkpoint_upload_s"} and uploaded["checkpoint_upload_s"] >= 0.2
    assert checkpoints.timings() == {}
    assert newest(LocalCheckpoints(tmp_path)) == 6


class Full(LocalFolder):
    def __truediv__(self, name):
        return Full(self.path / name)

    def upload(self, source):
        raise OSError(28, "No space left on device")


def test_an_upload_that_fails_is_raised_at_the_next_checkpoint(tmp_path):
    checkpoints = SharedCheckpoints(Full(tmp_path))
    checkpoints.save(6, write(6), {"step": 6, "world": 1})
    with pytest.raises(OSError, match="No space left"):
        checkpoints.save(12, write(12), {"step": 12, "world": 1})
