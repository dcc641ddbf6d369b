"""The generated views of one object: what the generator is shown, and what is accepted from it."""

import time
from collections.abc import Callable
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
    def conditions(self) -> int | None: ...
    @property
    def steps(self) -> int: ...
    @property
    def sampler(self) -> str: ...
    @property
    def guidance(self) -> float: ...
    @property
    def seed(self) -> int: ...


class Overdue(Exception):
    """An object took longer than it was given."""


def generate_one(generator: Generator, rendered: ViewSet, config: Sampling, model_uri: str, deadline_s: float | None = None) -> ViewSet:
    """The generated views of one object, checked, with every setting in `facts`.

    Args:
        rendered: views of the object, of which the first `config.conditions` condition views are shown (None: all of them).
        deadline_s: seconds the object may take, looked at after every sampling step.

    Raises:
        ValueError: too few condition views, or the generator returned something that is not a set of views.
        Overdue: the deadline passed.
    """
    given = [i for i, role in enumerate(rendered.roles) if role == CONDITION][: config.conditions]
    if len(given) < (config.conditions or 1):
        raise ValueError(f"{config.conditions or 1} condition views are asked for, the object has {len(given)}")
    reference_azimuth_deg = float(rendered.azimuth_deg[given[0]])
    # The frame of the result, without the truth: targets and mesh stay behind.
    conditions = replace(rendered.select(given).turned(-reference_azimuth_deg), mesh=None, facts={})
    seed = seed_for(config.seed, rendered.uid)
    watched = {} if deadline_s is None else {"progress": _deadline(deadline_s)}
    result = generator.generate(conditions, seed, steps=config.steps, sampler=config.sampler, guidance=config.guidance, **watched)
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


def _deadline(seconds: float) -> Callable[[int, int], None]:
    """A progress callback that ends the sampling when `seconds` from now are over."""
    end = time.monotonic() + seconds

    def look(done: int, total: int) -> None:
        if time.monotonic() > end and done < total:
            raise Overdue(f"{done} of {total} sampling steps were done after {seconds:g} s")

    return look


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
    if isinstance(error, Overdue):
        return "deadline"
    if isinstance(error, KeyError):
        return "missing_views"
    return "invalid" if isinstance(error, ValueError) else "error"
