"""Pieces, ledger rows, statistics and the status that is told from file names: no Blender and no Ray."""

import json
import os
import time
from collections import Counter

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from infra.ahead import ahead
from infra.processes import start_time
from infra.storage import Entry, Location
from rendering.ledger import LEDGER, PHASES, Ledger, ledger_row
from rendering.pieces import DONE, FAILED, QUARANTINED, file_name, list_pieces, object_name, parsed, read_outcome, read_piece, write_piece
from rendering.render_status import Started, render_status
from rendering.store_statistics import Statistics
from rendering.views import from_row, to_table
from tests.rendering.test_views import assert_same, random_views, with_passes

OK = {"state": DONE, "reason": None, "detail": None, "attempts": 1, "seconds": 2.0, "worker": "w", "views": 34, "peak_rss_mb": 300.0}
BAD = {**OK, "state": FAILED, "reason": "crash:SIGSEGV", "detail": "log tail", "views": 0}
SHA = "ab" * 32


@settings(max_examples=200, deadline=None)
@example(uid="..", state=FAILED, reason="a.b")
@given(uid=st.text(min_size=1, max_size=300), state=st.sampled_from([DONE, FAILED, QUARANTINED]), reason=st.text(min_size=1, max_size=20))
def test_a_file_name_tells_object_state_and_reason(uid, state, reason):
    try:
        uid.encode(), reason.encode()
    except UnicodeEncodeError:
        return
    name = object_name(uid, SHA, with_mesh=True)
    file = file_name(name, {"state": state, "reason": None if state == DONE else reason})
    assert len(file) < 255 and "/" not in file and not file.startswith(".")
    back = parsed(Entry(file, False, 1, 5.0))
    assert back is not None and back[0] == name and (back[1].name, back[1].state, back[1].mtime) == (file, state, 5.0)
    if len(reason) < 8:
        assert back[1].reason == (None if state == DONE else reason)


def test_long_names_stay_apart():
    long = "x" * 400
    assert object_name(long + "a", SHA, False) != object_name(long + "b", SHA, False)
    assert object_name("a", SHA, False) != object_name("a", SHA, True) != object_name("a", "cd" * 32, True)


def test_a_piece_replaces_the_one_before_and_the_newer_of_two_counts(tmp_path):
    place, views = Location(str(tmp_path)), with_passes(random_views("u"))
    name = object_name("u", SHA, False)
    failed = write_piece(place, name, BAD, None, None)
    assert failed == f"{name}.failed.crash%3ASIGSEGV.json" and read_outcome(place / failed) == BAD
    done = write_piece(place, name, OK, to_table(views), failed)
    assert [entry.name for entry in place.children()] == [done] and read_outcome(place / done) == OK
    outcome, table = read_piece(place / done)
    assert outcome == OK and table is not None
    assert_same(from_row(table.to_pylist()[0]), views)
    write_piece(place, name, BAD, None, None)  # killed before the old one was removed
    os.utime(tmp_path / done, (1, 1))
    (tmp_path / "runs").mkdir()
    (tmp_path / "other.txt").write_text("")
    assert {key: piece.state for key, piece in list_pieces(place).items()} == {name: FAILED}


def test_ledger_rows_have_the_phases_as_numbers_and_a_missing_one_is_null(tmp_path):
    row = {"uid": "u", "sha256": SHA, "split": "val", "licence": "CC0-1.0", "reason": None, "detail": None}
    outcome = {**OK, "attempts": 3, "phases": {"import": 0.5, "sample": 2.25, "clear": 0.1}}
    with Ledger.writing(Location(str(tmp_path)) / "ledger.parquet") as ledger:
        ledger.add(ledger_row(row, outcome, "digest"))
        ledger.add(ledger_row({**row, "uid": "v", "reason": "http_404", "detail": "gone"}, None, "digest"))
        for number in range(2500):
            ledger.add(ledger_row({**row, "uid": f"w{number}"}, BAD, "digest"))
    table = (Location(str(tmp_path)) / "ledger.parquet").read_table()
    assert table.schema.equals(LEDGER) and len(table) == 2502 and ledger.reasons == Counter({"crash:SIGSEGV": 2500, "http_404": 1})
    first, second, third = table.slice(0, 3).to_pylist()
    assert {phase: first[f"seconds_{phase}"] for phase in PHASES} == {
        "import": 0.5,
        "sync": None,
        "sample": 2.25,
        "denoise": None,
        "encode": None,
    }
    assert (first["status"], first["state"], first["attempts"], first["config"], first["licence"]) == ("ok", "done", 3, "digest", "CC0-1.0")
    assert json.loads(first["phases"])["clear"] == 0.1
    assert (second["status"], second["state"], second["reason"], second["attempts"]) == ("failed", "failed", "http_404", 0)
    assert (third["status"], third["detail"], third["peak_rss_mb"]) == ("failed", "log tail", 300.0)


