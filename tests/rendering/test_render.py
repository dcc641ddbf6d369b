"""The render step on a real Ray cluster, with real Blender children and very small pictures."""

import signal
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pytest
import ray
from PIL import Image

from infra.errors import UserError
from infra.job import Job, Resources
from infra.storage import Location, sha256_of
from rendering.ledger import LEDGER
from rendering.pieces import list_pieces, read_outcome
from rendering.render import RenderConfig, blocks, piece_of, run
from rendering.render_actor import RenderActor, RenderTask
from rendering.render_status import render_status
from rendering.view_set import CONDITION
from rendering.views import ViewStore
from tests.rendering import glbs

pytestmark = [pytest.mark.ray, pytest.mark.blender]
TINY = RenderConfig(rig="mvdiffusionpp", resolution=16, samples=1, denoise="none", num_conditions=2)


def manifest(folder: Path, count: int, bad: tuple[str, ...] = ()) -> list[dict]:
    """Rows as the fetch step writes them: `count` toys, then one broken file per name in `bad`."""
    folder.mkdir(exist_ok=True)
    files = [glbs.toy(folder / f"toy{number}.glb", number) for number in range(count)]
    for name in bad:
        files.append(folder / f"{name}.glb")
        files[-1].write_bytes(b"glTF" + name.encode())
    return [
        {
            "uid": file.stem,
            "sha256": sha256_of(file),
            "split": ("train", "val", "test")[number % 3],
            "group": f"g{number}",
            "category": "toy",
            "licence": "CC0-1.0",
            "attribution": "nobody",
            "status": "ok",
            "reason": None,
            "detail": None,
            "path": str(file),
            "bytes": file.stat().st_size,
        }
        for number, file in enumerate(files)
    ]


def save(rows: list[dict], folder: Path) -> Location:
    place = Location(str(folder))
    (place / "meshes.parquet").write_table(pa.Table.from_pylist(rows))
    return place


def ledger(out: Location) -> dict[str, dict]:
    rows = (out / "ledger.parquet").read_table().to_pylist()
    assert len(rows) == len({row["uid"] for row in rows})
    return {row["uid"]: row for row in rows}


def finished(pieces: Location) -> dict[str, float]:
    """Names and times of the pieces that exist."""
    return {piece.name: piece.mtime for piece in list_pieces(pieces).values()}


@pytest.fixture(scope="module")
def first_build(ray_cluster, tmp_path_factory):
    """Eight toys, a broken file and an object that could not be fetched, rendered once; tests must not change it."""
    base = tmp_path_factory.mktemp("render")
    rows = manifest(base / "files", 8, bad=("broken",))
    rows.append({**rows[0], "uid": "lost", "status": "failed", "reason": "http_404", "detail": "not found", "path": None, "sha256": None})
    job = Job(resources=Resources(workers=2), cache=Location(str(base / "cache")))
    out = Location(str(base / "out"))
    summary = run(TINY, meshes=save(rows, base / "meshes"), out=out, job=job)
    return rows, summary, out, job


def test_every_object_is_complete_or_failed_with_its_reason(first_build):
    rows, summary, out, _ = first_build
    assert (summary.completed, summary.failed) == (8, 2)
    book = ledger(out)
    assert list(book) == sorted(row["uid"] for row in rows) and (out / "ledger.parquet").read_table().schema.equals(LEDGER)
    assert (book["lost"]["status"], book["lost"]["reason"], book["lost"]["detail"]) == ("failed", "http_404", "not found")
    assert (book["broken"]["status"], book["broken"]["reason"], book["broken"]["views"]) == ("failed", "truncated", 0)
    assert book["toy3"]["status"] == "ok" and book["toy3"]["views"] == 34 and book["toy3"]["licence"] == "CC0-1.0"
    store = ViewStore(out)
    assert store.uids() == [f"toy{number}" for number in range(8)]
    for views in store:
        assert views.rgba.shape == (34, 16, 16, 4) and views.roles[32:] == (CONDITION, CONDITION)
        assert views.rgba[..., 3].any((1, 2)).all()
        assert (views.mesh is not None) == (book[views.uid]["split"] != "train")
    assert summary.facts == {"reasons": {"http_404": 1, "truncated": 1}, "rendered_now": 9, "views": 8 * 34}


def test_the_contact_sheet_shows_pictures(first_build):
    with Image.open((first_build[2] / "sheet.webp").local_path()) as sheet:
        pixels = np.asarray(sheet.convert("RGB"))
    assert pixels.shape[0] > 400 and (pixels < 100).any() and (pixels.max(-1).astype(int) - pixels.min(-1) > 60).mean() > 0.01


