"""Exponential moving average of tensors; what they are (whole weights, or one ZeRO shard) is the engine's business."""

import torch
from torch import Tensor


class Ema:
    """Keeps float32 averages of `tensors`, updated in place.

    The effective decay is `min(decay, (1 + n) / (10 + n))` after n updates, so that a short run is not dominated by
    its starting weights.
    """

    def __init__(self, tensors: list[Tensor], decay: float) -> None:
        self.decay = decay
        self.updates = 0
        self.averages = [t.detach().clone().float() for t in tensors]

    @torch.no_grad()
    def update(self, tensors: list[Tensor]) -> None:
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        self.updates += 1
        for average, tensor in zip(self.averages, tensors, strict=True):
            average.lerp_(tensor.detach().to(average), 1.0 - decay)

    def state(self) -> dict:
        return {"updates": self.updates, "averages": self.averages}

    @torch.no_grad()
    def restore(self, state: dict) -> None:
        self.updates = int(state["updates"])
        for average, saved in zip(self.averages, state["averages"], strict=True):
            average.copy_(saved)