def test_a_ledger_that_breaks_off_is_not_there(tmp_path):
    with pytest.raises(RuntimeError), Ledger.writing(Location(str(tmp_path)) / "ledger.parquet"):
        raise RuntimeError("lost")
    assert list(tmp_path.iterdir()) == []


def test_statistics_add_up():
    statistics = Statistics()
    plain, rich = random_views("a"), with_passes(random_views("b"))
    plain.facts["coverage"], rich.facts["coverage"] = [0.25] * 34, [0.75] * 34
    for views, licence in ((plain, "CC0-1.0"), (rich, None)):
        statistics.add(to_table(views), licence)
    summary = statistics.summary({"samples": 1})
    rows = [to_table(plain).to_pylist()[0], to_table(rich).to_pylist()[0]]
    assert summary["bytes_by_column"]["images"] == sum(len(image) for row in rows for image in row["images"])
    assert summary["bytes_by_column"]["depth"] == sum(map(len, rows[1]["depth"])) and summary["bytes"] == sum(
        summary["bytes_by_column"].values()
    )
    assert (summary["objects"], summary["views"], summary["mean_coverage"], summary["resolution"]) == (2, 68, 0.5, 8)
    assert summary["licences"] == {"CC0-1.0": 1, "unknown": 1} and summary["rigs"] == {"mvdiffusionpp": 2}
    assert json.loads(json.dumps(summary)) == summary


def test_the_status_of_a_running_rendering_is_told_from_names_alone(tmp_path, monkeypatch):
    out, pieces = Location(str(tmp_path / "out")), Location(str(tmp_path / "pieces"))
    place = pieces / "digest"
    write_piece(place, "before-the-run", OK, to_table(random_views("a")), None)
    os.utime(tmp_path / "pieces" / "digest" / "before-the-run.arrow", (1, 1))
    assert render_status(out, [pieces]) is None
    Started("digest", 20, [(DONE, None, 1), (FAILED, "http_404", 2)], views=42, workers=2).write(out)
    began = time.time() - 100
    os.utime(tmp_path / "out" / "progress.json", (began, began))
    for number in range(10):
        (place / f"o{number}.arrow").write_bytes(b"never opened")
        os.utime(tmp_path / "pieces" / "digest" / f"o{number}.arrow", (began + 5 * number, began + 5 * number))
    write_piece(place, "p", BAD, None, None)
    write_piece(place, "q", {**BAD, "state": QUARANTINED, "reason": "timeout"}, None, None)
    status = render_status(out, [pieces])
    assert status is not None
    assert (status.state, status.done, status.failed, status.quarantined, status.waiting) == ("running", 11, 3, 1, 5)
    assert status.reasons == {"http_404": 2, "crash:SIGSEGV": 1, "timeout": 1} and status.rendered_now == 12
    assert status.objects_per_min == pytest.approx(12 / 100 * 60, rel=0.05) and status.views_per_s == pytest.approx(42 * 12 / 100, rel=0.05)
    assert status.seconds_left == pytest.approx(5 * 100 / 12, rel=0.05)
    note = json.loads((out / "progress.json").read_text())
    (out / "progress.json").write_json({**note, "pid_started": "another process of that number"})
    os.utime(tmp_path / "out" / "progress.json", (began, began))
    crashed = render_status(out, [pieces])
    assert crashed is not None and (crashed.state, crashed.waiting, crashed.seconds_left) == ("interrupted", 5, None)
    assert note["pid_started"] == start_time(os.getpid())


def test_reading_ahead_keeps_the_order_and_passes_errors_on():
    assert list(ahead(lambda number: number * number, range(50), 3)) == [number * number for number in range(50)]
    with pytest.raises(ZeroDivisionError):
        list(ahead(lambda number: 1 // (7 - number), range(50), 3))
