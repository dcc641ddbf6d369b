"""Thirty objects from a server that fails each of them in another way: all end verified, or recorded with the reason."""

import hashlib
import itertools
import json
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from email.utils import formatdate
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from infra.errors import UserError
from infra.job import Job, Resources
from infra.storage import Location
from rendering import catalog, fetch, fetch_share
from rendering.catalog import CatalogConfig
from rendering.download import DownloadPolicy
from rendering.fetch import FetchConfig
from rendering.pace import Pace
from rendering.sources.objaverse_index import Index
from tests.rendering import mirror as answers
from tests.rendering.broken_glb import ASSET, glb
from tests.rendering.mirror import Answer, Mirror, cut, instead, objaverse_files, packed, status
from tests.s3_server import s3_folder

CONFIG = FetchConfig(attempts=3, timeout_s=0.4, backoff_s=0.01, objaverse_cache="/nowhere")
PATIENT = FetchConfig(objaverse_cache="/nowhere")
BUSY = [f"<html>busy {number}</html>".encode() for number in range(3)]


def asset(number: int, **stated: str) -> bytes:
    """A valid GLB of a few kilobytes, another one for every number."""
    return glb(ASSET | {"asset": {"version": "2.0", "extras": {"number": number} | stated}}, bytes([number]) * 6000)


def uid_of(number: int) -> str:
    return f"{number:032x}"


def path_of(number: int) -> str:
    return f"glbs/000-007/{uid_of(number)}.glb"


@dataclass
class Case:
    """What the server does to one object, and what is to come of it.

    `requests` are those of the first build and of the one after it; `reasons` likewise, empty for a verified file.
    """

    script: list[Answer] = field(default_factory=list)
    reasons: tuple[str, str] = ("", "")
    requests: tuple[int, int] = (1, 0)
    body: bytes | None = None
    checksum: str = ""


def lasting(answer: Answer, reason: str) -> Case:
    """Trouble that fills the first build's three attempts and is over in the second one."""
    return Case([answer] * 3, (reason, ""), (3, 1))


def cases(mirror: Mirror) -> dict[str, Case]:
    past = formatdate(time.time() - 60, usegmt=True)
    return {
        "good": Case(),
        "known checksum": Case(checksum="right"),
        "404": Case([status(404)] * 9, ("not_found", "not_found")),
        "410": Case([status(410)] * 9, ("not_found", "not_found")),
        "403": Case([status(403)] * 9, ("http_error", "http_error")),
        "cut once": Case([cut()], requests=(2, 0)),
        "cut always": lasting(cut(), "truncated"),
        "cut without etag": Case([cut(with_etag=False)], requests=(2, 0)),
        "cut in chunks": Case([answers.cut_chunked], requests=(2, 0)),
        "stall once": Case([mirror.stall], requests=(2, 0)),
        "stall always": lasting(mirror.stall, "timeout"),
        "silence once": Case([mirror.silence], requests=(2, 0)),
        "silence always": lasting(mirror.silence, "timeout"),
        "429 with seconds": Case([status(429, Retry_After="0")], requests=(2, 0)),
        "429 with a date": Case([status(429, Retry_After=past)], requests=(2, 0)),
        "429 always": lasting(status(429), "rate_limited"),
        "503 twice": Case([status(503), status(503)], requests=(3, 0)),
        "500 and 502": Case([status(500), status(502)], requests=(3, 0)),
        "503 always": lasting(status(503), "server_error"),
        "408": Case([status(408)], requests=(2, 0)),
        "hangs up": Case([answers.hang_up], requests=(2, 0)),
        "hangs up always": lasting(answers.hang_up, "connection"),
        "error page once": Case([instead(BUSY[0])], requests=(2, 0)),
        "the same error page": Case([instead(BUSY[0])] * 9, ("bad_header", "bad_header"), (2, 0)),
        "changing error pages": Case([instead(page) for page in BUSY], ("bad_header", "bad_header"), (3, 0)),
        "nothing at all": Case([instead(b"")] * 9, ("bad_header", "bad_header"), (2, 0)),
        "stored truncated": Case(body=asset(90)[:-100], reasons=("truncated", "truncated"), requests=(2, 0)),
        "another object": Case([instead(asset(91))] * 9, ("checksum", "checksum"), (2, 0), checksum="right"),
        "cannot continue": Case([cut(), answers.ignoring_range], requests=(2, 0)),
        "continues elsewhere": Case([cut(), answers.wrong_range], requests=(3, 0)),
        "refuses to continue": Case([cut(), status(416)], requests=(3, 0)),
        "changes meanwhile": Case([cut(), lambda handler, _: answers.whole(handler, asset(92))], requests=(2, 0)),
        "moved": Case([status(302, Location="/moved.glb")]),
        "not as licensed": Case(body=asset(93, license="CC-BY-NC-4.0"), reasons=("licence_conflict",) * 2),
    }


