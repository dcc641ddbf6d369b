"""What a training is asked for from outside while it runs: a checkpoint now, and perhaps to leave then."""

from collections.abc import Callable

from infra.notice import Preempted

NOTHING, SAVE, LEAVE = 0, 1, 2
LEFT = "left.json"

Asked = Callable[[], int]
"""Asked by every rank once a step: `NOTHING`, `SAVE` (told once) or `LEAVE`. The loop does what any rank was asked for."""


def nothing() -> int:
    """A training that nobody asks for anything."""
    return NOTHING


class Left(Preempted):
    """Training has saved a checkpoint after `step` updates and stopped, as it was asked to."""

    def __init__(self, step: int) -> None:
        super().__init__(f"checkpoint after step {step} saved")
        self.step = step

    def __reduce__(self) -> tuple:
        return type(self), (self.step,)
