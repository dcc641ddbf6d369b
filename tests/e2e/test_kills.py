"""Killing the driver in the middle of a step, then running again: same counts, nothing twice."""

import json
import os
import re
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.e2e.conftest import Chain

pytestmark = [pytest.mark.ray, pytest.mark.blender, pytest.mark.slow]

PATIENCE_S = 240


def kill_when(chain: Chain, ready: Callable[[], bool], *arguments: str) -> None:
    """Start a driver, wait until `ready`, and kill the driver process."""
    driver = chain.start(*arguments)
    try:
        deadline = time.monotonic() + PATIENCE_S
        while not ready():
            assert driver.poll() is None, f"the driver ended with status {driver.returncode} before it could be killed"
            assert time.monotonic() < deadline, "the moment to kill never came"
            time.sleep(0.05)
        os.kill(driver.pid, signal.SIGKILL)
        driver.wait()
    finally:
        if driver.poll() is None:
            os.killpg(driver.pid, signal.SIGKILL)


def test_killed_while_rendering(tmp_path: Path, ray_cluster):
    chain = Chain(tmp_path, {})
    pieces = chain.store / "render" / "_cache"
    kill_when(chain, lambda: len(list(pieces.rglob("*.arrow"))) >= 2, "run", "smoke", "--only", "data")
    assert not (chain.store / "render" / "smoke" / "record.json").exists()
    interrupted = {row["step"]: row["state"] for row in chain.mvforge("status", "smoke")["steps"]}
    assert interrupted["render"] == "interrupted" and interrupted["fetch"] == "done"
    result = chain.mvforge("run", "smoke", "--only", "data")
    assert result["steps"]["render"]["completed"] == 6
    assert result["steps"]["render"]["facts"]["rendered_now"] <= 4, "what was finished must not be rendered again"
    rows = [
        row
        for part in sorted(chain.data("render").glob("part-*.parquet"))
        for row in pq.read_table(part, columns=["uid", "images"]).to_pylist()
    ]
    assert Counter(row["uid"] for row in rows) == Counter({row["uid"]: 1 for row in rows}) and len(rows) == 6
    assert all(len(row["images"]) == 34 for row in rows)
    ledger = pq.read_table(chain.data("render") / "ledger.parquet", columns=["uid", "status"]).to_pylist()
    assert Counter(row["status"] for row in ledger) == {"ok": 6}


def test_killed_while_training(chain: Chain):
    longer = ["--set", "train.unet2.steps=40", "--set", "train.unet2.checkpoint_every=4", "--only", "train.unet2"]
    label = chain.mvforge("plan", "smoke", *longer[:4])["label"]
    state = chain.store / "train.unet2" / label

    def has_checkpoint() -> bool:
        return any(state.rglob("step-*/manifest.json"))

    kill_when(chain, has_checkpoint, "run", "smoke", *longer)
    building = json.loads((state / "building.json").read_text())["build_id"]
    result = chain.mvforge("run", "smoke", *longer)
    assert result["steps"]["train.unet2"]["build_id"] == building, "the interrupted build is continued"
    history = [json.loads(line) for line in (chain.data("train.unet2", label) / "history.jsonl").read_text().splitlines()]
    assert [row["step"] for row in history] == list(range(1, 41)), "every step once, in order"
    validation = [json.loads(line)["step"] for line in (chain.data("train.unet2", label) / "validation.jsonl").read_text().splitlines()]
    assert validation[0] == 0 and validation[-1] == 40 and len(set(validation)) == len(validation)


def test_told_to_end_while_training(chain: Chain, monkeypatch: pytest.MonkeyPatch):
    """SIGTERM to the driver: its workers save the step in flight, it says how to go on, and the same command does."""
    monkeypatch.setenv("MVFORGE_NOTICE_S", str(PATIENCE_S))  # a busy machine may take long to begin
    longer = ["--set", "train.unet2.steps=40", "--set", "train.unet2.checkpoint_every=1000", "--only", "train.unet2"]
    label = chain.mvforge("plan", "smoke", *longer[:4])["label"]
    place = chain.store / "train.unet2" / label
    driver = chain.start("run", "smoke", *longer, stderr=subprocess.PIPE)
    try:
        deadline = time.monotonic() + PATIENCE_S
        while not any(place.glob("*/workers.pickle")):
            assert driver.poll() is None and time.monotonic() < deadline, "training never began"
            time.sleep(0.1)
        driver.send_signal(signal.SIGTERM)
        _, said = driver.communicate(timeout=PATIENCE_S)
    finally:
        if driver.poll() is None:
            os.killpg(driver.pid, signal.SIGKILL)
    assert driver.returncode == 75, said[-3000:]
    found = re.search(r"checkpoint after step (\d+) saved; run the same command again to go on", said)
    assert found, said[-3000:]
    (saved,) = [path.parent.name for path in place.rglob("step-*/manifest.json")]
    assert int(saved.split("-")[1]) == int(found[1]) < 40, "no other checkpoint was due"
    rows = {row["step"]: row for row in chain.mvforge("status", "smoke", *longer[:4])["steps"]}
    assert (rows["train.unet2"]["state"], rows["train.unet2"]["detail"]) == ("interrupted", "run again to go on")
    building = json.loads((place / "building.json").read_text())["build_id"]
    result = chain.mvforge("run", "smoke", *longer)
    assert result["steps"]["train.unet2"]["build_id"] == building
    history = [json.loads(line) for line in (chain.data("train.unet2", label) / "history.jsonl").read_text().splitlines()]
    assert [row["step"] for row in history] == list(range(1, 41)), "every step once, in order"