@dataclass
class Set:
    """The faulty mirror, a catalog of it, and builds of the fetch step on that catalog."""

    folder: Path
    mirror: Mirror
    cases: dict[str, Case]
    builds: Iterator[int] = field(default_factory=itertools.count)
    cache: str = ""

    def __post_init__(self) -> None:
        bodies = [case.body or asset(number) for number, case in enumerate(self.cases.values())]
        files = {uid_of(number): body for number, body in enumerate(bodies)}
        self.mirror.files |= objaverse_files(files, {uid: {"license": "by", "name": uid} for uid in files}) | {"moved.glb": asset(94)}
        self.mirror.script |= {path_of(number): list(case.script) for number, case in enumerate(self.cases.values())}
        sums = {number: hashlib.sha256(bodies[number]).hexdigest() for number, case in enumerate(self.cases.values()) if case.checksum}
        table = pa.table({"fileIdentifier": [uid_of(number) for number in sums], "sha256": list(sums.values())})
        pq.write_table(table, self.folder / "sums.parquet")

    def list(self) -> None:
        config = CatalogConfig(
            source="objaverse",
            count=len(self.cases),
            objaverse_base_url=self.mirror.url,
            objaverse_cache="/nowhere",
            objaverse_checksums=str(self.folder / "sums.parquet"),
            val_fraction=0.0,
            test_fraction=0.0,
        )
        catalog.run(config, out=Location(str(self.folder / "catalog")), job=Job(cache=Location(str(self.folder / "index"))))

    def fetch(self, config: FetchConfig = CONFIG, **job) -> dict[str, dict]:
        """Rows by name of the case."""
        place = Location(str(self.folder))
        out = place / f"out-{next(self.builds)}"
        fetch.run(config, catalog=place / "catalog", out=out, job=Job(cache=Location(self.cache) if self.cache else place / "cache", **job))
        rows = {row["uid"]: row for row in (out / "meshes.parquet").read_table().to_pylist()}
        assert len(rows) == len(self.cases)
        return {name: rows[uid_of(number)] for number, name in enumerate(self.cases)}

    def asked(self, before: Counter) -> dict[str, int]:
        """Requests since `before`, by name of the case."""
        return {name: self.mirror.requests[path_of(n)] - before[path_of(n)] for n, name in enumerate(self.cases)}

    def number(self, name: str) -> int:
        return list(self.cases).index(name)


@pytest.fixture
def faulty(tmp_path) -> Iterator[Set]:
    with Mirror().serving() as mirror:
        made = Set(tmp_path, mirror, cases(mirror))
        made.list()
        yield made


def check(rows: dict[str, dict], expected: dict[str, str]) -> None:
    assert {name: row["reason"] for name, row in rows.items()} == expected
    for name, row in rows.items():
        if expected[name]:
            assert row["status"] == "failed" and row["detail"] and row["path"] == "", name
        else:
            data = Path(row["path"]).read_bytes()
            assert row["status"] == "ok" and row["sha256"] == hashlib.sha256(data).hexdigest() and row["bytes"] == len(data), name


