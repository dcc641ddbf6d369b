"""A trained denoiser and VAE -> pictures, through the very generator that users get."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from evaluation.proofs.data import ProofData
from rendering.view_set import CONDITION
from training.lookup import load_generator
from training.methods import METHODS
from training.methods.base import Generator
from training.methods.mvdiffusionpp_config import Config


def generator_of(config: Config, vae: Path, unet: Path, folder: Path, device: str, stage: str = "unet2") -> Generator:
    """The exported generator; made in `folder` if it is not there."""
    if not (folder / "mvforge.json").is_file():
        METHODS["mvdiffusionpp"].export(config, {"mvae": vae, stage: unet}, folder)
    return load_generator(folder, device)


def conditions(data: ProofData, uid: str, numbers: Iterable[int] = (0,)):  # type: ignore[no-untyped-def]
    """Condition views of an object by number; the first becomes the reference."""
    return data.views(uid).with_role(CONDITION).select(list(numbers))


def sampled(generator: Generator, data: ProofData, uid: str, steps: int, seed: int = 0, numbers: Iterable[int] = (0,)) -> np.ndarray:
    """All targets jointly by DDIM, canonical order."""
    return generator.generate(conditions(data, uid, numbers), seed, steps=steps, sampler="ddim").rgba


def one_step(generator: Generator, data: ProofData, uid: str, seed: int = 0, numbers: Iterable[int] = (0,)) -> np.ndarray:
    """The denoiser's guess at the clean views from pure noise: one DDIM step from the last timestep to the first."""
    return sampled(generator, data, uid, 1, seed, numbers)


def in_groups(generator: Generator, data: ProofData, uid: str, steps: int, groups: int, seed: int = 0) -> np.ndarray:
    """The targets in `groups` separate passes of equally many views, interleaved over the grid."""
    total = generator.generate(conditions(data, uid), seed, steps=1, sampler="ddim").rgba.shape[0]
    parts: dict[int, np.ndarray] = {}
    for first in range(groups):
        wanted = list(range(first, total, groups))
        made = generator.generate(conditions(data, uid), seed, steps=steps, sampler="ddim", targets=wanted).rgba
        parts |= dict(zip(wanted, made, strict=True))
    return np.stack([parts[n] for n in range(total)])
