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

    @torch.no_grad()
    def distance(self, tensors: list[Tensor]) -> Tensor:
        """`[2]`, float64: squared L2 distance between `tensors` and their averages, and squared L2 norm of `tensors`."""
        total = torch.zeros(2, dtype=torch.float64, device=self.averages[0].device if self.averages else None)
        for average, tensor in zip(self.averages, tensors, strict=True):
            now = tensor.detach().to(average)
            total += torch.stack([(now - average).square().sum(), now.square().sum()])
        return total

    def state(self) -> dict:
        return {"updates": self.updates, "averages": self.averages}

    @torch.no_grad()
    def restore(self, state: dict) -> None:
        self.updates = int(state["updates"])
        for average, saved in zip(self.averages, state["averages"], strict=True):
            average.copy_(saved)