def test_everything_ends_verified_or_recorded_and_a_later_build_asks_only_for_what_may_have_changed(faulty):
    assert len(faulty.cases) > 30
    start = faulty.mirror.requests.copy()
    first = faulty.fetch()
    check(first, {name: case.reasons[0] for name, case in faulty.cases.items()})
    assert faulty.asked(start) == {name: case.requests[0] for name, case in faulty.cases.items()}

    second_start, logged = faulty.mirror.requests.copy(), len(faulty.mirror.log)
    second = faulty.fetch()
    check(second, {name: case.reasons[1] for name, case in faulty.cases.items()})
    assert faulty.asked(second_start) == {name: case.requests[1] for name, case in faulty.cases.items()}
    asked = dict(faulty.mirror.log[logged:])
    half = len(asset(faulty.number("cut always"))) // 2
    assert asked[path_of(faulty.number("cut always"))] == asked[path_of(faulty.number("stall always"))] == f"bytes={half}-"

    (faulty.folder / "cache" / "files" / f".{'0' * 32}.0.part").write_bytes(
        b"of a process that was killed, for an object no longer asked for"
    )
    third_start = faulty.mirror.requests.copy()
    third = faulty.fetch()
    assert third == second and faulty.mirror.requests == third_start

    files = {path.name for path in (faulty.folder / "cache" / "files").iterdir()}
    kept = {Path(row["path"]).name for row in third.values() if row["path"]}
    refused = {f"{uid_of(faulty.number('not as licensed'))}-{hashlib.sha256(faulty.cases['not as licensed'].body).hexdigest()[:8]}.glb"}
    assert files == kept | refused, "nothing unfinished is left"


def test_wrong_bytes_are_kept_for_a_look_and_asked_for_again_on_request_only(faulty):
    faulty.fetch()
    faulty.fetch()
    quarantine = faulty.folder / "cache" / "quarantine"
    wrong = ["the same error page", "changing error pages", "nothing at all", "stored truncated", "another object"]
    assert {path.stem for path in quarantine.iterdir()} == {uid_of(faulty.number(name)) for name in wrong}
    note = json.loads((quarantine / f"{uid_of(faulty.number('another object'))}.json").read_text())
    assert note["sha256"] == hashlib.sha256(asset(91)).hexdigest() != note["expected_sha256"] and note["reason"] == "checksum"
    assert (quarantine / f"{uid_of(faulty.number('another object'))}.bytes").read_bytes() == asset(91)

    faulty.mirror.script.clear()
    faulty.mirror.files[path_of(faulty.number("stored truncated"))] = asset(90)
    before = faulty.mirror.requests.copy()
    rows = faulty.fetch(retry_failed=True)
    check(rows, {name: "licence_conflict" if name == "not as licensed" else "" for name in faulty.cases})
    asked = {name for name, count in faulty.asked(before).items() if count}
    assert asked == {*wrong, "404", "410", "403"}
    assert list(quarantine.iterdir()) == [] and list((faulty.folder / "cache" / "failures").iterdir()) == []


def test_another_address_is_another_question(faulty):
    """A mirror may have what the first address has not: remembered failures do not stand in its way."""
    faulty.fetch()
    with Mirror().serving() as second:
        second.files = {path_of(number): asset(number) for number in range(len(faulty.cases))}
        second.files[path_of(faulty.number("stored truncated"))] = asset(90)
        rows = faulty.fetch(FetchConfig(attempts=1, timeout_s=0.4, objaverse_cache="/nowhere", mirrors=(f"{second.url}/",)))
    for name in ("404", "403", "the same error page"):
        assert rows[name]["status"] == "ok" and second.requests[path_of(faulty.number(name))] == 1
    assert second.requests[path_of(faulty.number("good"))] == 0


def test_the_licence_inside_a_file_is_held_against_the_catalog(faulty):
    row = faulty.fetch()["not as licensed"]
    assert (row["licence"], row["licence_in_file"], row["licence_conflict"]) == ("CC-BY-4.0", "CC-BY-NC-4.0", True)
    assert "CC-BY-NC-4.0" in row["detail"]


