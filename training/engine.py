"""How gradients become new weights: one process, or several with DistributedDataParallel; DeepSpeed ZeRO is in a file of its own.

Knows no Ray and no method.
"""

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from training import gloo_threads
from training.ema import Ema

SMALLEST_LOSS_SCALE = 1.0
"""[C] fp16: a gradient that overflows even without any loss scaling is taken for training that has become NaN."""


class Engine(Protocol):
    """What the loop needs from whoever owns the optimiser.

    Attributes:
        module: what `Trainable.loss` calls (wrapped where the engine needs it).
        rank, world: this process and how many there are.
        device: where batches go.
        skipped: whether the last `step` changed nothing because fp16 gradients overflowed.
    """

    module: nn.Module
    rank: int
    world: int
    device: torch.device
    skipped: bool

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of one micro-batch's mean loss; the engine divides by the number of micro-batches."""
        ...

    def step(self, lr: float) -> float:
        """Clip, update the weights and their average, clear gradients; returns the gradient norm before clipping."""
        ...

    def figures(self) -> dict[str, float]:
        """What the engine itself has to report; fp16: `loss_scale` and `skipped_steps` so far."""
        ...

    def ema_drift(self) -> float | None:
        """L2 distance between weights and their averages over the norm of the weights; None without averages. All ranks must call."""
        ...

    def full_weights(self, ema: bool) -> dict[str, Tensor] | None:
        """Every trained parameter whole, float32, and every buffer as it is, on the CPU: on rank 0; None elsewhere. All ranks must call."""
        ...

    def save(self, folder: Path) -> None:
        """Write this rank's share of weights, optimiser and average below `folder`. All ranks must call."""
        ...

    def load(self, folder: Path, world: int) -> None:
        """Restore what `save` wrote with `world` ranks. All ranks must call."""
        ...

    def reads_all_shares(self, world: int) -> bool:
        """Whether `load` needs the files of all ranks here, and not only those of rank 0 and of this one. No collective."""
        ...


def buffers_of(module: nn.Module) -> dict[str, Tensor]:
    """Buffers hold what training measures without a gradient, such as the spread of the latents."""
    return {name: buffer.detach().cpu().clone() for name, buffer in module.named_buffers()}


def trained_parameters(module: nn.Module) -> dict[str, nn.Parameter]:
    return {name: p for name, p in module.named_parameters() if p.requires_grad}


def relative(squares: Tensor) -> float:
    """Squared distance and squared norm -> distance over norm."""
    distance, norm = squares.sqrt().tolist()
    return distance / norm if norm else 0.0


