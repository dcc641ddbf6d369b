"""Every object of a catalog ends as a verified file or as a row with a reason."""

import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from infra.errors import UserError
from infra.job import Job, Resources
from infra.storage import Location
from rendering import catalog, fetch
from rendering.catalog import CatalogConfig
from rendering.fetch import FetchConfig
from rendering.fetch_share import Share, fetch_share
from rendering.quarantine import Failures
from tests.rendering.broken_glb import ASSET, BROKEN, GOOD, TRIANGLE, glb, triangle_at
from tests.rendering.mirror import Mirror, objaverse_files, send, write_tree

ROOT = Path(__file__).resolve().parents[2]
UNDIVIDED = {"val_fraction": 0.0, "test_fraction": 0.0}
QUICK = FetchConfig(attempts=2, timeout_s=2.0, backoff_s=0.01, objaverse_cache="/nowhere")


class Build:
    """One catalog and the fetch steps on it, below one folder."""

    def __init__(self, folder: Path, config: CatalogConfig) -> None:
        self.place = Location(str(folder))
        self.number = 0
        catalog.run(config, out=self.place / "catalog", job=Job(cache=self.place / "catalog-cache"))

    def fetch(self, config: FetchConfig = QUICK, **job) -> dict[str, dict]:
        """Rows by uid of one more build of the step."""
        self.number += 1
        out = self.place / f"fetch-{self.number}"
        self.summary = fetch.run(config, catalog=self.place / "catalog", out=out, job=Job(cache=self.place / "cache", **job))
        table = (out / "meshes.parquet").read_table()
        assert table.schema.equals(fetch.SCHEMA)
        rows = {row["uid"]: row for row in table.to_pylist()}
        assert len(rows) == table.num_rows == self.summary.completed + self.summary.failed
        return rows


def check_ok(row: dict) -> None:
    data = Path(row["path"]).read_bytes()
    assert (row["status"], row["reason"], row["detail"]) == ("ok", "", "")
    assert row["sha256"] == hashlib.sha256(data).hexdigest() and row["bytes"] == len(data)


@pytest.fixture
def procedural(tmp_path) -> Build:
    return Build(tmp_path, CatalogConfig(count=12))


def test_generated_files_are_kept_and_used_again(procedural):
    first = procedural.fetch()
    assert len(first) == 12
    for row in first.values():
        check_ok(row)
        assert Path(row["path"]).name == f"{row['uid']}-{row['sha256'][:8]}.glb"
    times = {uid: os.stat(row["path"]).st_mtime_ns for uid, row in first.items()}
    assert procedural.fetch() == first
    assert {uid: os.stat(row["path"]).st_mtime_ns for uid, row in first.items()} == times


def test_a_damaged_finished_file_is_made_again(procedural):
    first = procedural.fetch()
    cut, changed, gone = sorted(first)[:3]
    data = Path(first[cut]["path"]).read_bytes()
    Path(first[cut]["path"]).write_bytes(data[:-100])
    swapped = bytearray(Path(first[changed]["path"]).read_bytes())
    swapped[-1000] ^= 1
    Path(first[changed]["path"]).write_bytes(swapped)
    Path(first[gone]["path"]).unlink()
    again = procedural.fetch()
    assert again == first
    for row in again.values():
        check_ok(row)


def test_a_rerun_makes_files_anew(procedural):
    first = procedural.fetch()
    times = {uid: os.stat(row["path"]).st_mtime_ns for uid, row in first.items()}
    assert procedural.fetch(fresh_since=max(times.values()) / 1e9 + 1.0) == first
    assert all(os.stat(row["path"]).st_mtime_ns > times[uid] for uid, row in first.items())


def test_without_a_cache_files_lie_in_the_output(tmp_path):
    build = Build(tmp_path, CatalogConfig(count=4))
    out = build.place / "alone"
    fetch.run(FetchConfig(), catalog=build.place / "catalog", out=out, job=Job())
    assert all(row["path"].startswith(f"{out}/files/") for row in (out / "meshes.parquet").read_table().to_pylist())


def test_local_files_stay_in_place_and_broken_ones_are_rows(tmp_path):
    write_tree({name: data for name, (data, _) in BROKEN.items()} | {"good.glb": GOOD}, tmp_path / "in")
    write_tree({"whole.gltf": json.dumps(triangle_at("whole.bin")).encode(), "whole.bin": TRIANGLE}, tmp_path / "in")
    build = Build(tmp_path, CatalogConfig(source=f"local:{tmp_path / 'in'}", **UNDIVIDED))
    rows = {Path(row["uri"]).name: row for row in build.fetch().values()}
    assert {name: rows[name]["reason"] for name in BROKEN} == {name: reason for name, (_, reason) in BROKEN.items()}
    assert all(rows[name]["status"] == "failed" and rows[name]["detail"] and rows[name]["path"] == "" for name in BROKEN)
    assert rows["good.glb"]["path"] == str(tmp_path / "in" / "good.glb")
    check_ok(rows["good.glb"])
    assert rows["whole.gltf"]["status"] == "ok"
    assert build.summary.completed == 2 and sum(build.summary.facts["reasons"].values()) == build.summary.failed == len(BROKEN)
    assert not (tmp_path / "cache" / "files").exists()


