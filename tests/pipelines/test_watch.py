"""`mvforge status --watch`: what it tells of a step at work, in a terminal, in a log and as JSON."""

import json
import os
import pty
import re
import select
import subprocess
import sys
import time
from pathlib import Path

import pytest

from infra.storage import Location
from pipelines.__main__ import main
from pipelines.artifact import Building, Store, new_build_id
from pipelines.commands.watch import rate
from pipelines.lease import Lease
from pipelines.step_progress import step_progress
from rendering.pieces import write_piece
from rendering.render_status import Started
from tests.conftest import ROOT
from tests.pipelines.stores import finished, interrupted

RECIPE = "smoke"


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return Store(Location(str(tmp_path / "store")))


def at_work(store: Store, step: str, started_at: float) -> Location:
    building = Building(new_build_id(), "print", "build", started_at)
    store.note_building(step, RECIPE, building)
    return store.folder(step, RECIPE) / building.build_id


def watched(store: Store, capsys, *arguments: str) -> list[dict]:
    assert main(["status", RECIPE, "--watch", "--refreshes", "1", "--json", "--store", store.root.uri, *arguments]) == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def rendering(store: Store) -> Location:
    """A rendering of ten objects, with four done, one failed now, and one that could not be fetched."""
    out = at_work(store, "render", time.time() - 30)
    Started("a" * 12, 10, [("failed", "not_fetched", 1)], 8, 1).write(out)
    pieces = store.cache("render") / "pieces" / ("a" * 12)
    for number in range(4):
        (pieces / f"object-{number}.arrow").write_bytes(b"views")
    write_piece(pieces, "object-9", {"state": "failed", "reason": "no_mesh"}, None, None)
    os.utime(Path(str(out)) / "progress.json", (time.time() - 20, time.time() - 20))
    return out


def test_a_rendering_at_work_has_counts_rate_time_left_and_reasons(store, capsys):
    rendering(store)
    with Lease(store.folder("render", RECIPE) / "lease.json", "render"):
        (refresh,) = watched(store, capsys)
    assert refresh["recipe"] == RECIPE and [line["step"] for line in refresh["steps"]][:3] == ["catalog", "fetch", "render"]
    line = {each["step"]: each for each in refresh["steps"]}["render"]
    assert (line["state"], line["done"], line["total"], line["failed"]) == ("running", 6, 10, 2)
    assert line["reasons"] == {"not_fetched": 1, "no_mesh": 1}
    # Five objects in the 20 s since it began, four left.
    assert line["per_s"] == pytest.approx(5 / 20, rel=0.3) and line["seconds_left"] == pytest.approx(16, rel=0.3)
    assert line["elapsed_s"] is not None and f"process {os.getpid()}" in line["detail"]


def test_training_is_counted_by_whole_checkpoints(store):
    now = time.time()
    out = at_work(store, "train.unet1", now - 300)
    state = out / "state" / out.name
    for step, ago in ((100, 150.0), (200, 50.0)):
        manifest = state / f"step-{step:08d}-aa" / "manifest.json"
        manifest.write_text("{}")
        os.utime(manifest.path, (now - ago, now - ago))
    (state / "step-00000300-aa" / "share-00000.json").write_text("{}")
    building = store.building("train.unet1", RECIPE)
    with Lease(store.folder("train.unet1", RECIPE) / "lease.json", "train") as lease:
        early = type(lease._holder)(**{**lease._holder.__dict__, "since": now - 200})
        made = step_progress(store, "train.unet1", RECIPE, building, early, 500)
        late = step_progress(store, "train.unet1", RECIPE, building, lease._holder, 500)
    assert (made.done, made.total, made.unit) == (200, 500, "steps") and made.per_s == pytest.approx(1.0, rel=1e-3)
    assert made.seconds_left == pytest.approx(300 - 50, abs=5)
    assert late.per_s is None and late.done == 200  # both checkpoints are of an earlier attempt
    assert step_progress(store, "train.unet1", RECIPE, building, None, 500).per_s is None


