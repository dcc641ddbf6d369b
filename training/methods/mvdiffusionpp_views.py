"""Which views of an object a training step sees, and which slot each takes (MVDiffusion++ §4.1, §4.3, §5.5)."""

from dataclasses import dataclass

import numpy as np

from infra.errors import UserError
from rendering.view_set import CONDITION, TARGET, ViewSet
from training.methods.mvdiffusionpp_config import Config


@dataclass(frozen=True)
class ViewChoice:
    """Indices into an object's views: conditions first.

    Attributes:
        conditions: rendered views given, the first is the reference; slots `condition_slots`.
        targets: rendered views to make; slots `target_slots` (max_conditions + A * e + a, azimuth relative to the reference).
    """

    conditions: np.ndarray
    condition_slots: np.ndarray
    targets: np.ndarray
    target_slots: np.ndarray


def choose_views(views: ViewSet, config: Config, count: int, rng: np.random.Generator) -> ViewChoice:
    """`count` random conditions (fewer if the object has fewer) and `config.keep_views` targets."""
    available = condition_views(views)
    conditions = rng.permutation(available)[: min(count, config.max_conditions)]
    kept = keep_targets(config, rng)
    return ViewChoice(
        conditions,
        condition_slots(config, len(conditions), rng),
        rolled_targets(views, config, int(conditions[0]))[kept],
        config.max_conditions + kept,
    )


def condition_views(views: ViewSet) -> np.ndarray:
    """Indices of the condition views. Raises UserError when there is none."""
    found = np.flatnonzero(np.asarray(views.roles) == CONDITION)
    if not len(found):
        raise UserError(f"object {views.uid} has no condition view", "render with at least one condition view")
    return found


def rolled_targets(views: ViewSet, config: Config, reference: int) -> np.ndarray:
    """For each canonical target A * e + a, the rendered view that shows it when view `reference` is at azimuth 0.

    Condition azimuths lie on the target grid, so alignment is a cyclic roll of the azimuth index (§4.1).

    Raises:
        UserError: the rendered targets are not this rig, or the reference lies off its azimuth grid.
    """
    found = np.flatnonzero(np.asarray(views.roles) == TARGET)
    if len(found) != config.num_targets:
        raise UserError(
            f"object {views.uid} has {len(found)} target views, the model has {config.num_targets}", "render with the model's rig"
        )
    step = 360.0 / config.num_azimuths
    turns = views.azimuth_deg[reference] / step
    if abs(turns - round(turns)) > 1e-3:
        raise UserError(
            f"object {views.uid}: reference azimuth {views.azimuth_deg[reference]:.2f} deg is not a multiple of {step:g}",
            "render condition views on the azimuth grid of the targets",
        )
    grid = found.reshape(len(config.elevations_deg), config.num_azimuths)
    return np.roll(grid, -int(round(turns)), axis=1).reshape(-1)


def keep_targets(config: Config, rng: np.random.Generator) -> np.ndarray:
    """View dropout (§4.3): the canonical targets that stay, sorted, drawn anew for every object and step."""
    grid = np.arange(config.num_targets).reshape(len(config.elevations_deg), config.num_azimuths)
    if config.keep_sampling == "uniform":
        return np.sort(rng.permutation(config.num_targets)[: config.keep_views])
    shuffled = rng.permuted(grid, axis=1)
    if config.keep_sampling == "stratified":  # one of each elevation in turn
        return np.sort(shuffled[rng.permutation(len(grid))].T.reshape(-1)[: config.keep_views])
    return np.sort(shuffled[rng.permutation(len(grid))].reshape(-1)[: config.keep_views])


def condition_slots(config: Config, count: int, rng: np.random.Generator) -> np.ndarray:
    """Slot 0 is the reference; the others follow in order, or at random distinct slots."""
    if not config.shuffle_condition_slots:
        return np.arange(count)
    return np.concatenate([[0], 1 + rng.permutation(config.max_conditions - 1)[: count - 1]])