def test_a_grown_catalog_renders_only_what_is_new_and_pictures_do_not_depend_on_workers(first_build, tmp_path):
    rows, _, out, job = first_build
    grown = manifest(tmp_path / "files", 9)[8:] + rows
    before = {entry.name: entry.mtime for entry in job.cache.walk()}
    second = Location(str(tmp_path / "out"))
    job = replace(job, resources=Resources(workers=1))
    summary = run(TINY, meshes=save(grown, tmp_path / "meshes"), out=second, job=job)
    assert summary.completed == 9 and summary.facts["rendered_now"] == 1
    assert {name: mtime for name, mtime in before.items()}.items() <= {entry.name: entry.mtime for entry in job.cache.walk()}.items()
    np.testing.assert_array_equal(ViewStore(out).read("toy5").rgba, ViewStore(second).read("toy5").rgba)
    alone = run(TINY, meshes=save(rows[5:6], tmp_path / "one"), out=Location(str(tmp_path / "alone")), job=Job())
    assert alone.facts["rendered_now"] == 1
    np.testing.assert_array_equal(ViewStore(out).read("toy5").rgba, ViewStore(Location(str(tmp_path / "alone"))).read("toy5").rgba)
    assert [entry.name for entry in Location(str(tmp_path / "alone")).children()] == [
        "attribution.csv",
        "attribution.json",
        "ledger.parquet",
        "part-00000.parquet",
        "progress.json",
        "sheet.webp",
        "statistics.json",
    ]


def test_only_failures_are_retried_and_a_rerun_takes_no_old_piece(first_build, tmp_path):
    rows, _, _, job = first_build
    own = Location(str(tmp_path / "cache"))
    own.upload(job.cache.local_path())
    meshes = save(rows, tmp_path / "meshes")
    retried = run(TINY, meshes=meshes, out=Location(str(tmp_path / "retried")), job=replace(job, cache=own, retry_failed=True))
    assert retried.facts["rendered_now"] == 1 and retried.failed == 2
    since = time.time()
    few = save(rows[:2], tmp_path / "few")
    again = run(TINY, meshes=few, out=Location(str(tmp_path / "again")), job=replace(job, cache=own, fresh_since=since))
    assert again.facts["rendered_now"] == 2
    resumed = run(TINY, meshes=few, out=Location(str(tmp_path / "again")), job=replace(job, cache=own, fresh_since=since))
    assert resumed.facts["rendered_now"] == 0 and resumed.completed == 2


def test_a_killed_actor_loses_and_doubles_nothing(ray_cluster, tmp_path):
    rows = manifest(tmp_path / "files", 8)
    job = Job(resources=Resources(workers=2), cache=Location(str(tmp_path / "cache")))
    pieces = job.cache / "pieces" / TINY.digest()
    killed = []

    def kill_one_actor() -> None:
        while not finished(pieces):
            time.sleep(0.02)
        for child in psutil.Process().children(recursive=True):
            if any("blender_script.py" in word for word in child.cmdline()):
                actor = child.parent()
                killed.append((actor.pid, child.pid))
                actor.send_signal(signal.SIGKILL)
                return

    thread = threading.Thread(target=kill_one_actor)
    thread.start()
    summary = run(TINY, meshes=save(rows, tmp_path / "meshes"), out=Location(str(tmp_path / "out")), job=job)
    thread.join()
    assert killed and summary.completed == 8 and summary.failed == 0
    assert len(pieces.walk()) == 8 and len(ledger(Location(str(tmp_path / "out")))) == 8
    assert not any(psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE for pair in killed for pid in pair)


def test_an_object_that_keeps_killing_its_actor_is_given_up(ray_cluster, tmp_path):
    rows = manifest(tmp_path / "files", 1)
    task = RenderTask(TINY, Location(str(tmp_path / "pieces")), "this-run")
    name = piece_of(TINY, rows[0])
    batch = pa.Table.from_pylist(
        [{"block": 0, "name": name, "uid": "toy0", "path": rows[0]["path"], "with_mesh": False, "previous": None, "counted": False}]
    )
    here, lost = ray.nodes()[0]["NodeID"], "f" * 56  # what was begun on a node that is lost ended with it, and is no try
    for nodes, state in (([here] * 2, "done"), ([here, lost, lost, lost, here], "done"), ([here, lost, here, here], "failed")):
        (task.notes / "000000.json").write_json({"finished": {}, "begun": name, "nodes": nodes})
        answer = RenderActor(task)(batch).to_pylist()
        assert [(row["name"], row["state"]) for row in answer] == [(name, state)]
    assert list_pieces(task.pieces)[name].reason == "worker_died"
    assert read_outcome(task.pieces / answer[0]["piece"])["attempts"] == 3
    # The block comes again after its actor died: what its note calls finished is answered, not done again.
    before = finished(task.pieces)
    assert RenderActor(task)(batch).to_pylist() == answer and finished(task.pieces) == before