def test_two_builds_may_fetch_the_same_objects_at_once(tmp_path):
    """Both start with an empty cache; every answer waits until both have asked. Processes: see test_download."""
    with Mirror().serving() as mirror:
        made = Set(tmp_path, mirror, {f"object {number}": Case() for number in range(8)})
        made.list()
        gates = {path_of(number): threading.Barrier(2, timeout=20) for number in range(8)}

        def together(handler, body: bytes) -> None:
            gates[handler.path.lstrip("/")].wait()
            answers.whole(handler, body)

        mirror.script = {path_of(number): [together, together] for number in range(8)}
        with ThreadPoolExecutor(2) as pool:
            one, two = [build.result() for build in [pool.submit(made.fetch, PATIENT), pool.submit(made.fetch, PATIENT)]]
    assert one == two and {row["status"] for row in one.values()} == {"ok"}
    assert len(list((tmp_path / "cache" / "files").iterdir())) == 8


@pytest.mark.ray
def test_the_same_on_ray_tasks(faulty, ray_cluster):
    first = faulty.fetch(resources=Resources(workers=2, cpus=1.0))
    check(first, {name: case.reasons[0] for name, case in faulty.cases.items()})
    before = faulty.mirror.requests.copy()
    second = faulty.fetch(resources=Resources(workers=2, cpus=1.0))
    check(second, {name: case.reasons[1] for name, case in faulty.cases.items()})
    assert faulty.asked(before) == {name: case.requests[1] for name, case in faulty.cases.items()}


def test_there_are_never_more_downloads_at_a_time_than_allowed(tmp_path):
    busy, most, lock = 0, 0, threading.Lock()

    def counted(handler, body: bytes) -> None:
        nonlocal busy, most
        with lock:
            busy += 1
            most = max(most, busy)
        time.sleep(0.02)
        with lock:
            busy -= 1
        answers.whole(handler, body)

    with Mirror().serving() as mirror:
        made = Set(tmp_path, mirror, {f"object {number}": Case([counted] * 2) for number in range(24)})
        made.list()
        made.fetch(replace(PATIENT, connections=3), resources=Resources(workers=8))
        assert 1 < most <= 3
        most = 0
        made.fetch(replace(PATIENT, connections=6), resources=Resources(workers=2), fresh_since=time.time() + 60)
        assert 3 < most <= 6, "one worker keeps several connections busy"


def test_the_bandwidth_is_divided_among_the_shares_and_every_byte_is_counted(tmp_path, monkeypatch):
    paces: list[Pace] = []

    class Noted(Pace):
        def __init__(self, bytes_per_s: float) -> None:
            super().__init__(bytes_per_s)
            self.spent = 0
            paces.append(self)

        def spend(self, size: int) -> None:
            self.spent += size

    monkeypatch.setattr(fetch_share, "Pace", Noted)
    monkeypatch.setattr(fetch.ray, "is_initialized", lambda: False)  # A worker of an earlier test's cluster would not show its paces.
    with Mirror().serving() as mirror:
        made = Set(tmp_path, mirror, {f"object {number}": Case() for number in range(8)})
        made.list()
        rows = made.fetch(replace(PATIENT, max_mb_per_s=3.0), resources=Resources(workers=2))
    assert {pace.bytes_per_s for pace in paces} == {1.5e6}
    assert sum(pace.spent for pace in paces) == sum(row["bytes"] for row in rows.values())


def test_a_mirror_on_disk_serves_as_one_on_the_web_and_exclusions_are_handed_on(tmp_path):
    files = {uid_of(number): asset(number) for number in range(4)}
    licences = {uid: {"license": "by-nc" if uid == uid_of(3) else "cc0"} for uid in files}
    answers.write_tree(objaverse_files(files, licences), tmp_path / "mirror")
    (tmp_path / "mirror" / path_of(1)).unlink()
    place, url = Location(str(tmp_path)), f"file://{tmp_path}/mirror"
    listing = CatalogConfig(
        source="objaverse", count=4, objaverse_base_url=url, objaverse_cache="/nowhere", val_fraction=0.0, test_fraction=0.0
    )
    catalog.run(listing, out=place / "catalog", job=Job())
    fetch.run(CONFIG, catalog=place / "catalog", out=place / "out", job=Job())
    rows = (place / "out" / "meshes.parquet").read_table().to_pylist()
    assert [(row["reason"], row["licence"]) for row in rows] == [("", "CC0-1.0"), ("not_found", "CC0-1.0"), ("", "CC0-1.0")]
    (left_out,) = (place / "out" / "excluded.parquet").read_table().to_pylist()
    assert (left_out["uid"], left_out["reason"]) == (uid_of(3), "licence_non_commercial")


