"""The generated views of one object: what the generator is shown, and what is accepted from it."""

from dataclasses import replace
from typing import Protocol

import numpy as np
import torch

from infra.seeds import seed_for
from rendering.view_set import CONDITION, TARGET, ViewSet
from training.methods.base import Generator


class Sampling(Protocol):
    """The part of a generate config that one object needs."""

    @property
    def conditions(self) -> int: ...
    @property
    def steps(self) -> int: ...
    @property
    def sampler(self) -> str: ...
    @property
    def guidance(self) -> float: ...
    @property
    def seed(self) -> int: ...


def generate_one(generator: Generator, rendered: ViewSet, config: Sampling, model_uri: str) -> ViewSet:
    """The generated views of one rendered object, checked, with every setting in `facts`.

    Raises:
        ValueError: too few condition views, or the generator returned something that is not a set of views.
    """
    given = [i for i, role in enumerate(rendered.roles) if role == CONDITION][: config.conditions]
    if len(given) < config.conditions:
        raise ValueError(f"{config.conditions} condition views are asked for, the object has {len(given)}")
    reference_azimuth_deg = float(rendered.azimuth_deg[given[0]])
    # The frame of the result, without the truth: targets and mesh stay behind.
    conditions = replace(rendered.select(given).turned(-reference_azimuth_deg), mesh=None, facts={})
    seed = seed_for(config.seed, rendered.uid)
    result = generator.generate(conditions, seed, steps=config.steps, sampler=config.sampler, guidance=config.guidance)
    _check(result)
    facts = result.facts | {
        "reference_azimuth_deg": reference_azimuth_deg,
        "conditions": given,
        "sampler": config.sampler,
        "steps": config.steps,
        "guidance": config.guidance,
        "seed": seed,
        "model": model_uri,
    }
    return replace(result, uid=rendered.uid, origin=model_uri, facts=facts)


def _check(result: ViewSet) -> None:
    rgba = np.asarray(result.rgba)
    if rgba.dtype != np.uint8 or rgba.ndim != 4 or rgba.shape[-1] != 4 or len(rgba) == 0:
        raise ValueError(f"the generator returned pictures of type {rgba.dtype} and shape {rgba.shape}, not uint8 [V, H, W, 4]")
    if any(role != TARGET for role in result.roles) or not len(rgba) == len(result.camera) == len(result.roles):
        raise ValueError("the generator must return one camera and the role 'target' for each picture")
    if not np.isfinite(result.camera.c2w).all():
        raise ValueError("the generator returned cameras that are not finite")


def reason_of(error: Exception) -> str:
    """A short class of what went wrong, for counting."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return "out_of_memory"
    if isinstance(error, KeyError):
        return "missing_views"
    return "invalid" if isinstance(error, ValueError) else "error"
