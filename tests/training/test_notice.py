"""SIGTERM with some seconds to go: a checkpoint after the step in flight, on all ranks, and then the curve that never was cut."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from infra import notice, tracking
from infra.storage import Location
from tests.conftest import ROOT
from tests.pipelines.test_train_tool import RECIPE, call, data_of, finished, toy
from tests.training import several
from tests.training.test_loop import CONFIG, untimed
from tests.training.test_train import assert_same_curve, run_with_accidents, step_starts
from tests.waiting import until
from training.checkpoint_folder import LocalFolder
from training.checkpoint_manifest import MANIFEST, read_manifest
from training.notice import Left
from training.notice_file import NOTICE, give
from training.stage import StageInputs, fit_local

PATIENCE_S = 180


def begun(folder: Path, step: int) -> int:
    """How many micro-batches of a step were begun."""
    log = folder / "steps.log"
    return log.read_text().split().count(str(step)) if log.exists() else 0


def checkpoints(state: Path) -> list[int]:
    return sorted(int(path.parent.name.split("-")[1]) for path in state.glob(f"step-*/{MANIFEST}"))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Location:
    return finished(Location(str(tmp_path_factory.mktemp("home"))))


@pytest.fixture
def accidents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "accidents"
    folder.mkdir()
    monkeypatch.setenv("TOY_ACCIDENTS", str(folder))
    return folder


def rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_notice_costs_no_step_and_leaves_no_mark_on_the_curves(store: Location, tmp_path: Path, accidents: Path) -> None:
    """Told while step 9 (of 0, 1, ...) is computed: a checkpoint after 10 updates, where a validation is due that is made up for."""
    out = tmp_path / "out"
    arguments = [RECIPE, "first", "--store", str(store), "--out", str(out)]
    (accidents / "hold-9").touch()
    told = subprocess.Popen(
        [sys.executable, "-m", "pipelines", "train", *arguments], cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    )
    try:
        until(lambda: begun(accidents, 9) == 1)
        for _ in range(2):  # Slurm sends it again, and so does an impatient person
            told.send_signal(signal.SIGTERM)
            time.sleep(0.1)
        (accidents / "hold-9").unlink()
        _, said = told.communicate(timeout=PATIENCE_S)
    finally:
        told.kill()
    assert told.returncode == notice.STATUS == 75, said[-3000:]
    assert "checkpoint after step 10 saved; run the same command again to go on" in said
    assert checkpoints(out / "state") == [6, 10] and not (out / "history.jsonl").exists()
    call(*arguments)
    expected = fit_local(toy().train["first"], StageInputs(data_of(store)), Location(str(tmp_path / "expected")))
    assert untimed(rows(out / "history.jsonl")) == untimed(expected.history)
    assert rows(out / "validation.jsonl") == expected.validation
    assert all(begun(accidents, step) == 4 for step in range(20)), "no micro-batch was computed twice"


def test_a_notice_at_the_last_step_leaves_only_the_results_to_be_written(store: Location, tmp_path: Path) -> None:
    asked = iter([0] * 19 + [2])
    out = tmp_path / "out"
    config, inputs = toy().train["first"], StageInputs(data_of(store))
    from training.checkpoint import LocalCheckpoints
    from training.engine import device_here
    from training.stage import train_stage

    def once(ask) -> object:
        return train_stage(config, inputs, Location(str(out)), LocalCheckpoints(out / "state"), lambda kind, row: None, device_here(), ask)

    with pytest.raises(Left, match="after step 20 saved"):
        once(lambda: next(asked))
    once(lambda: pytest.fail("no step is left"))
    expected = fit_local(config, inputs, Location(str(tmp_path / "expected")))
    assert untimed(rows(out / "history.jsonl")) == untimed(expected.history)
    assert rows(out / "validation.jsonl") == expected.validation


def train_as_rank(arguments: list[str]) -> None:
    from pipelines.__main__ import main

    sys.exit(main(["train", *arguments]))


def test_ranks_agree_when_one_alone_is_told(store: Location, tmp_path: Path, accidents: Path) -> None:
    out, logs = tmp_path / "out", tmp_path / "logs"
    arguments = [RECIPE, "first", "--store", str(store), "--out", str(out)]
    (accidents / "hold-8").touch()
    ranks = several.start(2, logs, train_as_rank, arguments)
    try:
        until(lambda: begun(accidents, 8) == 2)
        ranks[1].send_signal(signal.SIGTERM)
        time.sleep(0.1)
        (accidents / "hold-8").unlink()
        assert [rank.wait(PATIENCE_S) for rank in ranks] == [75, 75], (logs / "rank-1.log").read_text()[-3000:]
    finally:
        for rank in ranks:
            rank.kill()
    assert checkpoints(out / "state") == [6, 9]
    said = [(logs / f"rank-{rank}.log").read_text() for rank in range(2)]
    assert [text.count("checkpoint after step 9 saved") for text in said] == [1, 0]
    call(*arguments)
    expected = fit_local(toy().train["first"], StageInputs(data_of(store)), Location(str(tmp_path / "expected")))
    for row, other in zip(untimed(rows(out / "history.jsonl")), untimed(expected.history), strict=True):
        assert row == pytest.approx(other, rel=2e-5)
    assert all(begun(accidents, step) == 4 for step in range(20))


@pytest.mark.slow
def test_torchrun_passes_the_notice_on(store: Location, tmp_path: Path, accidents: Path) -> None:
    out = tmp_path / "out"
    arguments = [RECIPE, "first", "--store", str(store), "--out", str(out)]
    (accidents / "hold-8").touch()
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "pipelines", "train"]
    log = tmp_path / "log"
    with open(log, "wb") as stream:
        told = subprocess.Popen([*command, *arguments], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=stream)
    try:
        until(lambda: begun(accidents, 8) == 2)
        told.send_signal(signal.SIGTERM)
        until(lambda: log.read_text().count("closing signal SIGTERM") == 2, "torchrun tells both workers")
        (accidents / "hold-8").unlink()
        told.wait(PATIENCE_S)
    finally:
        told.kill()
    said = log.read_text()
    assert told.returncode != 0 and "checkpoint after step 9 saved" in said, said[-3000:]
    assert checkpoints(out / "state") == [6, 9]
    body = read_manifest(LocalFolder(next((out / "state").glob("step-00000009-*"))))
    assert (body["step"], body["state"]["world"]) == (9, 2)


@pytest.mark.ray
def test_workers_save_when_a_node_goes_and_leave_when_the_driver_is_told(
    ray_cluster, tracking_uri, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A notice for a node: a checkpoint, and on. A worker's death: on from that checkpoint. SIGTERM to the driver: checkpoint, end.

    A new driver opens a new run; what the one before had tracked in its own of steps and pictures is tracked there too, each once.
    """
    monkeypatch.setenv("MVFORGE_NOTICE_S", str(PATIENCE_S))  # a busy machine may take longer than a scheduler would wait
    config = replace(CONFIG, zero_stage=2, log_every=1, sample_every=8, sample_objects=3)
    call, alone, out, first = run_with_accidents(config, ["hold-7", "hold-9", "hold-14"], tmp_path, tracking_uri, workers=2)
    accidents, state = tmp_path / "accidents", tmp_path / "out" / "state" / "b1"

    def happen() -> None:
        until(lambda: begun(accidents, 7) >= 2)
        give(out, leave=False)
        time.sleep(2.5)  # the worker looks every second
        (accidents / "hold-7").unlink()
        until(lambda: 8 in checkpoints(state))
        (accidents / "kill-10").touch()
        (accidents / "hold-9").unlink()
        until(lambda: begun(accidents, 14) >= 2)
        os.kill(os.getpid(), signal.SIGTERM)
        until(lambda: json.loads((tmp_path / "out" / NOTICE).read_text())["leave"])
        time.sleep(2.5)
        (accidents / "hold-14").unlink()

    thread = threading.Thread(target=happen)
    thread.start()
    with pytest.raises(Left) as left:
        call()
    thread.join()
    assert left.value.step == 15 and 15 in checkpoints(state)
    assert not (accidents / "kill-10").exists()
    second = tracking.open_run(tracking_uri, "test", "train.first")
    assert call(second).completed == 10
    assert_same_curve(out, alone)
    starts = step_starts(tmp_path)  # two workers with two micro-batches each
    assert (starts[7], starts[8], starts[9]) == (4, 8, 8), "on from the checkpoint after 8 updates, not from that after 6"
    assert (starts[14], starts[15]) == (4, 4), "nothing was done twice for the notice's sake"
    _, living = psutil.wait_procs([each for each in psutil.Process().children(recursive=True) if "TrainContr" in each.name()], timeout=30)
    assert not living, "the training is over, its controller is not"
    assert (out / "loss.png").read_bytes()[:4] == b"\x89PNG"
    left_over = {entry.name for entry in out.children()}
    written = {"checkpoint", "history.jsonl", "validation.jsonl", "previews.jsonl", "uids.json", "loss.png", "pictures"}
    assert left_over == written

    client = tracking.client_of(tracking_uri)
    histories = (client.get_metric_history(run.run_id, "train/loss") for run in (first, second))
    before, after = ([m.step for m in sorted(history, key=lambda m: (m.timestamp, m.step))] for history in histories)
    assert before == list(range(1, 16))
    assert after == list(range(1, 21)), "the earlier ones at the start, not when the training is through"
    steps = [[file.path[-6:-4] for file in client.list_artifacts(run.run_id, "samples")] for run in (first, second)]
    assert steps == [["08"], ["08", "16", "20"]]
    validated = [row["step"] for row in rows(out / "validation.jsonl")]
    assert sorted(m.step for m in client.get_metric_history(second.run_id, "validation/loss")) == validated


def test_without_anything_to_save_sigterm_ends_at_once_and_only_once() -> None:
    with pytest.raises(notice.Preempted), notice.listening():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(30)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)  # while it tidies up
            time.sleep(0.1)


def test_a_block_that_does_not_end_in_time_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MVFORGE_NOTICE_S", "0.2")
    heard = []
    with pytest.raises(notice.Preempted), notice.heeding(lambda: heard.append(1), limited=True) as told:
        assert not told()
        os.kill(os.getpid(), signal.SIGTERM)
        assert told() and heard == [1]
        time.sleep(30)
