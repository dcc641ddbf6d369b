"""Proof 3: view dropout. What it saves, what it costs in quality, and that 32 views can be made jointly after learning on 8."""

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from evaluation.proofs.adapt import rgba_vae
from evaluation.proofs.data import TEST, ProofData
from evaluation.proofs.denoiser import denoiser
from evaluation.proofs.fitting import curves_of
from evaluation.proofs.latents import encoded
from evaluation.proofs.measures import aligned_truth, difference, foreground_psnr, summary
from evaluation.proofs.sampling import generator_of, in_groups, one_step, sampled
from evaluation.proofs.setups import Setup
from infra.seeds import rng_for
from training.engine import device_here
from training.flops import train_flops
from training.loader import to_device
from training.methods import METHODS
from training.methods.mvdiffusionpp_config import Config

SCORED, GROUPS = 16, 4
TIMED_STEPS, TIMED_OBJECTS = 5, 4


def dropout(setup: Setup, data: ProofData, out: Path) -> dict[str, Any]:
    """Needs the training of proof 2 (and makes it, if it is missing)."""
    config, vae = rgba_vae(setup, data, out)
    device = str(device_here())
    everything = encoded(data, config, vae, out / "latents.npz", device)
    uids = data.of(TEST)[:SCORED]
    truth = {uid: aligned_truth(data, uid, config) for uid in uids}

    trained = denoiser(config, setup.condition, everything, vae, out / "condition")
    generator = generator_of(config, vae, trained, out / "condition" / "generator", device)
    joint = _psnr(truth, {uid: sampled(generator, data, uid, setup.sampling_steps) for uid in uids})
    grouped = _psnr(truth, {uid: in_groups(generator, data, uid, setup.sampling_steps, GROUPS) for uid in uids})

    dense = replace(config, keep_views=config.num_targets)
    cost = {"8 of 32": step_cost(config, everything), "all 32": step_cost(dense, everything)}
    ratio = cost["all 32"]["seconds_per_object"] / cost["8 of 32"]["seconds_per_object"]
    # The two trainings may differ in length alone: equal seconds by the measured cost of a step.
    short = replace(setup.dropout, steps=max(1, round(setup.dropout.steps / ratio)))
    arms: dict[str, dict[str, Any]] = {}
    for name, model, train in (("8 of 32", config, setup.dropout), ("all 32", dense, short)):
        folder = out / ("dropout_8" if name == "8 of 32" else "dropout_all")
        weights = denoiser(model, train, everything, vae, folder)
        views = generator_of(model, vae, weights, folder / "generator", device)
        history = curves_of(folder)
        arms[name] = {
            "steps": train.steps,
            "training_seconds": round(sum(row["seconds"] * train.log_every for row in history["history"]), 1),
            "one_step": summary(_psnr(truth, {uid: one_step(views, data, uid) for uid in uids})),
            "sampled": summary(_psnr(truth, {uid: sampled(views, data, uid, setup.sampling_steps) for uid in uids})),
            "curves": history,
        }
    gap = difference(joint, grouped)
    gain = difference(arms["8 of 32"]["one_step"]["each"], arms["all 32"]["one_step"]["each"])
    return {
        "test_objects": len(uids),
        "joint": summary(joint),
        "four groups of 8": summary(grouped),
        "cost": cost,
        "step_time_ratio": {"measured": ratio, "computed": cost["all 32"]["flops"] / cost["8 of 32"]["flops"]},
        "memory_ratio": {
            "measured": cost["all 32"]["saved_bytes"] / cost["8 of 32"]["saved_bytes"],
            "computed": (1 + config.num_targets) / (1 + config.keep_views),
        },
        "equal_time": arms,
        "claims": {
            "32 views jointly are within 0.5 dB of four groups of 8 (joint minus groups)": {
                "value": gap["mean"],
                "ci95": gap["ci95"],
                "holds": gap["mean"] >= -0.5,
            },
            "at equal time 8 of 32 is no worse than all 32 (one step, difference in dB)": {
                "value": gain["mean"],
                "ci95": gain["ci95"],
                "holds": gain["mean"] >= 0.0,
            },
        },
        "curves": {"dropout_8": curves_of(out / "dropout_8"), "dropout_all": curves_of(out / "dropout_all")},
    }


def step_cost(config: Config, data: ProofData) -> dict[str, float]:
    """Median seconds, counted training FLOPs and bytes kept for the backward pass, of one object."""
    training: Any = METHODS["mvdiffusionpp"].trainable("unet2", config, {})
    module = training.build().to(device_here()).train()
    optimizer = torch.optim.AdamW(module.parameters(), 1e-4)
    rng = rng_for("cost of a step")
    examples = [training.example(data.read(uid), rng) for uid in data.train[:TIMED_OBJECTS]]
    batch = to_device(training.collate(examples), device_here())
    seconds = []
    for _ in range(TIMED_STEPS):
        began = time.perf_counter()
        _step(training, module, optimizer, batch)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - began)
    counts = [1 + config.keep_views]
    return {
        "seconds_per_object": float(np.median(seconds[1:])) / TIMED_OBJECTS,
        "flops": train_flops(config.unet, counts, config.latent_size, config.vae.latent_channels, config.clip.tokens_per_picture, False),
        "saved_bytes": _saved_bytes(training, module, batch) / TIMED_OBJECTS,
    }


def _step(training: Any, module: nn.Module, optimizer: torch.optim.Optimizer, batch: dict[str, Any]) -> None:
    with torch.autocast(device_here().type, torch.bfloat16):
        loss, _ = training.loss(module, batch, torch.Generator(), 0)
    loss.backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def _saved_bytes(training: Any, module: nn.Module, batch: dict[str, Any]) -> int:
    """Bytes of all distinct tensors that one loss keeps for its backward pass, weights apart."""
    owned = {parameter.untyped_storage().data_ptr() for parameter in module.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in owned:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor), torch.autocast(device_here().type, torch.bfloat16):
        loss, _ = training.loss(module, batch, torch.Generator(), 0)
    assert loss.requires_grad
    return sum(kept.values())


def _psnr(truth: dict[str, np.ndarray], made: dict[str, np.ndarray]) -> list[float]:
    return [float(foreground_psnr(truth[uid], made[uid]).mean()) for uid in truth]
