"""Proof 1: eight objects by heart. One condition view brings back all 32 views; another object's view brings back the other."""

from pathlib import Path
from typing import Any

import numpy as np

from evaluation.proofs.adapt import rgba_vae
from evaluation.proofs.data import ProofData
from evaluation.proofs.denoiser import denoiser
from evaluation.proofs.fitting import curves_of
from evaluation.proofs.latents import encoded
from evaluation.proofs.measures import aligned_truth, foreground_psnr, mask_ious, summary
from evaluation.proofs.sampling import generator_of, sampled
from evaluation.proofs.setups import Setup
from training.engine import device_here

OBJECTS = 8
GOAL_DB = 22.0


def memorise(setup: Setup, data: ProofData, out: Path) -> dict[str, Any]:
    """Train on eight objects of eight families, each with its first condition view, and sample each from that view."""
    config, vae = rgba_vae(setup, data, out)
    device = str(device_here())
    chosen = of_different_families(data, OBJECTS)
    few = encoded(data, config, vae, out / "latents.npz", device).only(chosen).with_one_condition()
    weights = denoiser(config, setup.memorise, few, vae, out / "memorise", watch=chosen)
    generator = generator_of(config, vae, weights, out / "memorise" / "generator", device)
    made = {uid: sampled(generator, data, uid, setup.sampling_steps) for uid in chosen}
    truth = {uid: aligned_truth(data, uid, config) for uid in chosen}
    psnr = {(a, b): float(foreground_psnr(truth[b], made[a]).mean()) for a in chosen for b in chosen}
    own = [psnr[uid, uid] for uid in chosen]
    recalled = [psnr[uid, uid] == max(psnr[uid, other] for other in chosen) for uid in chosen]
    return {
        "objects": chosen,
        "psnr_foreground": summary(own),
        "mask_iou": summary([float(mask_ious(truth[uid], made[uid]).mean()) for uid in chosen]),
        "psnr_foreground_against_other_objects": float(np.mean([psnr[a, b] for a in chosen for b in chosen if a != b])),
        "claims": {
            f"32 jointly sampled views reach {GOAL_DB:g} dB foreground (mean over {OBJECTS} objects)": {
                "value": float(np.mean(own)),
                "holds": float(np.mean(own)) >= GOAL_DB,
            },
            "each condition picture brings back its own object (share)": {"value": float(np.mean(recalled)), "holds": all(recalled)},
        },
        "curves": {"memorise": curves_of(out / "memorise")},
        "pictures": {"uids": chosen, "truth": truth, "made": made},
    }


def of_different_families(data: ProofData, count: int) -> list[str]:
    """The first training object of each family, `count` of them."""
    first: dict[str, str] = {}
    for uid in data.train:
        first.setdefault(data.family(uid), uid)
    return sorted(first.values())[:count]