def test_a_killed_build_goes_on_within_the_file(tmp_path):
    """SIGKILL while every download has half of its bytes; the next build asks for the other halves only."""
    code = (
        "from infra.job import Job\nfrom infra.storage import Location\nfrom rendering import fetch\n"
        f"place = Location({str(tmp_path)!r})\n"
        "config = fetch.FetchConfig(objaverse_cache='/nowhere')\n"
        "fetch.run(config, catalog=place / 'catalog', out=place / 'a', job=Job(cache=place / 'cache'))"
    )
    with Mirror().serving() as mirror:
        made = Set(tmp_path, mirror, {f"object {number}": Case([mirror.stall]) for number in range(8)})
        made.list()
        before = len(mirror.log)
        environment = os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[2])}
        child = subprocess.Popen([sys.executable, "-c", code], env=environment, stderr=subprocess.DEVNULL)
        files, half = tmp_path / "cache" / "files", len(asset(0)) // 2
        while child.poll() is None and sum(path.stat().st_size == half for path in files.glob(".*.part")) < 8:
            time.sleep(0.02)
        assert child.poll() is None
        child.kill()
        child.wait()
        assert {row["status"] for row in made.fetch(PATIENT).values()} == {"ok"}
        assert Counter(asked for _, asked in mirror.log[before:]) == {"": 8, f"bytes={half}-": 8}
    assert len(list(files.iterdir())) == 8


@pytest.mark.long
def test_a_cache_on_s3_remembers_the_same(faulty, tmp_path):
    with s3_folder("cache") as faulty.cache:
        first = faulty.fetch()
        assert {name: row["reason"] for name, row in first.items()} == {name: case.reasons[0] for name, case in faulty.cases.items()}
        before = faulty.mirror.requests.copy()
        second = faulty.fetch()
        assert {name: row["reason"] for name, row in second.items()} == {name: case.reasons[1] for name, case in faulty.cases.items()}
        assert faulty.asked(before) == {name: case.requests[1] for name, case in faulty.cases.items()}
        for row in second.values():
            assert not row["path"] or hashlib.sha256(Location(row["path"]).read_bytes()).hexdigest() == row["sha256"]


QUICK = DownloadPolicy(attempts=4, timeout_s=0.4, backoff_s=0.01)


def test_a_truncated_index_is_asked_for_again_and_never_kept(tmp_path):
    paths = {uid_of(number): path_of(number) for number in range(500)}
    with Mirror().serving() as mirror:
        mirror.files["object-paths.json.gz"] = whole = packed(paths)
        mirror.script["object-paths.json.gz"] = [cut(), instead(whole[:-9]), status(503, Retry_After="0")]
        index = Index(mirror.url, tmp_path, Path("/nowhere"), QUICK)
        assert index.object_paths == paths and mirror.requests["object-paths.json.gz"] == 4
        mirror.files["lvis-annotations.json.gz"] = packed({"chair": list(paths)})[:-9]
        with pytest.raises(UserError, match="lvis-annotations.json.gz cannot be had"):
            index.lvis()
        assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["object-paths.json.gz"]
        mirror.files["lvis-annotations.json.gz"] = packed({"chair": list(paths)})
        assert list(index.lvis()) == ["chair"]


def test_an_index_comes_from_the_mirror_that_has_it(tmp_path):
    with Mirror().serving() as first, Mirror().serving() as second:
        first.files["object-paths.json.gz"] = b"<html>maintenance</html>"
        second.files["object-paths.json.gz"] = packed({uid_of(0): path_of(0)})
        index = Index(first.url, tmp_path, Path("/nowhere"), QUICK, mirrors=[second.url])
        assert index.object_paths == {uid_of(0): path_of(0)}
