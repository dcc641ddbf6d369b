"""A folder of whole and broken files, each kind of process killed on the way, then the same command again.

Every object ends complete or with its reason, none twice, and the ledger has a row for every file.
"""

import io
import json
import os
import subprocess
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from rendering.rigs import RigConfig, rig_named
from rendering.sources import local
from tests.e2e import render_processes as processes
from tests.e2e.conftest import Chain
from tests.e2e.mixed_folder import WHOLE, fill
from tests.waiting import is_gone, until

pytestmark = [pytest.mark.ray, pytest.mark.blender, pytest.mark.slow]

RESOLUTION = 48
# Eight even azimuths at one elevation, three random views: seeded per object, so every object has cameras of its own.
RIG = {
    "fov_deg": 50,
    "radius": 1.8,
    "grids": [{"azimuths": 8, "elevation_deg": [20]}],
    "random": [{"count": 3, "elevation_deg": [-10, 45], "radius": [1.6, 2.2], "role": "condition"}],
}
ROLES = ["target"] * 8 + ["condition"] * 3
OLD_S = 7200.0


@dataclass
class Folder:
    """The input, where it is rendered to, and the command that does it. `expected`: path -> `WHOLE` or the reason."""

    chain: Chain
    source: Path
    store: Path
    expected: dict[Path, str]

    @property
    def command(self) -> list[str]:
        rig = self.chain.home / "rig.json"
        rig.write_text(json.dumps(RIG))
        settings = ["--resolution", str(RESOLUTION), "--samples", "1", "--rig", f"file:{rig}", "--workers", "2", "--passes", "depth"]
        return ["render", "--source", f"local:{self.source}", "--store", str(self.store), *settings]

    def pieces(self) -> list[Path]:
        """What has been finished so far; temporary and other files are left out."""
        found = [*self.store.glob("_cache/render/pieces/*/*.arrow"), *self.store.glob("_cache/render/pieces/*/*.json")]
        return sorted(path for path in found if not path.name.startswith("."))

    def status(self) -> dict[str, Any]:
        (status,) = self.chain.mvforge("status", "render", "--store", str(self.store))["renders"]
        return status


def outcome(piece: Path) -> dict[str, Any]:
    """What a piece tells, read without the code under test; half a file would raise."""
    if piece.suffix == ".json":
        return json.loads(piece.read_text())
    with pa.OSFile(str(piece)) as file, pa.ipc.open_file(file) as reader:
        assert reader.read_all().num_rows == 1
        return json.loads(reader.schema.metadata[b"mvforge_outcome"])


def interrupt(folder: Folder) -> set[int]:
    """Start rendering and kill -9 one Blender child, one actor (of the other child) and the driver; returns the actors' pids."""
    log = folder.chain.home / "driver.log"
    with open(log, "wb") as stream:
        driver = folder.chain.start(*folder.command, "--json", stdout=subprocess.DEVNULL, stderr=stream)
    known = []
    try:

        def alive() -> bool:
            assert driver.poll() is None, f"the driver ended by itself:\n{log.read_text()[-3000:]}"
            return True

        until(lambda: alive() and folder.pieces() and len(processes.blenders(driver.pid)) == 2, "two workers, a finished object")
        child, other = processes.blenders(driver.pid)
        actor, survivor = other.parent(), child.parent()
        assert actor is not None and survivor is not None and actor.pid != survivor.pid
        assert len(processes.scratch_folders({actor.pid, survivor.pid})) == 2
        child.kill()
        actor.kill()
        until(lambda: is_gone(other), "the child of the killed actor ends with it", 20)
        # The object whose child was killed is tried again by its actor, which lives on.
        until(lambda: alive() and any(outcome(piece)["attempts"] == 2 for piece in folder.pieces()), "a second attempt")
        known = processes.descendants(driver.pid)
        ours = [process for blender in processes.blenders(driver.pid) for process in (blender, *blender.parents()[:1])]
        driver.kill()
        driver.wait()
        until(lambda: all(map(is_gone, ours)), "no actor and no Blender lives on without its driver", 60)
        return {actor.pid, survivor.pid}
    finally:
        driver.kill()
        driver.wait()
        processes.end(known)