def test_pieces_of_earlier_builds_do_not_count(store):
    pieces = store.cache("score") / "pieces"
    for name in ("00.json", "00.bin", "11.json", "11.bin"):
        (pieces / name).write_bytes(b"{}")
    for name in ("00.json", "00.bin"):
        os.utime((pieces / name).path, (1e9, 1e9))
    at_work(store, "score", time.time() - 60)
    made = step_progress(store, "score", RECIPE, store.building("score", RECIPE), None, None)
    assert (made.done, made.total, made.per_s) == (1, None, None)


def test_finished_and_failed_steps_show_their_reasons(store, capsys):
    finished(store, "fetch", RECIPE, completed=5, failed=2, facts={"reasons": {"not_found": 2}, "bytes": 7})
    interrupted(store, "curate", RECIPE, failure="Traceback\nOSError: No space left on device")
    interrupted(store, "encode", RECIPE)
    (refresh,) = watched(store, capsys)
    lines = {each["step"]: each for each in refresh["steps"]}
    assert lines["fetch"]["reasons"] == {"not_found": 2} and lines["fetch"]["elapsed_s"] == 12.5
    assert lines["curate"]["state"] == "failed" and "No space left on device" in lines["curate"]["detail"]
    assert lines["encode"]["state"] == "interrupted" and lines["report"]["state"] == "missing"


def test_json_is_one_line_a_refresh(store, capsys):
    refreshes = watched(store, capsys, "--refreshes", "3", "--interval", "0.01")
    assert len(refreshes) == 3 and refreshes[0]["time"] < refreshes[2]["time"]


