"""The loop on a toy method in this process: determinism, resume, guards, schedules."""

import math
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from infra.errors import UserError
from infra.storage import Location
from tests.training.toy import ToyConfig, write_objects
from training.config import TrainConfig
from training.data import DataLocations
from training.guard import NonFiniteTraining
from training.loop import lr_at
from training.rates import MEASURED
from training.stage import StageInputs, fit_local

CONFIG = TrainConfig(
    method="tests.training.toy:TOY",
    stage="first",
    model=ToyConfig(),
    steps=20,
    global_batch=8,
    micro_batch=2,
    lr=1e-2,
    warmup_steps=3,
    ema_decay=0.9,
    log_every=4,
    checkpoint_every=6,
    validate_every=10,
)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    views, kept = write_objects(Location(str(tmp_path_factory.mktemp("objects"))), train=10, val=4)
    return StageInputs(DataLocations(views, kept))


def untimed(rows):
    return [{name: value for name, value in row.items() if name not in MEASURED} for row in rows]


def test_same_seed_same_curve_and_another_seed_another(inputs, tmp_path):
    one, two, other = (
        fit_local(replace(CONFIG, seed=seed), inputs, Location(str(tmp_path / name))) for name, seed in (("a", 0), ("b", 0), ("c", 1))
    )
    assert untimed(one.history) == untimed(two.history)
    assert one.validation == two.validation
    assert untimed(one.history) != untimed(other.history)


def test_curves_have_the_promised_rows_and_training_learns(inputs, tmp_path):
    out = Location(str(tmp_path))
    curves = fit_local(replace(CONFIG, steps=60), inputs, out)
    assert [row["step"] for row in curves.history] == list(range(4, 61, 4))
    assert [row["step"] for row in curves.validation] == [0, 10, 20, 30, 40, 50, 60]
    assert curves.validation[-1]["loss"] < 0.7 * curves.validation[0]["loss"]
    assert (out / "uids.json").read_json() == [f"object-{n:03d}" for n in range(10)]
    assert len((out / "history.jsonl").read_text().splitlines()) == 15


def test_an_interrupted_run_continues_the_exact_curve(inputs, tmp_path):
    whole = fit_local(CONFIG, inputs, Location(str(tmp_path / "whole")))
    out = Location(str(tmp_path / "parts"))

    def pull_the_plug(kind, row):
        if row["step"] >= 16:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit_local(CONFIG, inputs, out, report=pull_the_plug)
    assert not (out / "history.jsonl").exists()
    seen = []
    resumed = fit_local(CONFIG, inputs, out, report=lambda kind, row: seen.append(row["step"]))
    assert min(seen) > 12  # went on from the checkpoint at 12, in the middle of the row of step 16
    assert untimed(resumed.history) == untimed(whole.history)
    assert resumed.validation == whole.validation
    for name in ("toy.safetensors", "toy.json"):
        assert (out / "checkpoint" / name).read_bytes() == (Location(str(tmp_path / "whole" / "checkpoint")) / name).read_bytes()


def test_averaged_weights_are_the_ones_saved(inputs, tmp_path):
    with_ema = fit_local(CONFIG, inputs, Location(str(tmp_path / "ema")))
    without = fit_local(replace(CONFIG, ema_decay=0.0), inputs, Location(str(tmp_path / "raw")))
    drifts = [row.pop("ema_drift") for row in with_ema.history]
    assert all(0 < drift < 0.5 for drift in drifts)
    assert untimed(with_ema.history) == untimed(without.history)  # averaging changes no update
    assert with_ema.validation[0] == without.validation[0]
    assert with_ema.validation[-1] != without.validation[-1]


def test_a_loss_that_is_not_a_number_stops_and_names_the_object(inputs, tmp_path):
    config = replace(CONFIG, model=ToyConfig(poison="object-003"), micro_batch=1, checkpoint_every=1)
    with pytest.raises(NonFiniteTraining, match="object-003") as caught:
        fit_local(config, inputs, Location(str(tmp_path)))
    assert caught.value.uids == ["object-003"]
    assert all("object-003" not in str(p) for p in tmp_path.rglob("*.json"))


@pytest.mark.parametrize("zero_stage", [0, 2])
def test_bf16_rounds_the_forward_pass_and_keeps_float32_weights(inputs, tmp_path, zero_stage):
    config = replace(CONFIG, zero_stage=zero_stage)
    exact = fit_local(config, inputs, Location(str(tmp_path / "fp32")))
    rounded = fit_local(replace(config, precision="bf16"), inputs, Location(str(tmp_path / "bf16")))
    assert rounded.validation[0] == exact.validation[0]
    assert rounded.history[0]["loss"] != exact.history[0]["loss"]
    assert rounded.history[-1]["loss"] == pytest.approx(exact.history[-1]["loss"], rel=0.05)
    assert load_file(tmp_path / "bf16" / "checkpoint" / "toy.safetensors")["0.weight"].dtype == torch.float32


def test_global_batch_must_divide():
    assert CONFIG.micro_batches(2) == 2
    with pytest.raises(UserError, match="not a multiple"):
        CONFIG.micro_batches(3)


def test_learning_rate_follows_its_closed_form():
    config = replace(CONFIG, lr=2.0, warmup_steps=4, steps=24, schedule="cosine")
    assert [lr_at(s, config) for s in range(4)] == [0.5, 1.0, 1.5, 2.0]
    for s in range(4, 24):
        assert lr_at(s, config) == pytest.approx(1.0 + math.cos(math.pi * (s - 4) / 20))
    assert {lr_at(s, replace(config, schedule="constant")) for s in range(4, 24)} == {2.0}