def device_here() -> torch.device:
    """The GPU of this process (by LOCAL_RANK) or the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", torch.cuda.current_device())))
    return torch.device("cpu")


def rank_and_world() -> tuple[int, int]:
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def gather_objects(engine: Engine, value: Any) -> list[Any]:
    """`value` of every rank, in rank order, on every rank."""
    if engine.world == 1:
        return [value]
    values: list[Any] = [None] * engine.world
    dist.all_gather_object(values, value)
    return values


@contextlib.contextmanager
def process_group_from_environment() -> Iterator[None]:
    """The process group that `torchrun` describes (`RANK`, `WORLD_SIZE`, `MASTER_ADDR`, `MASTER_PORT`); nothing for a lone process."""
    if dist.is_initialized() or int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield
        return
    device = device_here()
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield
    finally:
        dist.destroy_process_group()
        gloo_threads.wait_until_asleep()


def ensure_process_group(device: torch.device) -> None:
    """A group of this process alone, for an engine that cannot do without one."""
    if not dist.is_initialized():
        os.environ.setdefault("LOCAL_RANK", "0")  # DeepSpeed insists on it
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo", store=dist.HashStore(), rank=0, world_size=1)


def first_on_host(engine: Engine) -> int:
    """The lowest rank on this machine, which does for the others what is needed once a machine."""
    hosts = gather_objects(engine, socket.gethostname())
    return hosts.index(hosts[engine.rank])


class PlainEngine:
    """AdamW in one process, or in several through torch's DistributedDataParallel.

    DistributedDataParallel reduces gradients bucket by bucket while the backward pass of the last micro-batch still runs,
    which hides most of the exchange on GPUs; earlier micro-batches only add up locally. Weights without a gradient in some
    micro-batch are allowed (a discriminator that starts later).

    Args:
        fp16: the loss is scaled by a dynamic factor, and a step whose gradients overflow is left out.
    """

    def __init__(
        self,
        module: nn.Module,
        *,
        lr: float,
        betas: tuple[float, float],
        weight_decay: float,
        clip: float,
        ema_decay: float,
        micro_batches: int,
        fp16: bool = False,
        device: torch.device | None = None,
    ) -> None:
        self.device = device or device_here()
        self.raw = module.to(self.device).train()
        self.rank, self.world = rank_and_world()
        self.clip, self.micro_batches = clip, micro_batches
        self.parameters = trained_parameters(module)
        self.optimizer = torch.optim.AdamW(self.parameters.values(), lr=lr, betas=betas, weight_decay=weight_decay)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=fp16)
        self.skipped, self.skipped_steps = False, 0
        self.module = self._parallel(module) if self.world > 1 else module
        self.ema = Ema(list(self.parameters.values()), ema_decay) if ema_decay else None
        self._expect(0)

    def _parallel(self, module: nn.Module) -> DistributedDataParallel:
        devices = [self.device.index] if self.device.type == "cuda" else None
        # Buffers are figures that each rank measures; the ones of rank 0 are saved.
        return DistributedDataParallel(module, device_ids=devices, forward_sync_buffers=False, find_unused_parameters=True)

    def _expect(self, micro_batch: int) -> None:
        """Gradients are exchanged in the last micro-batch only; what `no_sync` does, told before the loop's next forward pass."""
        self._done = micro_batch
        if isinstance(self.module, DistributedDataParallel):
            self.module.require_backward_grad_sync = micro_batch == self.micro_batches - 1

    def backward(self, loss: Tensor) -> None:
        self.scaler.scale(loss / self.micro_batches).backward()
        self._expect(self._done + 1)

    def step(self, lr: float) -> float:
        self.scaler.unscale_(self.optimizer)
        norm = torch.nn.utils.clip_grad_norm_(self.parameters.values(), self.clip if self.clip else float("inf"))
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        before = self.scaler.get_scale()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.skipped = self.scaler.get_scale() < before and before > SMALLEST_LOSS_SCALE
        self.skipped_steps += self.skipped
        self.optimizer.zero_grad(set_to_none=True)
        if self.ema and not self.skipped:
            self.ema.update(list(self.parameters.values()))
        self._expect(0)
        return float(norm)

    def figures(self) -> dict[str, float]:
        if not self.scaler.is_enabled():
            return {}
        return {"loss_scale": self.scaler.get_scale(), "skipped_steps": float(self.skipped_steps)}

    def ema_drift(self) -> float | None:
        return relative(self.ema.distance(list(self.parameters.values()))) if self.ema else None

    def full_weights(self, ema: bool) -> dict[str, Tensor] | None:
        if self.rank != 0:
            return None
        tensors = self.ema.averages if ema and self.ema else list(self.parameters.values())
        weights = {name: t.detach().float().cpu().clone() for name, t in zip(self.parameters, tensors, strict=True)}
        return weights | buffers_of(self.raw)

    def save(self, folder: Path) -> None:
        # Every rank holds the same state; one copy is enough.
        if self.rank != 0:
            return
        state = {
            "weights": {name: p.detach() for name, p in self.parameters.items()},
            "buffers": dict(self.raw.named_buffers()),
            "optimizer": self.optimizer.state_dict(),
            "ema": self.ema.state() if self.ema else None,
            "scaler": {**self.scaler.state_dict(), "skipped_steps": self.skipped_steps},
        }
        torch.save(state, folder / "plain.pt")

    @torch.no_grad()
    def load(self, folder: Path, world: int) -> None:
        state = torch.load(folder / "plain.pt", map_location=self.device, weights_only=True)
        for name, parameter in self.parameters.items():
            parameter.copy_(state["weights"][name])
        for name, buffer in self.raw.named_buffers():
            buffer.copy_(state["buffers"][name])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.ema:
            self.ema.restore(state["ema"])
        self.skipped_steps = state["scaler"].pop("skipped_steps")
        if self.scaler.is_enabled():
            self.scaler.load_state_dict(state["scaler"])

    def reads_all_shares(self, world: int) -> bool:
        return False
