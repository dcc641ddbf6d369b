"""Discrete-event simulation of a training stage: updates between checkpoints, failures, going back to the last durable one.

Events are failures; between two of them the segments (updates and their checkpoint) that fit are counted at once.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

TINY = 1e-9  # of a segment: rounding may not cost a whole one


@dataclass(frozen=True)
class StageRun:
    """What happened; the parts add up to `wall_s`.

    Attributes:
        useful_s: updates that counted, at the speed of ranks that never wait.
        straggling_s: waiting for the slowest rank in those.
        saving_s: checkpoints that counted.
        again_s: work that failures threw away, with its checkpoints.
        restart_s: from failures to going on.
        failures: in all, those during a restart included.
    """

    useful_s: float
    straggling_s: float
    saving_s: float
    again_s: float
    restart_s: float
    failures: int

    @property
    def wall_s(self) -> float:
        return self.useful_s + self.straggling_s + self.saving_s + self.again_s + self.restart_s

    @property
    def goodput(self) -> float:
        return self.useful_s / self.wall_s if self.wall_s else 1.0


def run_training(
    steps: int,
    step_s: float,
    every: int,
    rng: np.random.Generator,
    *,
    waits: np.ndarray | None = None,
    save_s: float = 0.0,
    upload_s: float = 0.0,
    restart_s: float = 0.0,
    between_failures_s: float = math.inf,
) -> StageRun:
    """Simulate.

    Args:
        steps: updates, at least 1.
        step_s: seconds of an update when no rank is late.
        every: updates between checkpoints; there is one after the last update, too.
        waits: seconds that each update waits for its slowest rank; None = none.
        save_s: that training stands still for a checkpoint.
        upload_s: after which a checkpoint survives a failure; training goes on meanwhile.
        restart_s: from a failure to the next update; a failure during it starts it again.
        between_failures_s: mean, of all nodes together; infinite for none.
    """
    segments = math.ceil(steps / every)
    starts = _starts(steps, step_s, every, waits, save_s)
    fails = _clock(between_failures_s, rng)
    now, done, failures = 0.0, 0, 0
    again = restarting = 0.0
    next_failure = next(fails)
    while True:
        if now + starts.between(done, segments) <= next_failure:
            break
        # What is not durable at the failure is lost, also a checkpoint that was still on its way.
        safe = starts.whole(done, next_failure - upload_s - now)
        again += next_failure - now - starts.between(done, safe)
        done, now, failures = safe, next_failure, failures + 1
        next_failure = now + next(fails)
        while now + restart_s > next_failure:
            restarting += next_failure - now
            now, failures = next_failure, failures + 1
            next_failure = now + next(fails)
        now += restart_s
        restarting += restart_s
    waiting = float(waits.sum()) if waits is not None else 0.0
    return StageRun(steps * step_s, waiting, segments * save_s, again, restarting, failures)


class _Equal:
    """Segments of equal length; the last may be shorter."""

    def __init__(self, length: float, last: float, count: int) -> None:
        self.length, self.last, self.count = length, last, count

    def at(self, segment: int) -> float:
        return segment * self.length if segment < self.count else (self.count - 1) * self.length + self.last

    def between(self, first: int, end: int) -> float:
        return self.at(end) - self.at(first)

    def whole(self, first: int, seconds: float) -> int:
        """The segment at which one stands that starts at `first` and works for `seconds`; never the end of all."""
        if seconds < self.length:
            return first
        return min(first + math.floor(seconds / self.length + TINY), self.count - 1)


class _Drawn:
    """Segments of given lengths."""

    def __init__(self, lengths: np.ndarray) -> None:
        self.times = np.concatenate([[0.0], np.cumsum(lengths)])

    def between(self, first: int, end: int) -> float:
        return float(self.times[end] - self.times[first])

    def whole(self, first: int, seconds: float) -> int:
        if seconds <= 0:
            return first
        found = int(np.searchsorted(self.times, self.times[first] + seconds, side="right")) - 1
        return min(max(found, first), len(self.times) - 2)


def _starts(steps: int, step_s: float, every: int, waits: np.ndarray | None, save_s: float) -> _Equal | _Drawn:
    count = math.ceil(steps / every)
    last = (steps - every * (count - 1)) * step_s + save_s
    if waits is None:
        return _Equal(every * step_s + save_s, last, count)
    lengths = np.full(count, every * step_s + save_s)
    lengths[-1] = last
    return _Drawn(lengths + np.add.reduceat(waits, np.arange(0, steps, every)))


def _clock(mean_s: float, rng: np.random.Generator) -> Iterator[float]:
    """Seconds from one failure to the next, without end."""
    while True:
        yield math.inf if math.isinf(mean_s) else float(rng.exponential(mean_s))


def straggling(steps: int, step_s: float, ranks: int, sigma: float, rng: np.random.Generator) -> np.ndarray | None:
    """Seconds that each update waits for the slowest of `ranks`, whose times are lognormal with mean `step_s`; None for no spread.

    The largest of N normal draws is the normal quantile of U^(1/N), U uniform, so one draw an update is enough.
    """
    if not sigma:
        return None
    grid = np.linspace(-8.0, 8.0, 16_001)
    log_cdf = np.array([math.log(0.5 * math.erfc(-z / math.sqrt(2))) for z in grid])
    slowest = np.interp(np.log(rng.uniform(size=steps)) / ranks, log_cdf, grid)
    return step_s * (np.exp(sigma * slowest - sigma**2 / 2) - 1)
