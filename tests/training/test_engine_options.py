"""Recomputed activations and compilation: the same losses and the same saved weights."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch._dynamo.utils import counters

from infra.errors import UserError
from infra.storage import Location
from tests.training.painted import painted_views
from tests.training.test_loop import CONFIG, untimed
from tests.training.toy import write_objects
from training.checkpoint import NoCheckpoints
from training.config import TrainConfig
from training.data import DataLocations
from training.engine import PlainEngine
from training.loop import fit
from training.methods import METHODS
from training.methods.base import TrainObject
from training.stage import StageInputs, _prepare, fit_local


class OneObject:
    train = ["one"]

    def __init__(self, trainable):
        views = painted_views("one", 32, 2)
        self.object = TrainObject(views, trainable.synthetic(views, np.random.default_rng(0)))

    def read(self, uid):
        return self.object


def trained_unet(**options):
    """Losses of three steps of the smallest U-Net, its weights, and the bytes that its forward pass keeps for the backward pass."""
    method = METHODS["mvdiffusionpp"]
    config = TrainConfig(
        method=method.name, stage="unet1", model=method.smoke(), steps=3, global_batch=2, micro_batch=2, log_every=1, **options
    )
    trainable = method.trainable("unet1", config.model, {})
    torch.manual_seed(0)
    module = trainable.build()
    _prepare(module, config)
    engine = PlainEngine(module, lr=1e-3, betas=(0.9, 0.99), weight_decay=0.0, clip=1.0, ema_decay=0.0, micro_batches=1)
    kept = 0

    def pack(tensor):
        nonlocal kept
        kept += tensor.nbytes
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        curves = fit(trainable, engine, OneObject(trainable), config, checkpoints=NoCheckpoints())
    return untimed(curves.history), engine.full_weights(ema=False), kept


def test_recomputed_activations_change_no_loss_and_save_memory():
    losses, weights, kept = trained_unet()
    again, recomputed, less = trained_unet(checkpoint_activations=True)
    for row, expected in zip(again, losses, strict=True):
        assert row == pytest.approx(expected, rel=1e-5)
    assert set(recomputed) == set(weights)
    for name, value in weights.items():
        torch.testing.assert_close(recomputed[name], value, rtol=1e-4, atol=1e-6)
    assert less < 0.7 * kept


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    views, kept = write_objects(Location(str(tmp_path_factory.mktemp("objects"))), train=10, val=4)
    return StageInputs(DataLocations(views, kept))


def test_a_network_that_cannot_recompute_is_refused(inputs, tmp_path):
    with pytest.raises(UserError, match="cannot recompute activations"):
        fit_local(replace(CONFIG, checkpoint_activations=True), inputs, Location(str(tmp_path)))
    with pytest.raises(UserError, match="zero_offload needs a ZeRO stage"):
        replace(CONFIG, zero_offload=True)


@pytest.mark.long
@pytest.mark.parametrize("zero_stage", [0, 2])
def test_a_compiled_network_learns_and_saves_the_same(inputs, tmp_path, zero_stage):
    eager = fit_local(CONFIG, inputs, Location(str(tmp_path / "eager")))
    torch._dynamo.reset()
    graphs = counters["stats"]["unique_graphs"]
    compiled = fit_local(replace(CONFIG, compile=True, zero_stage=zero_stage), inputs, Location(str(tmp_path / "compiled")))
    assert counters["stats"]["unique_graphs"] > graphs, "nothing was compiled"
    for row, expected in zip(untimed(compiled.history), untimed(eager.history), strict=True):
        assert row == pytest.approx(expected, rel=1e-4)
    saved = [load_file(tmp_path / name / "checkpoint" / "toy.safetensors") for name in ("eager", "compiled")]
    assert list(saved[0]) == list(saved[1])
    for name, value in saved[0].items():
        torch.testing.assert_close(saved[1][name], value, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("zero_stage", [0, 1])
def test_fp16_trains_close_to_fp32_and_counts_what_it_left_out(inputs, tmp_path, zero_stage):
    exact = fit_local(CONFIG, inputs, Location(str(tmp_path / "fp32")))
    rounded = fit_local(replace(CONFIG, precision="fp16", zero_stage=zero_stage), inputs, Location(str(tmp_path / "fp16")))
    assert [row["skipped_steps"] for row in rounded.history] == [0.0] * 5
    assert {row["loss_scale"] for row in rounded.history} == {2.0**16}
    assert rounded.history[0]["loss"] != exact.history[0]["loss"]
    for row, expected in zip(rounded.history, exact.history, strict=True):
        for name in ("loss", "grad_norm"):
            assert row[name] == pytest.approx(expected[name], rel=0.02)