def leave_more_behind(folder: Folder) -> None:
    """As if the driver had been killed while it packed, and hours had passed: a shard, and temporary files that are old."""
    (folder.store / "part-00003.parquet").write_bytes(b"PAR1")
    for place in (folder.store, folder.pieces()[0].parent):
        (place / ".0123456789abcdef.tmp").write_bytes(b"half a pie")
    for path in folder.store.rglob("*"):
        if path.name.endswith(".tmp"):
            os.utime(path, (time.time() - OLD_S,) * 2)


def check_cameras(row: dict[str, Any]) -> None:
    """Those of the rig for this object, and where their angles say (closed form)."""
    expected = rig_named(json.dumps(RIG))(row["uid"], RigConfig(num_conditions=4))
    c2w = np.array(row["c2w"]).reshape(-1, 4, 4)
    np.testing.assert_allclose(c2w, expected.camera.c2w, atol=1e-12)
    np.testing.assert_allclose(row["intrinsics"], expected.camera.intrinsics, atol=1e-12)
    azimuth, elevation, radius = np.radians(row["azimuth_deg"]), np.radians(row["elevation_deg"]), np.array(row["radius"])
    towards = np.stack([np.sin(azimuth) * np.cos(elevation), -np.cos(azimuth) * np.cos(elevation), np.sin(elevation)], -1)
    np.testing.assert_allclose(c2w[:, :3, 3], towards * radius[:, None], atol=1e-9)
    np.testing.assert_allclose(c2w[:, :3, 2], -towards, atol=1e-9)
    np.testing.assert_allclose(row["azimuth_deg"][:8], np.arange(8) * 45.0)
    assert all(-10 <= degrees <= 45 for degrees in row["elevation_deg"][8:])
    np.testing.assert_allclose(np.array(row["intrinsics"])[:, 0], 0.5 / np.tan(np.radians(25)))


def check_complete(row: dict[str, Any]) -> None:
    """All views, each a picture that decodes, with a depth wherever it is opaque."""
    shown = 0
    assert row["roles"] == ROLES and len(row["images"]) == len(row["depth"]) == len(ROLES), row["uid"]
    for image, depth in zip(row["images"], row["depth"], strict=True):
        with Image.open(io.BytesIO(image)) as picture, Image.open(io.BytesIO(depth)) as grey:
            rgba, levels = np.asarray(picture), np.asarray(grey)
        assert rgba.shape == (RESOLUTION, RESOLUTION, 4) and rgba.dtype == np.uint8 and levels.shape == (RESOLUTION, RESOLUTION)
        assert not rgba[rgba[..., 3] == 0].any()
        assert (levels[rgba[..., 3] == 255] > 0).all()
        shown += int(rgba[..., 3].any())
    assert shown >= len(ROLES) - 3, "one sample may miss the edge of a thin object, not the object"
    check_cameras(row)


def check_everything(folder: Folder) -> None:
    """The store after the last run against what was put into the folder."""
    objects = {reference.uid: Path(reference.uri) for reference in local.list_objects(folder.source)}
    files = [path for path in folder.source.rglob("*") if path.suffix.lower() in (".glb", ".gltf")]
    assert sorted(objects.values()) == sorted(files) == sorted(folder.expected)
    book = pq.read_table(folder.store / "ledger.parquet").to_pylist()
    assert [row["uid"] for row in book] == sorted(objects), "one row for every file, none twice"
    ended = {objects[row["uid"]]: WHOLE if row["status"] == "ok" else row["reason"] for row in book}
    assert ended == folder.expected
    assert all(row["detail"] and not row["views"] for row in book if row["status"] != "ok")
    assert all(row["views"] == len(ROLES) and not row["reason"] for row in book if row["status"] == "ok")
    rows = [row for part in sorted(folder.store.glob("part-*.parquet")) for row in pq.read_table(part).to_pylist()]
    assert sorted(row["uid"] for row in rows) == sorted(uid for uid, path in objects.items() if folder.expected[path] == WHOLE)
    for row in rows:
        check_complete(row)
    names = [path.name.rsplit("-", 1)[0] for path in folder.pieces()]
    assert len(names) == len(set(names)), "an object has one piece"


