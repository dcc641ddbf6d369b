"""When training must stop: figures that are not finite, and sudden jumps far above what was usual."""

import math
from collections import deque
from collections.abc import Sequence
from statistics import median

WINDOW, WARM_UP = 100, 50


class UnstableTraining(Exception):
    """Training has left what can be trusted; nothing after `step` was saved.

    Attributes:
        step: number of the update (from 0).
        what: which figure.
        uids: objects of the offending micro-batches; of the whole batch where the figure belongs to all.
        mend: what a person may try.
    """

    mend = "look at these objects; lower lr or set clip"

    def __init__(self, step: int, what: str, uids: list[str]) -> None:
        super().__init__(f"{what} {self.fault()} at step {step}; objects of the batch: {', '.join(uids)}")
        self.step, self.what, self.uids = step, what, uids

    def fault(self) -> str:
        return "cannot be trusted"

    def __reduce__(self) -> tuple:
        return type(self), (self.step, self.what, self.uids)


class NonFiniteTraining(UnstableTraining):
    """Loss or gradient became NaN or infinite."""

    def fault(self) -> str:
        return "is not finite"


class SpikedTraining(UnstableTraining):
    """Loss or gradient norm jumped above `spike_factor` times its usual value; `what` says from where to where."""

    mend = "look at these objects; lower lr, set clip, or raise spike_factor to let such steps pass"

    def fault(self) -> str:
        return "jumped"


class Guard:
    """Watches the loss of every step and the norm of its gradient, the same on every rank.

    A figure above `factor` times the median of its last 100 values is a spike; the first 50 steps only teach what is usual.
    """

    def __init__(self, factor: float, state: dict[str, list[float]] | None = None) -> None:
        """`factor` 0 looks for no spikes. `state` continues what `state()` gave."""
        self.factor = factor
        self._usual = {name: deque((state or {}).get(name, ()), WINDOW) for name in ("loss", "norm")}

    def state(self) -> dict[str, list[float]]:
        """What a checkpoint must keep."""
        return {name: list(values) for name, values in self._usual.items()} if self.factor else {}

    def check_loss(self, step: int, losses: Sequence[tuple[float, list[str]]]) -> None:
        """Before the update: `(loss, uids)` of every micro-batch of every rank. Raises UnstableTraining."""
        if broken := [uid for loss, uids in losses if not math.isfinite(loss) for uid in uids]:
            raise NonFiniteTraining(step, "the loss", broken)
        mean = sum(loss for loss, _ in losses) / len(losses)
        if limit := self._limit("loss", mean):
            worst = [uid for loss, uids in losses if loss > limit for uid in uids]
            raise SpikedTraining(step, self._jump("the loss", "loss", mean), worst or [uid for _, uids in losses for uid in uids])

    def check_norm(self, step: int, norm: float, uids: list[str]) -> None:
        """After the update, with all objects of the step. Raises UnstableTraining."""
        if not math.isfinite(norm):
            raise NonFiniteTraining(step, "the gradient", uids)
        if self._limit("norm", norm):
            raise SpikedTraining(step, self._jump("the gradient norm", "norm", norm), uids)

    def _limit(self, name: str, value: float) -> float | None:
        """What `value` exceeds, if it is a spike; else it joins the usual values."""
        if not self.factor:
            return None
        usual = self._usual[name]
        limit = self.factor * median(usual) if len(usual) >= WARM_UP else math.inf
        if value > limit > 0:
            return limit
        usual.append(value)
        return None

    def _jump(self, what: str, name: str, value: float) -> str:
        return f"{what}, {value:.4g} against a usual {median(self._usual[name]):.4g}"