def test_a_local_file_that_changed_or_vanished_since_the_catalog_is_reported(tmp_path):
    names = ["kept", "changed", "removed", "outer"]
    write_tree({f"{name}.glb": glb(ASSET | {"extras": {"name": name}}) for name in names[:3]}, tmp_path / "in")
    write_tree({"outer.gltf": json.dumps(triangle_at("o.bin")).encode(), "o.bin": TRIANGLE}, tmp_path / "in")
    build = Build(tmp_path, CatalogConfig(source=f"local:{tmp_path / 'in'}", **UNDIVIDED))
    (tmp_path / "in" / "changed.glb").write_bytes(glb(ASSET | {"extras": {"name": "another"}}))
    (tmp_path / "in" / "removed.glb").unlink()
    (tmp_path / "in" / "o.bin").write_bytes(TRIANGLE[::-1])
    reasons = {Path(row["uri"]).stem: row["reason"] for row in build.fetch().values()}
    assert reasons == {"kept": "", "changed": "changed", "removed": "missing", "outer": "changed"}


def test_a_name_that_is_no_text_is_a_row_too(tmp_path):
    write_tree({"good.glb": GOOD}, tmp_path / "in")
    with open(os.fsencode(tmp_path / "in") + b"/odd\xff.glb", "wb") as stream:
        stream.write(glb(ASSET | {"extras": {"odd": True}}))
    rows = Build(tmp_path, CatalogConfig(source=f"local:{tmp_path / 'in'}", **UNDIVIDED)).fetch()
    assert sorted(row["reason"] for row in rows.values()) == ["", "missing"]


def test_a_killed_fetch_is_continued(tmp_path):
    """SIGKILL in the middle: finished files stay as they are, the rest is made, nothing twice."""
    build = Build(tmp_path, CatalogConfig(count=80))
    files = tmp_path / "cache" / "files"
    code = (
        "from infra.job import Job\nfrom infra.storage import Location\nfrom rendering import fetch\n"
        f"place = Location({str(tmp_path)!r})\n"
        "fetch.run(fetch.FetchConfig(), catalog=place / 'catalog', out=place / 'killed', job=Job(cache=place / 'cache'))"
    )
    child = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, stderr=subprocess.DEVNULL)
    while child.poll() is None and len(list(files.glob("*.glb"))) < 5:
        time.sleep(0.005)
    child.kill()
    child.wait()
    before = {path.name: path.stat().st_mtime_ns for path in files.glob("*.glb")}
    assert 5 <= len(before) < 80 and not (tmp_path / "killed" / "meshes.parquet").exists()
    rows = build.fetch()
    for row in rows.values():
        check_ok(row)
    after = {path.name: path.stat().st_mtime_ns for path in files.glob("*.glb")}
    assert len(rows) == len(after) == 80 and {name: after[name] for name in before} == before


def test_nothing_importable_is_one_clear_error(tmp_path):
    write_tree({"a.glb": b"junk", "b.glb": GOOD[:-2]}, tmp_path / "in")
    with pytest.raises(UserError, match="no importable object among 2 .*bad_header") as caught:
        Build(tmp_path, CatalogConfig(source=f"local:{tmp_path / 'in'}", **UNDIVIDED)).fetch()
    assert caught.value.mend


def uid_of(number: int) -> str:
    return f"{number:032x}"


def path_of(number: int) -> str:
    return f"glbs/000-007/{uid_of(number)}.glb"


@pytest.fixture
def mirror() -> Iterator[Mirror]:
    glbs = {uid_of(number): glb(ASSET | {"extras": {"number": number}}, bytes([number]) * 40_000) for number in range(5)}
    with Mirror().serving() as running:
        running.files = objaverse_files(glbs, {uid_of(n): {"license": "by", "name": f"Thing {n}"} for n in range(5)})
        yield running


def objaverse(folder: Path, mirror: Mirror, **options) -> Build:
    uids = tuple(uid_of(number) for number in range(5))
    config = {"source": "objaverse", "uids": uids, "objaverse_base_url": mirror.url, "objaverse_cache": "/nowhere", **UNDIVIDED}
    return Build(folder, CatalogConfig(**config | options))


def test_downloads_are_verified_named_by_content_and_not_repeated(tmp_path, mirror):
    build = objaverse(tmp_path, mirror)
    rows = build.fetch()
    assert [rows[uid_of(n)]["licence"] for n in range(5)] == ["CC-BY-4.0"] * 5
    for number in range(5):
        check_ok(rows[uid_of(number)])
        assert Path(rows[uid_of(number)]["path"]).read_bytes() == mirror.files[path_of(number)]
    before = mirror.requests.copy()
    assert build.fetch() == rows and mirror.requests == before


