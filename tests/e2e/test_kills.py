"""A driver that is killed, and one that is told to end, in the middle of a training; `test_chaos` kills one while it renders."""

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

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


def test_killed_and_then_told_to_end_while_training(chain: Chain, monkeypatch: pytest.MonkeyPatch):
    """SIGKILL to a driver; SIGTERM to the next, whose workers save the step in flight and which says how to go on; a third ends it."""
    monkeypatch.setenv("MVFORGE_NOTICE_S", str(PATIENCE_S))  # a busy machine may take long to begin
    longer = ["--set", "train.unet2.steps=60", "--set", "train.unet2.checkpoint_every=4", "--only", "train.unet2"]
    label = chain.mvforge("plan", "smoke", *longer[:4])["label"]
    place = chain.store / "train.unet2" / label

    def saved() -> list[int]:
        return sorted(int(path.parent.name.split("-")[1]) for path in place.rglob("step-*/manifest.json"))

    def groups() -> set[tuple[Path, int]]:
        """Worker groups that began: each writes its file anew."""
        return {(path, path.stat().st_mtime_ns) for path in place.glob("*/workers.pickle")}

    kill_when(chain, lambda: bool(saved()), "run", "smoke", *longer)
    building, before = json.loads((place / "building.json").read_text())["build_id"], groups()
    driver = chain.start("run", "smoke", *longer, stderr=subprocess.PIPE)
    try:
        deadline = time.monotonic() + PATIENCE_S
        while not groups() - before:
            assert driver.poll() is None and time.monotonic() < deadline, "training never went on"
            time.sleep(0.1)
        driver.send_signal(signal.SIGTERM)
        _, said = driver.communicate(timeout=PATIENCE_S)
    finally:
        if driver.poll() is None:
            os.killpg(driver.pid, signal.SIGKILL)
    assert driver.returncode == 75, said[-3000:]
    found = re.search(r"checkpoint after step (\d+) saved; run the same command again to go on", said)
    assert found and int(found[1]) == saved()[-1] < 60, said[-3000:]
    rows = {row["step"]: row for row in chain.mvforge("status", "smoke", *longer[:4])["steps"]}
    assert (rows["train.unet2"]["state"], rows["train.unet2"]["detail"]) == ("interrupted", "run again to go on")
    result = chain.mvforge("run", "smoke", *longer)
    assert result["steps"]["train.unet2"]["build_id"] == building, "the interrupted build is continued"
    history = [json.loads(line) for line in (chain.data("train.unet2", label) / "history.jsonl").read_text().splitlines()]
    assert [row["step"] for row in history] == list(range(1, 61)), "every step once, in order"
    validation = [json.loads(line)["step"] for line in (chain.data("train.unet2", label) / "validation.jsonl").read_text().splitlines()]
    assert validation[0] == 0 and validation[-1] == 60 and len(set(validation)) == len(validation)
