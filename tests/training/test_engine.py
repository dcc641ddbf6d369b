"""Engines against plain PyTorch in one process, and against each other in two real processes."""

import copy
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from infra.storage import Location
from tests.training.test_loop import CONFIG, untimed
from tests.training.toy import ToyConfig, ToyTrainable, write_objects
from training.data import DataLocations
from training.deepspeed_engine import DeepSpeedEngine
from training.engine import PlainEngine
from training.stage import StageInputs, fit_local

CHOICES = [(0, False), (1, False), (2, False), (3, False), (2, True), (3, True)]
SETTINGS = {"lr": 1e-2, "betas": (0.9, 0.95), "weight_decay": 0.1, "clip": 0.5, "ema_decay": 0.7, "micro_batches": 3}


def small_module() -> torch.nn.Module:
    torch.manual_seed(0)
    return ToyTrainable("first", ToyConfig()).build()


def batches(steps: int) -> list[torch.Tensor]:
    return list(torch.randn(steps, 3, 4, 3, generator=torch.Generator().manual_seed(1)))


def reference(steps: int) -> tuple[dict, dict, list[float]]:
    """Weights, averaged weights and gradient norms by textbook PyTorch on whole batches."""
    module = small_module()
    trained = {name: p for name, p in module.named_parameters() if p.requires_grad}
    optimizer = torch.optim.AdamW(trained.values(), lr=1.0, betas=(0.9, 0.95), weight_decay=0.1)
    average = {name: p.detach().clone() for name, p in trained.items()}
    norms = []
    for n, batch in enumerate(batches(steps)):
        optimizer.param_groups[0]["lr"] = 1e-2 / (n + 1)
        module(batch.reshape(-1, 3)).square().mean().backward()
        norms.append(float(torch.nn.utils.clip_grad_norm_(trained.values(), 0.5)))
        optimizer.step()
        optimizer.zero_grad()
        decay = min(0.7, (1 + n) / (10 + n))
        for name, p in trained.items():
            average[name] = decay * average[name] + (1 - decay) * p.detach()
    return {name: p.detach() for name, p in trained.items()}, average, norms


def train(engine, steps: int) -> list[float]:
    norms = []
    for n, batch in enumerate(batches(steps)):
        for micro in batch:
            engine.backward(engine.module(micro).square().mean())
        norms.append(engine.step(1e-2 / (n + 1)))
    return norms


@pytest.fixture(params=["plain", "zero1", "zero2", "zero3"])
def make_engine(request):
    if request.param == "plain":
        return lambda: PlainEngine(small_module(), **SETTINGS)
    return lambda: DeepSpeedEngine(small_module(), zero_stage=int(request.param[-1]), micro_batch=4, **SETTINGS)


def test_accumulation_clipping_and_average_equal_textbook_training(make_engine, tmp_path):
    weights, average, norms = reference(8)
    engine = make_engine()
    np.testing.assert_allclose(train(engine, 8), norms, rtol=1e-4)
    for expected, ema in ((weights, False), (average, True), (weights, False)):  # reading averages changes nothing
        found = engine.full_weights(ema=ema)
        assert set(found) == set(expected)
        for name in expected:
            np.testing.assert_allclose(found[name], expected[name], rtol=1e-4, atol=1e-6)


def test_a_saved_engine_continues_exactly(make_engine, tmp_path):
    engine = make_engine()
    train(engine, 3)
    engine.save(tmp_path)
    train(engine, 2)
    expected = [copy.deepcopy(engine.full_weights(ema=e)) for e in (False, True)]
    again = make_engine()
    again.load(tmp_path, world=1)
    train(again, 2)
    for wanted, found in zip(expected, [again.full_weights(ema=e) for e in (False, True)], strict=True):
        assert all(torch.equal(wanted[name], found[name]) for name in wanted)


@pytest.fixture(params=["plain", "zero1", "zero3"])
def make_fp16(request):
    settings = {**SETTINGS, "micro_batches": 1}
    if request.param == "plain":
        return lambda: PlainEngine(small_module(), fp16=True, **settings)
    return lambda: DeepSpeedEngine(small_module(), zero_stage=int(request.param[-1]), micro_batch=4, precision="fp16", **settings)


def half_step(engine, inputs, gain=1.0):
    with torch.autocast("cpu", torch.float16):
        loss = (engine.module(inputs).float() * gain).square().mean()
    engine.backward(loss)
    return engine.step(1e-2)


def test_fp16_clips_what_fp32_clips(make_fp16):
    inputs = torch.randn(64, 3, generator=torch.Generator().manual_seed(2))
    module = small_module()
    (module(inputs) * 30).square().mean().backward()
    exact = torch.nn.utils.clip_grad_norm_([p for p in module.parameters() if p.requires_grad], 1.0)
    engine = make_fp16()
    while not math.isfinite(norm := half_step(engine, inputs, gain=30)):  # the scale begins too high for such gradients
        assert engine.skipped
    assert norm == pytest.approx(float(exact), rel=0.02) and not engine.skipped


def test_fp16_leaves_out_steps_that_overflow_and_goes_on(make_fp16, tmp_path):
    engine = make_fp16()
    before = copy.deepcopy(engine.full_weights(ema=False))
    inputs = torch.randn(64, 3, generator=torch.Generator().manual_seed(2))
    skipped = 0
    while not math.isfinite(half_step(engine, inputs, gain=100)):
        skipped += 1
        assert engine.skipped and engine.figures() == {"loss_scale": 2.0 ** (16 - skipped), "skipped_steps": skipped}
        for ema in (False, True):
            assert all(torch.equal(before[name], now) for name, now in engine.full_weights(ema=ema).items())
    assert 0 < skipped < 16
    assert any(not torch.equal(before[name], now) for name, now in engine.full_weights(ema=False).items())
    engine.save(tmp_path)
    again = make_fp16()
    again.load(tmp_path, world=1)
    assert again.figures() == engine.figures()


