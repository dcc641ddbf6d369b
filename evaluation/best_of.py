"""Several seeds of one model: the plain mean, how much luck is in it, and the best of n apart from both.

The best of n is chosen by the truth, which no user of a model has: it tells what a perfect judge could pick from n tries, grows with
n whatever the model, and compares only with other figures of the same n.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from evaluation.metrics.directions import LOWER_IS_BETTER
from evaluation.statistics import aggregate, mean_known


def best_of(values_by_seed: Sequence[Mapping[str, float | None]], metric: str, seed: int = 0) -> dict[str, Any]:
    """Statistics of one metric over n seeds, from one uid -> figure for each.

    `mean`: over seeds of each object, then over objects. `best`: each object's best seed, then over objects; only objects with a
    figure under every seed count there, so that n is n. `seed_means`: over objects, seed by seed; `seed_std`: mean over objects
    of the deviation between seeds (n - 1), None for one seed. `seed` is that of the bootstrap.
    """
    uids = sorted(set().union(*values_by_seed)) if values_by_seed else []
    table = {uid: [values.get(uid) for values in values_by_seed] for uid in uids}
    complete = {uid: [float(v) for v in row if v is not None] for uid, row in table.items() if None not in row}
    pick = min if metric in LOWER_IS_BETTER else max
    return {
        "metric": metric,
        "seeds": len(values_by_seed),
        "mean": aggregate([mean_known(row) for row in table.values()], seed),
        "best": aggregate([pick(row) for row in complete.values()], seed),
        "best_seed": {uid: row.index(pick(row)) for uid, row in complete.items()},
        "incomplete": sorted(set(uids) - set(complete)),
        "seed_means": [mean_known(values.get(uid) for uid in uids) for values in values_by_seed],
        "seed_std": mean_known(float(np.std(row, ddof=1)) for row in complete.values()) if len(values_by_seed) > 1 else None,
    }
