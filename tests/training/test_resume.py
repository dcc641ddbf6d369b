"""Going on at another number of workers, and after the death of every process, against uninterrupted plain training."""

import json
from collections import Counter
from dataclasses import replace

import pytest
import torch

from infra.errors import UserError
from infra.storage import Location
from tests.training import several
from tests.training.test_loop import CONFIG, untimed
from tests.training.toy import ToyConfig, write_objects
from training.checkpoint import LocalCheckpoints
from training.data import DataLocations
from training.engine import process_group_from_environment
from training.stage import StageInputs, fit_local, train_stage

# Twelve objects an update: six micro-batches that one, two or three workers can share.
SHARED = replace(CONFIG, global_batch=12, schedule="constant", ema_decay=0.7, log_every=1, validate_every=5)
STAGES = (0, 2, 3)


class Stop(Exception):
    pass


class StoppingAt(LocalCheckpoints):
    """Ends the training on every rank right after the checkpoint of one step."""

    def __init__(self, folder, step):
        super().__init__(folder)
        self.last = step

    def save(self, step, write, state, score=None):
        super().save(step, write, state, score)
        if step == self.last:
            raise Stop


def go_on(config, stages, inputs, folder, stop_at):
    """One process of several: for every ZeRO stage, train from where it stands until the checkpoint at `stop_at`."""
    torch.set_num_threads(1)
    with process_group_from_environment():
        for stage in stages:
            out = Location(f"{folder}/zero-{stage}")
            checkpoints = StoppingAt(out.local_path() / "state", stop_at)
            try:
                train_stage(replace(config, zero_stage=stage), inputs, out, checkpoints, lambda kind, row: None, torch.device("cpu"))
            except Stop:
                checkpoints.close()


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    views, kept = write_objects(Location(str(tmp_path_factory.mktemp("objects"))), train=10, val=4)
    return StageInputs(DataLocations(views, kept))


@pytest.fixture(scope="module")
def resized(inputs, tmp_path_factory):
    """The folder where two processes trained to step 6, one went on to step 12, three to step 18 and two to the end."""
    folder = tmp_path_factory.mktemp("resized")
    for world, stop_at in ((2, 6), (1, 12), (3, 18), (2, 0)):
        logs = folder / f"logs-{stop_at}"
        several.finish(several.start(world, logs, go_on, SHARED, STAGES, inputs, str(folder), stop_at), logs)
    return folder


@pytest.fixture(scope="module")
def alone(inputs, tmp_path_factory):
    return fit_local(SHARED, inputs, Location(str(tmp_path_factory.mktemp("alone"))))


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_two_workers_then_one_three_and_two_learn_what_one_learns(resized, alone, stage):
    out = resized / f"zero-{stage}"
    for name, expected in (("history", alone.history), ("validation", alone.validation)):
        rows = [json.loads(line) for line in (out / f"{name}.jsonl").read_text().splitlines()]
        assert [row["step"] for row in rows] == [row["step"] for row in expected]
        for row, wanted in zip(untimed(rows), untimed(expected), strict=True):  # validations are of the averaged weights
            assert row == pytest.approx(wanted, rel=5e-5)


def test_a_damaged_checkpoint_costs_steps_and_changes_no_figure(inputs, alone, tmp_path, caplog):
    out = Location(str(tmp_path))
    go_on(SHARED, [0], inputs, str(tmp_path), stop_at=12)
    (newest,) = (tmp_path / "zero-0" / "state").glob("step-00000012-*")
    content = bytearray((newest / "plain.pt").read_bytes())
    content[len(content) // 2] ^= 1
    (newest / "plain.pt").write_bytes(content)
    seen = []
    resumed = fit_local(SHARED, inputs, out / "zero-0", report=lambda kind, row: seen.append(row["step"]))
    assert newest.name in caplog.text and "plain.pt does not match" in caplog.text
    assert min(seen) == 7  # from the checkpoint at 6
    assert untimed(resumed.history) == untimed(alone.history)


def test_another_zero_stage_is_refused(inputs, tmp_path):
    config = replace(SHARED, zero_stage=2)
    go_on(config, [2], inputs, str(tmp_path), stop_at=6)
    with pytest.raises(UserError, match="zero_stage 2 and cannot go on with 3"):
        fit_local(replace(config, zero_stage=3), inputs, Location(str(tmp_path / "zero-2")))


def under_torchrun(folder, config, inputs):
    """Both processes of `torchrun`, as a script that a user would write around `fit_local`."""
    torch.set_num_threads(1)
    fit_local(config, inputs, Location(folder))


@pytest.mark.slow
def test_torchrun_goes_on_after_kill_9(inputs, alone, tmp_path):
    """One of two processes dies in the middle of step 8; torchrun ends the other; a second torchrun ends in the same curve."""
    accidents = tmp_path / "accidents"
    accidents.mkdir()
    (accidents / "kill-8").touch()
    config = replace(SHARED, model=ToyConfig(crash=str(accidents)))
    out = tmp_path / "out"
    first = several.torchrun(2, tmp_path / "first", under_torchrun, str(out), config, inputs)
    assert first.wait(240) != 0 and not (out / "history.jsonl").exists()
    second = several.torchrun(2, tmp_path / "second", under_torchrun, str(out), config, inputs)
    assert second.wait(240) == 0, (tmp_path / "second" / "torchrun.log").read_text()[-3000:]
    rows = [json.loads(line) for line in (out / "history.jsonl").read_text().splitlines()]
    for row, wanted in zip(untimed(rows), untimed(alone.history), strict=True):
        assert row == pytest.approx(wanted, rel=5e-5)
    starts = Counter(int(line) for line in (accidents / "steps.log").read_text().split())
    assert starts[5] == 6 and starts[6] == 12  # six micro-batches a step; steps from 6 on were begun twice
