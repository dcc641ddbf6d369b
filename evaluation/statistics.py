"""Figures of many objects in a few numbers."""

from collections.abc import Iterable, Sequence

import numpy as np

from infra.seeds import rng_for

BOOTSTRAP_ROUNDS = 2000


def mean_known(values: Iterable[float | None]) -> float | None:
    """Mean of the values that are not None; None where there is none."""
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def aggregate(values: Sequence[float | None], seed: int = 0) -> dict[str, float | int | list[float] | None]:
    """Mean, median, standard deviation and the bootstrap 95 % interval of the mean over objects.

    `objects` counts the values, `missing` the Nones, which enter no figure. The interval is the percentile one of
    `BOOTSTRAP_ROUNDS` resamplings of objects and needs two values; the deviation is the sample's (n - 1).
    """
    known = np.array([v for v in values if v is not None], np.float64)
    figures: dict[str, float | int | list[float] | None] = {"objects": len(known), "missing": len(values) - len(known)}
    if len(known) == 0:
        return figures | {"mean": None, "median": None, "std": None, "ci95": None}
    figures |= {"mean": float(known.mean()), "median": float(np.median(known)), "std": None, "ci95": None}
    if len(known) > 1:
        rng = rng_for(seed, "bootstrap over objects")
        means = known[rng.integers(0, len(known), (BOOTSTRAP_ROUNDS, len(known)))].mean(1)
        figures |= {"std": float(known.std(ddof=1)), "ci95": [float(v) for v in np.percentile(means, [2.5, 97.5])]}
    return figures
