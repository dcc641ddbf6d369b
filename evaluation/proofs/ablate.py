"""Proof 7: what each part is worth, at equal compute, one line each."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from evaluation.proofs.adapt import rgba_vae
from evaluation.proofs.compare import seen
from evaluation.proofs.data import TEST, ProofData
from evaluation.proofs.denoiser import denoiser
from evaluation.proofs.fitting import curves_of
from evaluation.proofs.latents import encoded
from evaluation.proofs.measures import aligned_truth, foreground_psnr, summary
from evaluation.proofs.sampling import generator_of, sampled
from evaluation.proofs.setups import Setup
from evaluation.proofs.shapes import consistency, known, reasons
from training.config import TrainConfig
from training.engine import device_here
from training.flops import train_flops
from training.methods.mvdiffusionpp_config import Config

SCORED = 24


def ablate(setup: Setup, data: ProofData, out: Path) -> dict[str, Any]:
    """Every variant gets the FLOPs of the whole model's training; quality and consistency on new objects of seen families."""
    data = seen(data)
    config, vae = rgba_vae(setup, data, out)
    device = str(device_here())
    everything = encoded(data, config, vae, out / "latents.npz", device)
    blind = everything.with_encoded({**everything.encoded, "clip_tokens": np.zeros_like(everything.encoded["clip_tokens"])})
    uids = data.of(TEST)[:SCORED]
    truth = {uid: aligned_truth(data, uid, config) for uid in uids}
    whole = setup.ablation
    variants: dict[str, tuple[Config, TrainConfig, ProofData]] = {
        "whole model": (config, whole, everything),
        "attention within each view alone": (replace(config, unet=replace(config.unet, cross_view="none")), whole, everything),
        "no view embeddings": (replace(config, unet=replace(config.unet, view_scale_rate=0.0)), whole, everything),
        "eps instead of v": (config, replace(whole, stage="unet1"), everything),
        "no image tokens": (config, whole, blind),
    }
    rows: dict[str, dict[str, Any]] = {}
    curves = {}
    for name, (model, train, objects) in variants.items():
        folder = out / f"ablate-{name.replace(' ', '-')}"
        train = replace(train, steps=max(2, round(train.steps * _flops(config) / _flops(model))))
        weights = denoiser(model, train, objects, vae, folder)
        generator: Any = generator_of(model, vae, weights, folder / "generator", device, train.stage)
        if objects is blind:
            _forget_tokens(generator)
        made = {uid: sampled(generator, data, uid, setup.sampling_steps) for uid in uids}
        rows[name] = {
            "steps": train.steps,
            "psnr_foreground": summary([float(foreground_psnr(truth[uid], made[uid]).mean()) for uid in uids]),
            "consistency": reasons([known(partial(consistency, model, made[uid])) for uid in uids]),
        }
        curves[name] = curves_of(folder)
    best = rows["whole model"]["psnr_foreground"]["mean"]
    return {
        "test_objects": len(uids),
        "psnr_foreground": {name: row["psnr_foreground"] for name, row in rows.items()},
        "hull_silhouette_iou": {name: row["consistency"] for name, row in rows.items()},
        "steps": {name: row["steps"] for name, row in rows.items()},
        "claims": {
            f"the whole model beats '{name}' (foreground PSNR)": {
                "value": best - row["psnr_foreground"]["mean"],
                "holds": best >= row["psnr_foreground"]["mean"],
            }
            for name, row in rows.items()
            if name != "whole model"
        },
        "curves": curves,
    }


def _flops(config: Config) -> float:
    views = 1 + config.keep_views
    counts = [1] * views if config.unet.cross_view == "none" else [views]
    return train_flops(config.unet, counts, config.latent_size, config.vae.latent_channels, config.clip.tokens_per_picture, False)


def _forget_tokens(generator: Any) -> None:
    """The generator gives zeros where image tokens would be, as in training."""
    encoder = generator.encoder
    tokens = encoder.image_tokens
    encoder.image_tokens = lambda pictures: tokens(pictures) * 0.0