def test_one_bad_download_of_each_kind_costs_that_object_only(tmp_path, mirror):
    build = objaverse(tmp_path, mirror, uids=(*(uid_of(n) for n in range(5)), "f" * 32))
    del mirror.files[path_of(0)]
    mirror.script[path_of(1)] = [lambda handler, body: send(handler, body[:5000], declared=len(body))] * 9
    mirror.script[path_of(2)] = [lambda handler, _: send(handler, b"<html>busy</html>")] * 9
    mirror.script[path_of(3)] = [lambda handler, _: send(handler, b"", 503)]
    rows = build.fetch()
    reasons = {number: rows[uid_of(number)]["reason"] for number in range(5)}
    assert reasons == {0: "not_found", 1: "truncated", 2: "bad_header", 3: "", 4: ""}
    assert rows["f" * 32]["reason"] == "unknown_uid"
    assert mirror.requests[path_of(0)] == 1 and mirror.requests[path_of(1)] == mirror.requests[path_of(3)] == 2
    names = {path.name.partition("-")[0] for path in (tmp_path / "cache" / "files").iterdir()}
    assert names == {uid_of(3), uid_of(4)}


def test_a_later_run_fetches_only_what_is_missing(tmp_path, mirror):
    build = objaverse(tmp_path, mirror)
    mirror.script[path_of(1)] = [lambda handler, _: send(handler, b"", 500)] * 2
    assert build.fetch()[uid_of(1)]["reason"] == "server_error"
    before = mirror.requests.copy()
    rows = build.fetch()
    assert all(row["status"] == "ok" for row in rows.values())
    assert mirror.requests - before == {path_of(1): 1}


def test_a_known_checksum_is_held_against_the_bytes(tmp_path, mirror):
    import pyarrow as pa
    import pyarrow.parquet as pq

    right = hashlib.sha256(mirror.files[path_of(0)]).hexdigest()
    table = pa.table({"fileIdentifier": [f"https://sketchfab.com/3d-models/{uid_of(n)}" for n in (0, 1)], "sha256": [right, "0" * 64]})
    pq.write_table(table, tmp_path / "sums.parquet")
    rows = objaverse(tmp_path, mirror, objaverse_checksums=str(tmp_path / "sums.parquet")).fetch()
    assert rows[uid_of(0)]["status"] == "ok" and rows[uid_of(0)]["sha256"] == right
    assert rows[uid_of(1)]["reason"] == "checksum" and rows[uid_of(2)]["status"] == "ok"


def test_an_existing_package_cache_is_used_where_it_proves_whole(tmp_path, mirror):
    cache = tmp_path / "hf-objaverse-v1"
    write_tree({path_of(0): mirror.files[path_of(0)], path_of(1): mirror.files[path_of(1)][:-7], path_of(2): b""}, cache)
    rows = objaverse(tmp_path, mirror).fetch(FetchConfig(attempts=1, objaverse_cache=str(cache)))
    assert rows[uid_of(0)]["path"] == str(cache / path_of(0)) and mirror.requests[path_of(0)] == 0
    for number in (1, 2):
        assert rows[uid_of(number)]["path"].startswith(str(tmp_path / "cache" / "files"))
        check_ok(rows[uid_of(number)])
    assert (cache / path_of(1)).read_bytes() == mirror.files[path_of(1)][:-7], "the package's cache is not ours to change"


def test_a_cached_file_of_other_content_is_refused_when_the_checksum_is_known(tmp_path, mirror):
    import pyarrow as pa
    import pyarrow.parquet as pq

    cache = tmp_path / "hf-objaverse-v1"
    write_tree({path_of(0): mirror.files[path_of(1)]}, cache)  # A whole GLB, but another one.
    right = hashlib.sha256(mirror.files[path_of(0)]).hexdigest()
    pq.write_table(pa.table({"fileIdentifier": [uid_of(0)], "sha256": [right]}), tmp_path / "sums.parquet")
    rows = objaverse(tmp_path, mirror, objaverse_checksums=str(tmp_path / "sums.parquet")).fetch(FetchConfig(objaverse_cache=str(cache)))
    assert rows[uid_of(0)]["sha256"] == right and mirror.requests[path_of(0)] == 1


@pytest.mark.ray
def test_ray_tasks_give_the_same_rows(tmp_path, ray_cluster, mirror):
    write_tree({"a.glb": GOOD, "b.glb": b"junk"}, tmp_path / "in")
    for name, build in {
        "generated": Build(tmp_path / "p", CatalogConfig(count=10)),
        "local": Build(tmp_path / "l", CatalogConfig(source=f"local:{tmp_path / 'in'}", **UNDIVIDED)),
        "downloaded": objaverse(tmp_path / "o", mirror),
    }.items():
        tasked = build.fetch(resources=Resources(workers=2, cpus=1.0))
        plain_job = Job(cache=build.place / "plain")
        objects, licences = catalog.read_objects(build.place / "catalog"), catalog.read_policy(build.place / "catalog")
        failures, files = Failures(build.place / "plain", {}), build.place / "plain" / "files"
        shares = [
            Share(chunk, {ref.uid: [] for ref in chunk}, files, failures, licences, QUICK) for chunk in fetch._chunks(objects, plain_job)
        ]
        plain = {row["uid"]: row for share in shares for row in fetch_share(share)}
        without_path = [{uid: row | {"path": ""} for uid, row in rows.items()} for rows in (tasked, plain)]
        assert without_path[0] == without_path[1], name
