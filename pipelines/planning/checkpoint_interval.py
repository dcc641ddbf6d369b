"""How often to save: closed forms against which the simulation is held.

Young 1974 (CACM 17, 530) and Daly 2006 (Future Generation Computer Systems 22, 303), for failures at random in time.
"""

import math


def young_s(save_s: float, between_failures_s: float) -> float:
    """Best seconds of work between two checkpoints, to first order; infinite without failures."""
    return math.inf if math.isinf(between_failures_s) else math.sqrt(2 * save_s * between_failures_s)


def daly_s(save_s: float, between_failures_s: float) -> float:
    """The same to higher order (Daly's equation 37): the mean time between failures once saving takes twice as long as that."""
    if math.isinf(between_failures_s):
        return math.inf
    if save_s >= 2 * between_failures_s:
        return between_failures_s
    ratio = save_s / (2 * between_failures_s)
    return math.sqrt(2 * save_s * between_failures_s) * (1 + math.sqrt(ratio) / 3 + ratio / 9) - save_s


def expected_wall_s(work_s: float, interval_s: float, save_s: float, restart_s: float, between_failures_s: float) -> float:
    """Mean wall time of `work_s` seconds of work saved every `interval_s` (Daly's equation 20), failures during restarts included."""
    if math.isinf(between_failures_s):
        return work_s * (1 + save_s / interval_s)
    mean = between_failures_s
    return mean * math.exp(restart_s / mean) * math.expm1((interval_s + save_s) / mean) * work_s / interval_s