def test_a_log_gets_a_line_only_for_what_changed(store, capsys):
    arguments = ["status", RECIPE, "--watch", "--refreshes", "3", "--interval", "0.01", "--store", store.root.uri]
    assert main(arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 15 and "\x1b" not in "".join(lines)
    assert re.fullmatch(r"\d\d:\d\d:\d\d  catalog  missing  .*", lines[0])


def test_without_watch_status_is_what_it_was(store, capsys):
    assert main(["status", RECIPE, "--store", store.root.uri, "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert set(answer) == {"recipe", "label", "steps"}
    assert set(answer["steps"][0]) == {"step", "state", "completed", "failed", "rejected", "detail", "path"}


CLUSTER = """
name: two-kinds
currency: EUR
groups:
  - {name: cpu, count: 5, cpus: 8, memory_gb: 32, price_low: 0.6, price_high: 0.9}
  - name: gpu
    <<: {count: 2, cpus: 16, gpus: 4, memory_gb: 64, gpu_kind: H100, peak_tflops: 989, gpu_memory_gb: 80, price_low: 10, price_high: 20}
"""
# Render fills 3 of the nodes with CPUs (20 workers of 1 CPU, 8 a node), unet1 both with GPUs (6 workers of 1 GPU, 4 a node).
SETS = ("--set", "resources.render.workers=20", "--set", "resources.train.unet1.workers=6", "--set", "resources.train.unet1.gpus=1")


@pytest.fixture
def cluster(tmp_path: Path) -> str:
    (tmp_path / "cluster.yaml").write_text(CLUSTER)
    return str(tmp_path / "cluster.yaml")


def test_the_cost_is_that_of_the_bill_done_by_hand(store, cluster, capsys):
    """1800 s of a finished rendering, half an hour of a training at work, two replaced: a build of another label, an interrupted one."""
    label = ("--label", RECIPE)
    finished(store, "render", RECIPE, seconds=1800.0)
    finished(store, "fetch", "other", seconds=9999.0)
    interrupted(store, "encode", RECIPE)
    at_work(store, "train.unet1", time.time() - 9999)
    with Lease(store.folder("train.unet1", RECIPE) / "lease.json", "train") as lease:
        (store.folder("train.unet1", RECIPE) / "lease.json").write_json({**lease._holder.__dict__, "since": time.time() - 1800})
        (refresh,) = watched(store, capsys, "--cluster", cluster, *SETS, *label)
    cost = refresh["cost"]
    assert {name: figures[0] for name, figures in cost["by_step"].items()} == {
        "render": pytest.approx(0.5 * 3),
        "train.unet1": pytest.approx(0.5 * 2, rel=0.01),
    }
    assert (cost["currency"], cost["node_hours"]) == ("EUR", pytest.approx(2.5, rel=0.01))
    assert cost["low"] == pytest.approx(0.5 * 3 * 0.6 + 0.5 * 2 * 10, rel=0.01)
    assert cost["high"] == pytest.approx(0.5 * 3 * 0.9 + 0.5 * 2 * 20, rel=0.01)
    assert any("interrupted" in text for text in cost["assumptions"])


def test_a_rerun_costs_beside_what_it_replaces(store, cluster, capsys):
    finished(store, "render", RECIPE, seconds=3600.0)
    at_work(store, "render", time.time() - 3600)
    with Lease(store.folder("render", RECIPE) / "lease.json", "render") as lease:
        (store.folder("render", RECIPE) / "lease.json").write_json({**lease._holder.__dict__, "since": time.time() - 3600})
        (refresh,) = watched(store, capsys, "--cluster", cluster, "--set", "resources.render.workers=1", "--label", RECIPE)
    assert refresh["cost"]["low"] == pytest.approx(2 * 0.6, rel=0.01)


def test_the_prices_may_come_from_the_environment(store, cluster, capsys, monkeypatch):
    finished(store, "render", RECIPE, seconds=3600.0)
    (unknown,) = watched(store, capsys)
    monkeypatch.setenv("MVFORGE_CLUSTER", cluster)
    (known,) = watched(store, capsys)
    assert unknown["cost"] is None and known["cost"]["low"] == pytest.approx(0.6)
    assert main(["status", RECIPE, "--watch", "--refreshes", "1", "--store", store.root.uri]) == 0
    assert "cost so far: 0.60 to 0.90 EUR for 1.00 node hours" in capsys.readouterr().out.splitlines()[-1]


@pytest.mark.parametrize(
    "arguments",
    [
        ("render", "--watch"),
        (RECIPE, "render", "--watch"),
        (RECIPE, "--watch", "--interval", "0"),
        (RECIPE, "--watch", "--cluster", "no-such.yaml"),
        (RECIPE, "--cluster", "infra/clusters/laptop.yaml"),
    ],
)
def test_impossible_watches_are_refused(store, capsys, arguments):
    assert main(["status", *arguments, "--store", store.root.uri]) == 2
    assert "mend: " in capsys.readouterr().err


@pytest.mark.parametrize("per_s, text", [(None, ""), (2.5, "2.5/s"), (0.5, "30.0/min"), (0.01, "36.0/h"), (0.0001, "8.6/day")])
def test_speeds_are_readable(per_s, text):
    assert rate(per_s) == text


# The first terminal that the leader of a session opens is that session's: Ctrl-C in it becomes SIGINT.
IN_TERMINAL = """
import os, sys
terminal = os.open(sys.argv[1], os.O_RDWR)
for stream in range(3):
    os.dup2(terminal, stream)
from pipelines.__main__ import main
sys.exit(main(sys.argv[2:]))
"""


def test_a_terminal_is_refreshed_in_place_and_left_cleanly(store, monkeypatch):
    """In a real pseudo-terminal: the cursor goes up over the old table, lines fit the window, Ctrl-C ends it with status 0."""
    rendering(store)
    monkeypatch.setenv("COLUMNS", "70")
    monkeypatch.setenv("LINES", "30")
    arguments = ["status", RECIPE, "--watch", "--interval", "0.2", "--store", store.root.uri]
    master, slave = pty.openpty()
    command = [sys.executable, "-c", IN_TERMINAL, os.ttyname(slave), *arguments]
    child = subprocess.Popen(command, cwd=ROOT, start_new_session=True)
    shown, deadline = "", time.monotonic() + 60
    while shown.count("\x1b[J") < 3 and time.monotonic() < deadline:
        if select.select([master], [], [], 0.2)[0]:
            shown += os.read(master, 65536).decode()
    os.write(master, b"\x03")
    assert child.wait(60) == 0, shown
    os.close(master)
    os.close(slave)
    tables = shown.split("\x1b[J")
    rows = [line.replace("\x1b[K", "").rstrip("\r") for line in tables[0].split("\n")[:-1]]
    assert rows[0].startswith("recipe smoke, label smoke") and all(len(row) < 70 for row in rows)
    assert any(row.startswith("render") and "6 of 10 objects" in row for row in rows)
    assert "cost so far: unknown (give --cluster)" in rows
    assert tables[1].startswith(f"\x1b[{len(rows)}F") and "Traceback" not in shown
