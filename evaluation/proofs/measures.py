"""Figures of many generated objects at once, and what to hold them against. Pictures: uint8 `[V, S, S, 4]` straight alpha."""

from collections.abc import Sequence

import numpy as np

from evaluation.proofs.data import ProofData
from evaluation.statistics import aggregate
from rendering.view_set import on_white
from training.methods.mvdiffusionpp_config import Config
from training.methods.mvdiffusionpp_views import condition_views, rolled_targets

FOREGROUND = 127


def aligned_truth(data: ProofData, uid: str, config: Config, reference: int = 0) -> np.ndarray:
    """The object's targets in canonical order, seen with condition view number `reference` at azimuth 0."""
    views = data.views(uid)
    return views.rgba[rolled_targets(views, config, int(condition_views(views)[reference]))]


def foreground_psnr(truth: np.ndarray, made: np.ndarray) -> np.ndarray:
    """dB per view `[V]` on white, over the truth's foreground; `made` may also be float RGB in [0, 1] `[V, S, S, 3]`."""
    inside = truth[..., 3] > FOREGROUND
    picture = made if made.shape[-1] == 3 else on_white(made)
    error = ((on_white(truth).astype(np.float64) - picture) ** 2).mean(-1)
    return -10.0 * np.log10(np.maximum((error * inside).sum((1, 2)) / np.maximum(inside.sum((1, 2)), 1), 1e-10))


def full_psnr(truth: np.ndarray, made: np.ndarray) -> np.ndarray:
    """dB per view `[V]` on white, over all pixels."""
    picture = made if made.shape[-1] == 3 else on_white(made)
    return -10.0 * np.log10(np.maximum(((on_white(truth).astype(np.float64) - picture) ** 2).mean((1, 2, 3)), 1e-10))


def mask_ious(truth: np.ndarray, made: np.ndarray) -> np.ndarray:
    """Intersection over union per view `[V]`."""
    a, b = truth[..., 3] > FOREGROUND, made[..., 3] > FOREGROUND
    return (a & b).sum((1, 2)) / np.maximum((a | b).sum((1, 2)), 1)


def mean_colour(truth: np.ndarray, made: np.ndarray) -> np.ndarray:
    """RGB `[3]` of `made` averaged over the truth's foreground in all views."""
    inside = truth[..., 3] > FOREGROUND
    return on_white(made)[inside].mean(0)


def colour_correlation(truths: Sequence[np.ndarray], made: Sequence[np.ndarray]) -> float:
    """Pearson correlation of the objects' mean colours; every channel is centred over objects first."""
    wanted = np.stack([mean_colour(t, t) for t in truths])
    return _correlation(wanted, np.stack([mean_colour(t, m) for t, m in zip(truths, made, strict=True)]))


def condition_colour_correlation(truths: Sequence[np.ndarray], given: Sequence[np.ndarray]) -> float:
    """The same for the condition pictures `[1, S, S, 4]` themselves, over their own foreground: what copying colours could reach."""
    wanted = np.stack([mean_colour(t, t) for t in truths])
    return _correlation(wanted, np.stack([mean_colour(picture, picture) for picture in given]))


def _correlation(wanted: np.ndarray, got: np.ndarray) -> float:
    wanted, got = wanted - wanted.mean(0), got - got.mean(0)
    return float((wanted * got).sum() / np.sqrt((wanted**2).sum() * (got**2).sum()))


def near_views(config: Config) -> np.ndarray:
    """Canonical targets at most one azimuth step from the reference: the sides that the condition picture shows too."""
    around = np.arange(config.num_targets) % config.num_azimuths
    return np.flatnonzero(np.isin(around, (0, 1, config.num_azimuths - 1)))


def mean_training_view(data: ProofData, config: Config) -> np.ndarray:
    """RGB in [0, 1] `[V, S, S, 3]`: the average training picture of every canonical slot, over all references."""
    total: np.ndarray | float = 0.0
    count = 0
    for uid in data.train:
        for reference in range(int(data.is_condition.sum())):
            total = total + on_white(aligned_truth(data, uid, config, reference))
            count += 1
    return np.asarray(total / count)


def nearest_training_object(data: ProofData, condition: np.ndarray) -> tuple[str, int]:
    """The training object and which of its condition views looks most like `condition` (mean square on white)."""
    best = (np.inf, "", 0)
    wanted = on_white(condition)
    for uid in data.train:
        views = data.views(uid)
        for number, index in enumerate(condition_views(views)):
            best = min(best, (float(((on_white(views.rgba[index]) - wanted) ** 2).mean()), uid, number))
    return best[1], best[2]


def summary(values: Sequence[float]) -> dict:
    """Mean and the bootstrap interval over objects, and every value, so that anyone can look again."""
    figures = aggregate(list(values))
    return {"mean": figures["mean"], "ci95": figures["ci95"], "objects": figures["objects"], "each": [round(float(v), 4) for v in values]}


def difference(a: Sequence[float], b: Sequence[float]) -> dict:
    """`a - b` paired by object."""
    return summary([x - y for x, y in zip(a, b, strict=True)])