def test_fp16_gradients_that_never_become_finite_are_no_skipped_steps(make_fp16):
    engine = make_fp16()
    inputs = torch.full((4, 3), math.nan)
    norms = []
    for _ in range(40):
        norms.append(half_step(engine, inputs))
        if not engine.skipped:
            break
    assert 10 < len(norms) < 20 and not math.isfinite(norms[-1])


class LateBranch(torch.nn.Module):
    """A part that has no gradient at first, as a discriminator that starts later, and one that never has."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.body, self.late, self.never = (torch.nn.Linear(3, 3) for _ in range(3))

    def forward(self, x, late):
        return self.body(x) + (self.late(x) if late else 0.0)


def train_late_branch(rank: int, world: int) -> dict:
    """Three steps of two micro-batches a worker; the late part joins in the first micro-batch of the second step."""
    engine = PlainEngine(LateBranch(), **{**SETTINGS, "micro_batches": 4 // world})
    micros = torch.randn(3, 4, 5, 3, generator=torch.Generator().manual_seed(3))
    for step in range(3):
        for k in range(rank * 4 // world, (rank + 1) * 4 // world):
            engine.backward(engine.module(micros[step, k], late=step == 2 or (step == 1 and k % 2 == 0)).square().mean())
        engine.step(1e-2)
    return engine.full_weights(ema=False)


def two_process_report(rank: int, meeting: str, folder: str) -> dict:
    """What one of two processes sees: its optimiser shards, the whole weights, and loss curves by ZeRO stage."""
    import os

    import torch.distributed as dist

    os.environ["LOCAL_RANK"] = "0"
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=2)
    report: dict = {"shards": {}, "whole": {}, "curves": {}}
    inputs = StageInputs(DataLocations(Location(f"{folder}/views"), Location(f"{folder}/kept")))
    report["validation"] = {}
    for stage in (1, 2, 3):
        engine = DeepSpeedEngine(small_module(), zero_stage=stage, micro_batch=4, **SETTINGS)
        train(engine, 2)
        report["shards"][stage] = [shard.detach().numpy().copy() for shard in engine.shards()]
        weights = engine.full_weights(ema=False)
        report["whole"][stage] = None if weights is None else {name: w.numpy() for name, w in weights.items()}
    for stage, offload in CHOICES:
        config = replace(CONFIG, zero_stage=stage, zero_offload=offload)
        curves = fit_local(config, inputs, Location(f"{folder}/out-{stage}-{offload}"))
        report["curves"][stage, offload] = curves.history
        report["validation"][stage, offload] = curves.validation
    report["late"] = train_late_branch(rank, 2)
    dist.barrier()
    dist.destroy_process_group()
    return report


@pytest.fixture(scope="module")
def pair(ray_cluster, tmp_path_factory):
    """The reports of two real processes, and the folder with their data."""
    import ray

    folder = tmp_path_factory.mktemp("pair")
    write_objects(Location(str(folder)), train=10, val=4)
    task = ray.remote(num_cpus=1)(two_process_report)
    return ray.get([task.remote(rank, str(folder / "meeting"), str(folder)) for rank in range(2)]), folder


@pytest.mark.ray
@pytest.mark.parametrize("stage", [1, 2, 3])
def test_optimiser_shards_of_two_workers_are_disjoint_and_cover_all_weights(pair, stage):
    reports, _ = pair
    whole = np.concatenate([w.ravel() for w in reports[0]["whole"][stage].values()])
    shards = [np.concatenate([piece.ravel() for piece in report["shards"][stage]]) for report in reports]
    assert all(len(shard) < 0.6 * len(whole) for shard in shards)
    # Weights are all different numbers here, so each is owned exactly once; the rest is padding, a few numbers per tensor.
    owned = np.concatenate(shards)
    assert len(np.unique(whole)) == len(whole)
    assert all(np.count_nonzero(owned == weight) == 1 for weight in whole)
    assert len(owned) <= len(whole) + 2 * len(reports[0]["whole"][stage])


@pytest.mark.ray
@pytest.mark.parametrize(("stage", "offload"), CHOICES)
def test_two_workers_learn_what_one_plain_process_learns(pair, stage, offload):
    """Over 20 steps of two micro-batches a worker: losses, gradient norms, and validation of the averaged weights."""
    reports, folder = pair
    inputs = StageInputs(DataLocations(Location(f"{folder}/views"), Location(f"{folder}/kept")))
    alone = fit_local(CONFIG, inputs, Location(f"{folder}/alone-{stage}-{offload}"))
    assert CONFIG.micro_batches(2) == 2 and CONFIG.steps == 20 and CONFIG.ema_decay
    for found, wanted in (("curves", alone.history), ("validation", alone.validation)):
        for row, expected in zip(untimed(reports[0][found][stage, offload]), untimed(wanted), strict=True):
            assert row == pytest.approx(expected, rel=2e-5)


@pytest.mark.ray
def test_parts_without_a_gradient_train_alike_in_one_and_in_two_workers(pair):
    found, expected = pair[0][0]["late"], train_late_branch(0, 1)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-7)
    assert torch.equal(found["never.weight"], LateBranch().never.weight)  # not even by weight decay
    assert not torch.equal(found["late.weight"], LateBranch().late.weight)
