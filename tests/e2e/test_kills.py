"""Killing the driver in the middle of a step, then running again: same counts, nothing twice."""

import json
import os
import signal
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