def check_status(folder: Folder, state: str) -> dict[str, Any]:
    """The counts of `mvforge status render` against those of the files themselves."""
    status, expected = folder.status(), Counter(folder.expected.values())
    blenders_own = Counter(found["reason"] for piece in folder.pieces() if (found := outcome(piece))["state"] != "done")
    done = sum(piece.suffix == ".arrow" for piece in folder.pieces())
    unseen = Counter({reason: count for reason, count in expected.items() if reason not in (WHOLE, "missing_image")})
    assert (status["state"], status["objects"], status["done"]) == (state, len(folder.expected), done)
    assert status["reasons"] == dict(unseen + blenders_own) and status["failed"] == sum((unseen + blenders_own).values())
    assert status["waiting"] == len(folder.expected) - done - status["failed"]
    return status


def finish(folder: Folder) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Call the same command again; returns its answer and its log, of which every line must parse."""
    driver = folder.chain.start(*folder.command, "--json", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    said, log = driver.communicate(timeout=600)
    assert driver.returncode == 0, log[-3000:]
    return json.loads(said), [json.loads(line) for line in log.splitlines()]


def check_log(folder: Folder, answer: dict[str, Any], interrupted: list[dict[str, Any]], log: list[dict[str, Any]]) -> None:
    """Failures name object, step, attempt and reason, each once a run: files are judged by every run, pictures are not made again."""
    assert log and all({"time", "level", "logger", "message", "node", "pid"} <= set(line) for line in log)
    assert len({line["pid"] for line in log}) > 1, "lines of workers are among them"
    failures = [line for line in (*interrupted, *log) if line["logger"] == "mvforge.objects"]
    reasons = {row["uid"]: row["reason"] for row in answer["failures"]}
    assert {line["uid"]: line["reason"] for line in failures} == reasons and len(reasons) == answer["failed"]
    for lines in (interrupted, log):
        assert max(Counter(line["uid"] for line in lines if line["logger"] == "mvforge.objects").values()) == 1
    assert {line["step"] for line in failures} == {"fetch", "render"}
    for line in failures:
        assert line["level"] == "warning" and line["attempt"] >= 1 and line["label"] == "tool" and line["reason"] in line["message"]


def survive(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    figures = folder.chain.home / "render.prom"
    monkeypatch.setenv("MVFORGE_LOG_FORMAT", "json")
    monkeypatch.setenv("MVFORGE_METRICS_FILE", str(figures))
    actors = interrupt(folder)
    kept = {path: path.stat().st_mtime_ns for path in folder.pieces()}
    status = check_status(folder, "interrupted")
    assert status["waiting"] > 0 and not (folder.store / "ledger.parquet").exists()
    leave_more_behind(folder)
    *whole, _ = (folder.chain.home / "driver.log").read_text().split("\n")
    result, log = finish(folder)
    check_log(folder, result, [json.loads(line) for line in whole], log)
    assert 'ray_mvforge_steps_total{label="tool",status="finished",step="render"} 1.0' in figures.read_text()
    expected = Counter(folder.expected.values())
    assert (result["completed"], result["failed"]) == (expected[WHOLE], len(folder.expected) - expected[WHOLE])
    assert kept.items() <= {path: path.stat().st_mtime_ns for path in folder.pieces()}.items(), "what was finished is not made again"
    check_everything(folder)
    assert check_status(folder, "finished")["waiting"] == 0
    left = [path for path in folder.store.rglob("*") if path.name.endswith(".tmp") or path.parent.name == "runs"]
    assert not left and not processes.scratch_folders(actors)
    assert not list(folder.chain.home.rglob("canary"))


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "home").mkdir()
    return tmp_path / "home"


def test_every_kind_of_process_is_killed_and_nothing_is_lost_or_doubled(home: Path, ray_cluster, monkeypatch: pytest.MonkeyPatch):
    folder = Folder(Chain(home, {}), home / "in", home / "store", fill(home / "in", whole=9, wrong=6))
    assert len(folder.expected) == 15
    survive(folder, monkeypatch)


@pytest.mark.long
def test_forty_mixed_files_survive_it_too(home: Path, assets: Path, ray_cluster, monkeypatch: pytest.MonkeyPatch):
    real = [*assets.glob("*.glb"), *assets.glob("*.gltf"), *assets.glob("*_external/*.gltf")]
    folder = Folder(Chain(home, {}), home / "in", home / "store", fill(home / "in", whole=40 - 17 - len(real), wrong=17, real=real))
    assert len(folder.expected) == 40 and len(real) >= 15
    survive(folder, monkeypatch)
