"""The guard alone, and in the loop on one and on two ranks."""

import json
import pickle
import statistics
from dataclasses import replace

import numpy as np
import pytest
import torch

from infra.errors import UserError
from infra.storage import Location
from tests.training import several
from tests.training.test_loop import CONFIG
from tests.training.toy import ToyConfig, ToyMethod, ToyTrainable, write_objects
from training.data import DataLocations
from training.guard import Guard, NonFiniteTraining, SpikedTraining, UnstableTraining
from training.stage import StageInputs, fit_local

BAD = "object-003"


def losses(value, uid="a"):
    return [(value, [uid]), (value, ["b"])]


def test_a_spike_is_a_factor_above_the_median_of_the_last_hundred_after_fifty():
    rng = np.random.default_rng(0)
    guard, seen = Guard(4.0), []
    for step in range(300):
        value = float(rng.uniform(0.5, 1.5) * 0.99**step)
        guard.check_loss(step, losses(value))
        guard.check_norm(step, 1000.0 if step < 50 else 2.0, ["a"])  # anything passes while the guard is still learning
        seen.append(value)
    usual = statistics.median(seen[-100:])
    guard.check_loss(300, losses(3.99 * usual))
    usual = statistics.median([*seen[-99:], 3.99 * usual])
    with pytest.raises(SpikedTraining, match="the loss, .* jumped at step 301") as caught:
        guard.check_loss(301, [(8.1 * usual, ["x", "y"]), (0.1 * usual, ["z"])])
    assert caught.value.uids == ["x", "y"]  # the mean is above; only the first micro-batch is to blame
    with pytest.raises(SpikedTraining, match="the gradient norm"):
        guard.check_norm(301, 8.1, ["x", "y", "z"])


def test_what_is_not_finite_stops_at_once_whatever_the_factor():
    for factor in (0.0, 10.0):
        with pytest.raises(NonFiniteTraining) as caught:
            Guard(factor).check_loss(0, [(float("inf"), ["x"]), (1.0, ["y"])])
        assert caught.value.uids == ["x"]
        with pytest.raises(NonFiniteTraining):
            Guard(factor).check_norm(0, float("nan"), ["x"])


def test_without_a_factor_nothing_finite_stops():
    guard = Guard(0.0)
    for step in range(200):
        guard.check_loss(step, losses(1.0 if step < 150 else 1e9))
    assert guard.state() == {}


def test_its_memory_survives_a_checkpoint():
    guard = Guard(3.0)
    for step in range(60):
        guard.check_loss(step, losses(1.0))
    going_on = Guard(3.0, json.loads(json.dumps(guard.state())))
    with pytest.raises(SpikedTraining):
        going_on.check_loss(60, losses(3.1))


def test_the_error_passes_process_borders_and_says_what_to_do():
    error = pickle.loads(pickle.dumps(SpikedTraining(7, "the loss, 9 against a usual 1", ["x"])))
    assert (error.step, error.uids) == (7, ["x"]) and "x" in str(error) and "spike_factor" in error.mend


def test_a_factor_that_stops_at_ordinary_steps_is_refused():
    with pytest.raises(UserError, match="spike_factor"):
        replace(CONFIG, spike_factor=0.5)


class SpikingTrainable(ToyTrainable):
    """From step 55 on one object's loss is a thousand times what it should be."""

    def loss(self, module, batch, generator, step):
        loss, terms = super().loss(module, batch, generator, step)
        return loss * (1000.0 if step >= 55 and BAD in batch["uid"] else 1.0), terms


class Spiking(ToyMethod):
    def trainable(self, stage, config, weights):
        return SpikingTrainable(stage, config)


SPIKING = Spiking()
SPIKED = replace(
    CONFIG,
    method=f"{__name__}:SPIKING",
    steps=70,
    global_batch=2,
    micro_batch=1,
    lr=0.0,
    spike_factor=20.0,
    checkpoint_every=100,
    model=ToyConfig(width=4),
)


def write_what_stopped_it(inputs: StageInputs, folder: str) -> None:
    """One rank's own view of the error."""
    import os

    torch.set_num_threads(1)
    try:
        fit_local(SPIKED, inputs, Location(f"{folder}/out"))
    except UnstableTraining as error:
        Location(f"{folder}/rank-{os.environ['RANK']}.json").write_json({"step": error.step, "uids": error.uids, "what": error.what})


def test_training_stops_at_the_spike_and_names_the_object_on_every_rank(tmp_path):
    views, kept = write_objects(Location(str(tmp_path)), train=10, val=2)
    inputs = StageInputs(DataLocations(views, kept))
    with pytest.raises(SpikedTraining) as caught:
        fit_local(SPIKED, inputs, Location(str(tmp_path / "alone")))
    assert caught.value.uids == [BAD] and caught.value.step >= 55
    assert not (tmp_path / "alone" / "history.jsonl").exists()
    several.finish(several.start(2, tmp_path / "logs", write_what_stopped_it, inputs, str(tmp_path)), tmp_path / "logs")
    for rank in range(2):
        stopped = json.loads((tmp_path / f"rank-{rank}.json").read_text())
        assert (stopped["step"], stopped["uids"]) == (caught.value.step, [BAD])
