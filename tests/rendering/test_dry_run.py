"""The render step's own cost and bookkeeping, with a stand-in for Blender: thousands of objects through real Ray Data."""

import os
import time
from collections import Counter
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from infra.job import Job, Resources
from infra.storage import Location
from rendering import dry_run as dry
from rendering import render
from rendering.pieces import list_pieces, read_outcome
from rendering.render_status import render_status
from rendering.views import ViewStore

pytestmark = pytest.mark.ray
OBJECTS = 3000
FAILURES = len(range(0, OBJECTS, dry.FAILS_EVERY))


@pytest.fixture(scope="module")
def pushed(ray_cluster, tmp_path_factory):
    """Facts of three thousand objects, and the folder they left."""
    folder = tmp_path_factory.mktemp("dry")
    return dry.dry_run(OBJECTS, workers=2, folder=folder), Location(str(folder))


def test_thousands_of_objects_are_each_accounted_for(pushed):
    facts, place = pushed
    assert (facts["completed"], facts["failed"]) == (OBJECTS - FAILURES, FAILURES)
    book = (place / "out" / "ledger.parquet").read_table(columns=["uid", "state", "reason", "attempts", "config"])
    uids = book.column("uid").to_pylist()
    assert uids == [f"dry-{number:07d}" for number in range(OBJECTS)]
    assert book.column("reason").to_pylist().count("dry_failure") == FAILURES and set(book.column("attempts").to_pylist()) == {1}
    store = ViewStore(place / "out")
    assert len(store.uids()) == OBJECTS - FAILURES
    number = 2321
    assert store.read(f"dry-{number:07d}").rgba[0, 0, 0].tolist() == [number >> 16 & 255, number >> 8 & 255, number & 255, 255]
    summary = (place / "out" / "statistics.json").read_json()
    assert (summary["objects"], summary["views"], summary["resolution"]) == (OBJECTS - FAILURES, OBJECTS - FAILURES, 8)
    assert not (place / "cache" / "pieces" / dry.CONFIG.digest() / "runs").children()


def test_the_driver_holds_no_pictures(pushed):
    memory = pushed[0]["driver_rss_mb"]
    assert memory["peak"] - memory["before"] < 400 and memory["peak"] - memory["peak_of_first_half"] < 200, memory


def test_the_finished_rendering_is_summed_up_from_its_ledger(pushed):
    status = render_status(pushed[1] / "out", [pushed[1] / "cache" / "pieces"])
    assert status is not None and (status.state, status.objects, status.done) == ("finished", OBJECTS, OBJECTS - FAILURES)
    assert status.reasons == {"dry_failure": FAILURES} and status.rendered_now == OBJECTS and status.objects_per_min


QUARTER = 10


class FairWorker(dry.FakeWorker):
    """Does a quarter of all objects and then waits until another worker has done as many: who starts first may be far ahead."""

    def __init__(self, folder: Path, limits) -> None:
        super().__init__(limits)
        self.folder = folder

    def render(self, request):
        (self.folder / f"{os.getpid()}.{request.uid}").touch()
        deadline = time.monotonic() + 120
        while (counts := self.counts())[str(os.getpid())] >= QUARTER and counts.total() - counts[str(os.getpid())] < QUARTER:
            assert time.monotonic() < deadline, f"the other worker has too little to do: {counts}"
            time.sleep(0.05)
        return super().render(request)

    def counts(self) -> Counter[str]:
        return Counter(path.name.split(".")[0] for path in self.folder.iterdir())


def test_both_actors_get_their_share(ray_cluster, tmp_path):
    """However much later the second is up: objects are not handed out in so large pieces that nothing is left for it."""
    place, begun = Location(str(tmp_path)), tmp_path / "begun"
    begun.mkdir()
    dry.write_manifest(place / "meshes" / "meshes.parquet", 4 * QUARTER)
    job = Job(resources=Resources(workers=2), cache=place / "cache")
    render.run(dry.CONFIG, meshes=place / "meshes", out=place / "out", job=job, make_worker=partial(FairWorker, begun))
    shares = Counter((place / "out" / "ledger.parquet").read_table().column("worker").to_pylist())
    assert len(shares) == 2 and min(shares.values()) >= QUARTER and sum(shares.values()) == 4 * QUARTER


def test_a_poison_object_is_retried_so_often_and_then_quarantined(ray_cluster, tmp_path):
    """Object 0 fails whenever it is tried; its attempts are counted over all runs."""
    config, place = replace(dry.CONFIG, max_attempts=3), Location(str(tmp_path))
    dry.write_manifest(place / "meshes" / "meshes.parquet", 6)
    job = Job(resources=Resources(workers=1), cache=place / "cache")
    pieces = place / "cache" / "pieces" / config.digest()

    def go(config=config, **changes) -> tuple[int, dict]:
        out = place / f"out-{time.time_ns()}"
        summary = render.run(config, meshes=place / "meshes", out=out, job=replace(job, **changes), make_worker=dry.FakeWorker)
        poison = (out / "ledger.parquet").read_table().to_pylist()[0]
        assert (summary.completed, summary.failed) == (5, 1) and poison["status"] == "failed" and poison["reason"] == "dry_failure"
        return summary.facts["rendered_now"], poison

    assert [(now, row["state"], row["attempts"]) for now, row in [go(), go()]] == [(6, "failed", 1), (0, "failed", 1)]
    tried = [go(retry_failed=True) for _ in range(3)]
    assert [(now, row["state"], row["attempts"]) for now, row in tried] == [(1, "failed", 2), (1, "quarantined", 3), (0, "quarantined", 3)]
    assert len(list_pieces(pieces)) == 6 and len(pieces.walk()) == 6  # what was replaced is gone
    assert "dry_failure" in read_outcome(pieces / list_pieces(pieces)[next(iter(list_pieces(pieces)))].name).get("reason", "")
    now, row = go(replace(config, max_attempts=5), retry_failed=True)  # a higher limit lets it be tried again
    assert (now, row["state"], row["attempts"]) == (1, "failed", 4)
    now, row = go(fresh_since=time.time())  # a rerun makes everything anew, and counts anew
    assert (now, row["state"], row["attempts"]) == (6, "failed", 1)
