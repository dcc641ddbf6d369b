"""Proof 2: the condition picture is used, on objects never seen, of families that were."""

from pathlib import Path
from typing import Any

import numpy as np

from evaluation.proofs.adapt import rgba_vae
from evaluation.proofs.data import TEST, ProofData
from evaluation.proofs.denoiser import denoiser
from evaluation.proofs.fitting import curves_of
from evaluation.proofs.latents import encoded
from evaluation.proofs.measures import (
    aligned_truth,
    colour_correlation,
    condition_colour_correlation,
    difference,
    foreground_psnr,
    full_psnr,
    mask_ious,
    mean_training_view,
    near_views,
    nearest_training_object,
    summary,
)
from evaluation.proofs.sampling import conditions, generator_of, one_step, sampled
from evaluation.proofs.setups import Setup
from training.engine import device_here


def condition(setup: Setup, data: ProofData, out: Path) -> dict[str, Any]:
    """Train on all training objects; hold the held-out ones against the mean view, copying, the nearest object and swapped conditions."""
    config, vae = rgba_vae(setup, data, out)
    device = str(device_here())
    everything = encoded(data, config, vae, out / "latents.npz", device)
    weights = denoiser(config, setup.condition, everything, vae, out / "condition")
    generator: Any = generator_of(config, vae, weights, out / "condition" / "generator", device)
    uids = data.of(TEST)
    truth = {uid: aligned_truth(data, uid, config) for uid in uids}
    guess = {uid: one_step(generator, data, uid) for uid in uids}
    made = {uid: sampled(generator, data, uid, setup.sampling_steps) for uid in uids}
    swapped = {uid: one_step(generator, data, other_family(data, uids, uid)) for uid in uids}
    swapped_made = {uid: made[other_family(data, uids, uid)] for uid in uids}
    mean_view = mean_training_view(data, config)
    copied = {uid: np.broadcast_to(conditions(data, uid).rgba[0], truth[uid].shape) for uid in uids}
    nearest = {uid: nearest_training_object(data, conditions(data, uid).rgba[0]) for uid in uids}
    nearest_views = {uid: aligned_truth(data, found, config, number) for uid, (found, number) in nearest.items()}
    decoded = {uid: _through_vae(generator, truth[uid]) for uid in uids}
    rows = {
        "one step": guess,
        "sampled": made,
        "one step, another family's condition": swapped,
        "sampled, another family's condition": swapped_made,
        "mean training view": {uid: mean_view for uid in uids},
        "copy of the condition": copied,
        "nearest training object": nearest_views,
        "VAE alone (ceiling)": decoded,
    }
    psnr = {name: [float(foreground_psnr(truth[uid], pictures[uid]).mean()) for uid in uids] for name, pictures in rows.items()}
    sides = {"all views": np.arange(config.num_targets), "views near the condition": near_views(config)}
    correlation = {
        f"{name}, {side}": colour_correlation([truth[uid][views] for uid in uids], [rows[name][uid][views] for uid in uids])
        for name in ("one step", "sampled", "nearest training object")
        for side, views in sides.items()
    }
    for side, views in sides.items():
        given = [conditions(data, uid).rgba[:1] for uid in uids]
        correlation[f"the condition picture itself, {side}"] = condition_colour_correlation([truth[uid][views] for uid in uids], given)
    return {
        "test_objects": len(uids),
        "training_objects": len(data.train),
        "psnr_foreground": {name: summary(values) for name, values in psnr.items()},
        "psnr_full_frame": {
            name: summary([float(full_psnr(truth[uid], pictures[uid]).mean()) for uid in uids]) for name, pictures in rows.items()
        },
        "mask_iou": {
            name: summary([float(mask_ious(truth[uid], rows[name][uid]).mean()) for uid in uids])
            for name in ("one step", "sampled", "nearest training object", "VAE alone (ceiling)")
        },
        "colour_correlation": correlation,
        "claims": {
            "one step from noise beats the mean training view by 0.5 dB": _gain(psnr, "one step", "mean training view", 0.5),
            "the own condition beats another family's by 1 dB (one step)": _gain(
                psnr, "one step", "one step, another family's condition", 1.0
            ),
            "the own condition beats another family's by 1 dB (sampled)": _gain(
                psnr, "sampled", "sampled, another family's condition", 1.0
            ),
            # Far sides have colours of their own: over all views not even the condition picture itself comes near 0.8.
            "colour correlation with the truth is at least 0.8 (sampled, views near the condition)": {
                "value": correlation["sampled, views near the condition"],
                "holds": correlation["sampled, views near the condition"] >= 0.8,
            },
            "sampled views beat copying the input": _gain(psnr, "sampled", "copy of the condition", 0.0),
        },
        "beside": {"sampled minus nearest training object": difference(psnr["sampled"], psnr["nearest training object"])},
        "curves": {"condition": curves_of(out / "condition")},
        "pictures": {
            "uids": uids,
            "truth": truth,
            "made": made,
            "guess": guess,
            "condition": {uid: conditions(data, uid).rgba[0] for uid in uids},
        },
    }


def other_family(data: ProofData, uids: list[str], uid: str) -> str:
    """The next object of the list that belongs to another family."""
    start = uids.index(uid)
    return next(other for other in uids[start + 1 :] + uids[:start] if data.family(other) != data.family(uid))


def _gain(psnr: dict[str, list[float]], better: str, worse: str, least: float) -> dict[str, Any]:
    gained = difference(psnr[better], psnr[worse])
    return {"value": gained["mean"], "ci95": gained["ci95"], "holds": gained["mean"] >= least}


def _through_vae(generator: Any, rgba: np.ndarray) -> np.ndarray:
    from training.batch import straight_rgba

    encoder = generator.encoder
    return straight_rgba(*encoder.vae.decode(encoder.latents(encoder.pictures(rgba))))
