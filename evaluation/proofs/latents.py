"""All views of a `ProofData` through the frozen encoders, once."""

from pathlib import Path

import numpy as np

from evaluation.proofs.data import ProofData
from training.methods import METHODS
from training.methods.mvdiffusionpp_config import Config


def encoded(data: ProofData, config: Config, vae: Path, cache: Path, device: str) -> ProofData:
    """The data with latents and image tokens; kept in `cache`."""
    if not cache.is_file():
        encode = METHODS["mvdiffusionpp"].encoder("mvae", config, vae, device)
        rows = []
        for n, uid in enumerate(data.uids, 1):
            rows.append(encode(data.views(uid)))
            if n % 50 == 0 or n == len(data.uids):
                print(f"[latents] {n}/{len(data.uids)} objects", flush=True)
        cache.parent.mkdir(parents=True, exist_ok=True)
        unfinished = cache.with_suffix(".part.npz")
        np.savez(unfinished, **{name: np.stack([row[name] for row in rows]) for name in rows[0]})
        unfinished.replace(cache)
    with np.load(cache, allow_pickle=False) as archive:
        return data.with_encoded({name: archive[name] for name in archive.files})
