"""Proof 5: sampled views beat copying, the mean view and the nearest training object, on new objects of seen families.

Two families are never trained on; their objects are reported apart.
"""

from pathlib import Path
from typing import Any

import numpy as np

from evaluation.proofs.adapt import rgba_vae
from evaluation.proofs.data import TEST, UNSEEN, ProofData
from evaluation.proofs.denoiser import denoiser
from evaluation.proofs.fitting import curves_of
from evaluation.proofs.latents import encoded
from evaluation.proofs.measures import (
    aligned_truth,
    difference,
    foreground_psnr,
    mask_ious,
    mean_training_view,
    nearest_training_object,
    summary,
)
from evaluation.proofs.sampling import conditions, generator_of, one_step, sampled
from evaluation.proofs.setups import Setup
from training.engine import device_here

UNSEEN_FAMILIES = ("sailboat", "teapot")
SCORED = 40
AIM_DB = 2.0


def seen(data: ProofData) -> ProofData:
    """The data with the two families taken out of training."""
    return data.with_unseen(UNSEEN_FAMILIES)


def compare(setup: Setup, data: ProofData, out: Path) -> dict[str, Any]:
    """Stage `unet2` on the seen families, then all baselines on both kinds of new objects."""
    data = seen(data)
    config, vae = rgba_vae(setup, data, out)
    device = str(device_here())
    everything = encoded(data, config, vae, out / "latents.npz", device)
    weights = denoiser(config, setup.condition, everything, vae, out / "compare")
    generator = generator_of(config, vae, weights, out / "compare" / "generator", device)
    mean_view = mean_training_view(data, config)
    results: dict[str, Any] = {}
    pictures: dict[str, Any] = {"uids": [], "truth": {}, "made": {}, "condition": {}}
    for kind, split in (("seen families", TEST), ("families never seen", UNSEEN)):
        uids = data.of(split)[:SCORED]
        truth = {uid: aligned_truth(data, uid, config) for uid in uids}
        made = {uid: sampled(generator, data, uid, setup.sampling_steps) for uid in uids}
        nearest = {uid: nearest_training_object(data, conditions(data, uid).rgba[0]) for uid in uids}
        rows = {
            "sampled": made,
            "one step": {uid: one_step(generator, data, uid) for uid in uids},
            "mean training view": {uid: mean_view for uid in uids},
            "copy of the condition": {uid: np.broadcast_to(conditions(data, uid).rgba[0], truth[uid].shape) for uid in uids},
            "nearest training object": {uid: aligned_truth(data, found, config, number) for uid, (found, number) in nearest.items()},
        }
        psnr = {name: [float(foreground_psnr(truth[uid], views[uid]).mean()) for uid in uids] for name, views in rows.items()}
        results[kind] = {
            "psnr": psnr,
            "figures": {name: summary(values) for name, values in psnr.items()},
            "iou": summary([float(mask_ious(truth[uid], made[uid]).mean()) for uid in uids]),
        }
        pictures["uids"] += uids
        pictures["truth"] |= truth
        pictures["made"] |= made
        pictures["condition"] |= {uid: conditions(data, uid).rgba[0] for uid in uids}
    best = results["seen families"]["psnr"]
    claims = {}
    for other in ("copy of the condition", "mean training view", "nearest training object"):
        gain = difference(best["sampled"], best[other])
        claims[f"sampled views beat the {other} by {AIM_DB:g} dB on new objects of seen families"] = {
            "value": gain["mean"],
            "ci95": gain["ci95"],
            "holds": gain["mean"] >= AIM_DB,
        }
    return {
        "unseen_families": ", ".join(UNSEEN_FAMILIES),
        "psnr_foreground (seen families)": results["seen families"]["figures"],
        "psnr_foreground (families never seen)": results["families never seen"]["figures"],
        "mask_iou": {kind: facts["iou"] for kind, facts in results.items()},
        "claims": claims,
        "curves": {"compare": curves_of(out / "compare")},
        "pictures": pictures,
    }
