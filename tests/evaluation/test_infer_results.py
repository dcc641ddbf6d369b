"""Packing finished objects: nothing lost, nothing twice, whatever moment a kill chose; and the check of what was written."""

import hashlib
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from evaluation.generate_object import Overdue, generate_one, reason_of
from evaluation.generated_pieces import Pieces, views_sha256
from evaluation.infer import manifest
from evaluation.infer.batch import InferConfig, claim
from evaluation.infer.meshes import mesh_rows
from evaluation.infer.results import NOTED, Results
from evaluation.infer.verify import verify
from evaluation.model_source import ModelSource, of_folder
from infra.errors import UserError
from infra.job import Job
from infra.storage import Location
from rendering.view_set import TARGET, ViewSet
from rendering.views import ViewStore, to_table
from tests.training.painted import painted_views

SOURCES = {f"k{n}": f"/in/object{n}.png" for n in range(9)}


def made(number: int, seed: int = 0) -> ViewSet:
    return painted_views(f"object{number}", 16, 0, seed)


def write(pieces: Pieces, number: int, key: str | None = None, seed: int = 0) -> str:
    """The piece of one object as an actor leaves it; odd ones failed."""
    key = key or f"k{number}"
    good = number % 2 == 0
    entry: dict[str, Any] = {"uid": f"object{number}", "key": key, "seconds": 1.0, "status": "ok" if good else "failed", "views": 32}
    pieces.write(key, entry | {"reason": "" if good else "unreadable"}, made(number, seed) if good else None)
    return key


def finish(out: Location) -> None:
    """What the end of a job writes."""
    table = manifest.joined(Results(out).rows(), mesh_rows(out))
    (out / "summary.json").write_json({"counts": manifest.counted(table), "files": manifest.write(table, out)})


@pytest.fixture
def out(tmp_path: Path) -> Location:
    return Location(str(tmp_path / "out"))


@pytest.fixture
def pieces(out: Location) -> Pieces:
    return Pieces(out / "work" / "pieces", columns=NOTED)


def test_packed_in_parts_and_killed_in_between(out: Location, pieces: Pieces) -> None:
    Results(out).add(pieces, [write(pieces, n) for n in range(3)], SOURCES)
    assert pieces.names() == set()
    kept = {name: (out / "views" / name).read_bytes() for name in ("part-00000.parquet",)}

    # Killed between a shard and its rows: the shard counts for nothing, the pieces are still there.
    waiting = [write(pieces, n) for n in range(3, 6)]
    (out / "views" / "part-00001.parquet").write_bytes(kept["part-00000.parquet"])
    results = Results(out)
    assert [entry.name for entry in (out / "views").children()] == ["part-00000.parquet"]
    assert results.keys() == {"k0": True, "k1": False, "k2": True} and pieces.names() == set(waiting)
    results.add(pieces, waiting, SOURCES, [{"uid": "twice#2", "key": "d", "status": "failed", "reason": "duplicate_uid"}])

    results = Results(out)
    assert results.keys() == {f"k{n}": n % 2 == 0 for n in range(6)} | {"d": False}
    rows = {row["uid"]: row for row in results.rows().to_pylist()}
    assert rows["object4"]["views_file"] == "views/part-00001.parquet" and rows["object3"]["views_file"] is None
    assert rows["object4"]["source"] == "/in/object4.png" and rows["twice#2"]["source"] is None
    assert ViewStore(out / "views").uids() == ["object0", "object2", "object4"]
    assert {name: (out / "views" / name).read_bytes() for name in kept} == kept

    # Another picture under an old name: the newer row and the newer views count.
    results.add(pieces, [write(pieces, 0, "new", seed=1)], {"new": "/in/object0.png"})
    results = Results(out)
    assert "k0" not in results.keys() and results.keys()["new"]
    assert (ViewStore(out / "views").read("object0").rgba == made(0, seed=1).rgba).all()

    # A shard that someone deleted: its objects are unknown again, failures are not.
    (out / "views" / "part-00000.parquet").delete()
    assert set(Results(out).keys()) == {"k1", "k3", "k4", "k5", "d", "new"}


def test_many_shards_in_one_packing(out: Location, pieces: Pieces, monkeypatch: pytest.MonkeyPatch) -> None:
    from evaluation.infer import results as infer_results

    monkeypatch.setattr(infer_results, "write_shards", lambda tables, place, write=infer_results.write_shards: write(tables, place, 1))
    results = Results(out)
    results.add(pieces, [write(pieces, n) for n in (0, 2, 4)], SOURCES)
    results.add(pieces, [write(pieces, 6)], SOURCES)
    assert {row["uid"]: row["views_file"][-9:] for row in Results(out).rows().to_pylist()} == {
        f"object{n}": f"{n // 2}.parquet" for n in (0, 2, 4, 6)
    }
    finish(out)
    assert verify(out, Job()) == []


