"""Proof 6: more condition views help. PSNR and Chamfer from 1 to 2 to 4 to 10 conditions (MVDiffusion++ table 2's shape)."""

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
from evaluation.proofs.measures import aligned_truth, difference, foreground_psnr, summary
from evaluation.proofs.sampling import generator_of, sampled
from evaluation.proofs.setups import Setup
from evaluation.proofs.shapes import chamfer, known, reasons
from training.engine import device_here

COUNTS = (1, 2, 4, 10)
SCORED = 40


def more_conditions(setup: Setup, data: ProofData, out: Path) -> dict[str, Any]:
    """Stage `unet3` (half single, half sparse conditions, section 5.5) from proof 5's weights; counts beyond the data's are left out."""
    data = seen(data)
    config, vae = rgba_vae(setup, data, out)
    device = str(device_here())
    everything = encoded(data, config, vae, out / "latents.npz", device)
    start = denoiser(config, setup.condition, everything, vae, out / "compare")
    weights = denoiser(config, setup.sparse, everything, vae, out / "sparse", init=start)
    generator = generator_of(config, vae, weights, out / "sparse" / "generator", device, setup.sparse.stage)
    uids = data.of(TEST)[:SCORED]
    most = min(int(data.is_condition.sum()), config.max_conditions)
    counts = [count for count in COUNTS if count <= most]
    truth = {uid: aligned_truth(data, uid, config) for uid in uids}
    made = _made(out / "conditions-samples.npz", uids, counts, generator, data, setup.sampling_steps)
    psnr = {n: [float(foreground_psnr(truth[uid], made[n][k]).mean()) for k, uid in enumerate(uids)] for n in counts}
    shape = {n: [known(partial(chamfer, data, uid, config, made[n][k])) for k, uid in enumerate(uids)] for n in counts}
    claims = {}
    for more in (4, 10):
        if more in counts:
            gain = difference(psnr[more], psnr[1])
            claims[f"{more} conditions beat one (foreground PSNR; the interval excludes zero)"] = {
                "value": gain["mean"],
                "ci95": gain["ci95"],
                "holds": gain["ci95"] is not None and gain["ci95"][0] > 0.0,
            }
            both = [(a[0], b[0]) for a, b in zip(shape[1], shape[more], strict=True) if a[0] is not None and b[0] is not None]
            if both:
                nearer = difference([a for a, _ in both], [b for _, b in both])
                claims[f"{more} conditions beat one (Chamfer saved; the interval excludes zero)"] = {
                    "value": nearer["mean"],
                    "ci95": nearer["ci95"],
                    "holds": nearer["ci95"] is not None and nearer["ci95"][0] > 0.0,
                }
    return {
        "test_objects": len(uids),
        "psnr_foreground": {f"{n} conditions": summary(values) for n, values in psnr.items()},
        "chamfer": {f"{n} conditions": reasons(values) for n, values in shape.items()},
        "claims": claims,
        "curves": {"sparse": curves_of(out / "sparse")},
    }


def _made(cache: Path, uids: list[str], counts: list[int], generator: Any, data: ProofData, steps: int) -> dict[int, np.ndarray]:
    """Samples by number of conditions, `[objects, V, S, S, 4]`; made once, so that figures can be added elsewhere."""
    if not cache.is_file():
        made = {str(n): np.stack([sampled(generator, data, uid, steps, numbers=range(n)) for uid in uids]) for n in counts}
        unfinished = cache.with_suffix(".part.npz")
        np.savez_compressed(unfinished, **made)
        unfinished.replace(cache)
    with np.load(cache, allow_pickle=False) as archive:
        return {n: archive[str(n)] for n in counts}