def test_nothing_to_show_is_an_error_with_counts_and_the_ledger_is_kept(ray_cluster, tmp_path):
    rows = manifest(tmp_path / "files", 0, bad=("one", "two"))
    out = Location(str(tmp_path / "out"))
    with pytest.raises(UserError, match="truncated 2"):
        run(TINY, meshes=save(rows, tmp_path / "meshes"), out=out, job=Job(cache=Location(str(tmp_path / "cache"))))
    assert len(ledger(out)) == 2
    unfetched = [{**row, "status": "failed", "reason": "http_500"} for row in rows]
    with pytest.raises(UserError, match="no mesh to render"):
        run(TINY, meshes=save(unfetched, tmp_path / "none"), out=out, job=Job())


def test_a_gpu_that_the_cluster_lacks_is_refused_before_anything_waits_for_it(ray_cluster, tmp_path):
    if ray.cluster_resources().get("GPU"):
        pytest.skip("this cluster has a GPU")
    meshes, out = save(manifest(tmp_path / "in", 1), tmp_path / "in"), Location(str(tmp_path))
    with pytest.raises(UserError, match="render.device is cuda, and this Ray cluster has no GPU"):
        run(replace(TINY, device="cuda"), meshes=meshes, out=out, job=Job())


def test_configs_are_checked_and_named():
    with pytest.raises(UserError, match="balanced"):
        RenderConfig(denoise="best")
    with pytest.raises(UserError, match="draws on a GPU"):
        RenderConfig(profile="eevee")
    with pytest.raises(UserError, match="holds 'curvature'"):
        RenderConfig(passes=("depth", "curvature"))
    with pytest.raises(UserError, match="resolution"):
        RenderConfig(resolution=0)
    with pytest.raises(UserError, match="extent 2"):
        run(RenderConfig(extent=2.0), meshes=Location("/nowhere"), out=Location("/nowhere"), job=Job())
    assert RenderConfig().digest() != RenderConfig(samples=33).digest()
    assert RenderConfig().digest() == RenderConfig(mesh="all").digest()
    row = {"uid": "a/b c", "sha256": "f" * 64, "split": "train"}
    assert piece_of(RenderConfig(), row) == "a%2Fb%20c-ffffffffffff"
    assert piece_of(RenderConfig(mesh="all"), row) == "a%2Fb%20c-ffffffffffff-mesh"
    assert RenderConfig().digest() == RenderConfig(max_attempts=3).digest()


def test_outcomes_are_readable_from_the_pieces(first_build):
    rows, _, _, job = first_build
    outcome = read_outcome(job.cache / "pieces" / TINY.digest() / f"{piece_of(TINY, rows[0])}.arrow")
    assert outcome["state"] == "done" and {"import", "sample", "encode"} <= set(outcome["phases"]), outcome["phases"]


def test_ledger_statistics_and_status_agree(first_build):
    _, _, out, job = first_build
    book = ledger(out)
    row = book["toy3"]
    assert row["state"] == "done" and row["config"] == TINY.digest() and row["seconds_import"] > 0 and row["seconds_sample"] > 0
    assert book["broken"]["state"] == "failed" and book["broken"]["seconds_import"] is None
    summary = (out / "statistics.json").read_json()
    assert (summary["objects"], summary["views"], summary["resolution"], summary["licences"]) == (8, 8 * 34, 16, {"CC0-1.0": 8})
    assert 0.01 < summary["mean_coverage"] < 0.9 and summary["rig"] == TINY.rig and summary["profile"] == TINY.profile
    status = render_status(out, [job.cache / "pieces"])
    assert status is not None and (status.state, status.done, status.failed, status.waiting) == ("finished", 8, 2, 0)
    assert sum(status.reasons.values()) == 2 and status.facts["views"] == 8 * 34 and status.facts["peak_rss_mb"] > 50


def test_blocks_share_small_sets_and_stay_few_for_large_ones():
    for rows, workers in ((1, 1), (7, 2), (100, 2), (5000, 2), (100_000, 16)):
        cut = list(blocks(pa.table({"name": [str(number) for number in range(rows)]}), workers))
        assert [name for block in cut for name in block.column("name").to_pylist()] == [str(number) for number in range(rows)]
        assert [set(block.column("block").to_pylist()) for block in cut] == [{number} for number in range(len(cut))]
        sizes = [len(block) for block in cut]
        assert max(sizes) <= 32 and sizes == sorted(sizes, reverse=True) and sizes[-1] == 1
        assert len(cut) >= min(rows, 2 * workers) and len(cut) <= rows / 32 + 30 * workers