def test_the_content_hash_is_that_of_the_views_and_of_nothing_else(out: Location, pieces: Pieces) -> None:
    Results(out).add(pieces, [write(pieces, 2)], SOURCES)
    (row,) = Results(out).rows().to_pylist()
    stored = ViewStore(out / "views").row("object2")
    assert row["views_sha256"] == views_sha256(stored) == views_sha256(to_table(made(2)).to_pylist()[0])
    base = views_sha256(stored)
    for name, value in (
        ("uid", "x"),
        ("facts", '{"a": 1}'),
        ("azimuth_deg", [1.0] * 32),
        ("images", stored["images"][::-1]),
        ("mesh", b"m"),
    ):
        assert views_sha256(stored | {name: value}) != base
    moved = [stored["images"][0] + stored["images"][1][:1], stored["images"][1][1:], *stored["images"][2:]]
    assert views_sha256(stored | {"images": moved}) != base


def test_verify_names_what_is_wrong(out: Location, pieces: Pieces) -> None:
    with pytest.raises(UserError, match="no finished batch job"):
        verify(out, Job())
    results = Results(out)
    results.add(pieces, [write(pieces, n) for n in range(4)], SOURCES)
    sheet = b"a sheet"
    entry = {"uid": "object8", "key": "k8", "seconds": 1.0, "status": "ok", "reason": "", "views": 32}
    (out / "sheets" / "object8.png").write_bytes(sheet)
    pieces.write("k8", entry | {"sheet_file": "sheets/object8.png", "sheet_sha256": hashlib.sha256(sheet).hexdigest()}, made(8))
    results.add(pieces, ["k8"], SOURCES)
    finish(out)
    assert verify(out, Job()) == []

    (out / "sheets" / "object8.png").write_bytes(b"another")
    first = out / "views" / "part-00000.parquet"
    whole = first.read_bytes()
    first.write_bytes(whole[: len(whole) // 2])
    said = {problem["file"]: problem["problem"] for problem in verify(out, Job())}
    assert said["sheets/object8.png"] == "is not the file that was written" and said["views/part-00000.parquet"].startswith(
        "cannot be read"
    )
    first.write_bytes(whole)
    (out / "sheets" / "object8.png").delete()
    assert [problem["problem"] for problem in verify(out, Job())] == ["absent"]

    # Views under another object's name, and an object twice in the manifest.
    (out / "sheets" / "object8.png").write_bytes(sheet)
    table = manifest.joined(Results(out).rows(), mesh_rows(out))
    uids = pa.array(["object0", "object1", "object0", "object3", "object8"])
    (out / "summary.json").write_json({"counts": {"objects": 5}, "files": manifest.write(table.set_column(0, "uid", uids), out)})
    assert {problem["problem"] for problem in verify(out, Job())} >= {"2 rows"}
    (out / "manifest.parquet").write_bytes(b"")
    assert verify(out, Job()) == [{"uid": "", "file": "manifest.parquet", "problem": "is not the file that was written"}]


def test_a_folder_belongs_to_one_job(out: Location, pieces: Pieces) -> None:
    model = ModelSource("mv", "1", "models:/mv/1", tracking_uri="sqlite:///a")
    claim(out, InferConfig(), "/photos", model)
    claim(out, InferConfig(steps=9), "/photos", model)  # nothing was made yet
    write(pieces, 0)
    claim(out, InferConfig(steps=9), "/photos", model)
    with pytest.raises(UserError, match="steps 9 -> 5; input '/photos' -> '/others'"):
        claim(out, InferConfig(steps=5), "/others", model)
    with pytest.raises(UserError, match="model"):
        claim(out, InferConfig(steps=9), "/photos", ModelSource("mv", "2", "models:/mv/2", tracking_uri="sqlite:///a"))
    (out / "elsewhere" / "note.txt").write_text("mine")
    with pytest.raises(UserError, match="holds other files"):
        claim(out / "elsewhere", InferConfig(), "/photos", model)


def test_a_model_folder_is_known_by_its_content(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no mvforge.json"):
        of_folder(Location(str(tmp_path)))
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "mvforge.json").write_text("{}")
    first, second = (of_folder(Location(str(tmp_path / name))) for name in ("a", "b"))
    assert first.identity == second.identity and first.uri == str(tmp_path / "a")
    (tmp_path / "b" / "weights.safetensors").write_bytes(b"w")
    assert of_folder(Location(str(tmp_path / "b"))).identity != first.identity


def test_a_deadline_ends_an_object_between_two_steps() -> None:
    steps: list[int] = []

    class Slow:
        def generate(self, conditions: ViewSet, seed: int, steps: int, progress=None, **options: Any) -> ViewSet:
            for step in range(1, steps + 1):
                done.append(step)
                if progress is not None:
                    progress(step, steps)
            return made(0).with_role(TARGET)

    done = steps
    shown = painted_views("object0", 16, 2)
    with pytest.raises(Overdue) as caught:
        generate_one(Slow(), shown, InferConfig(steps=4), "m", deadline_s=0.0)
    assert steps == [1] and reason_of(caught.value) == "deadline" and "1 of 4" in str(caught.value)
    steps.clear()
    assert len(generate_one(Slow(), shown, InferConfig(steps=4), "m", deadline_s=3600.0)) == 32 and steps == [1, 2, 3, 4]
    assert generate_one(Slow(), shown, InferConfig(steps=4), "m").facts["conditions"] == [32, 33]
