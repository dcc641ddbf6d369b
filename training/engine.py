"""How gradients become new weights: one process, several with an all-reduce, or DeepSpeed ZeRO. Knows no Ray and no method."""

import contextlib
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn

from training.ema import Ema


class Engine(Protocol):
    """What the loop needs from whoever owns the optimiser.

    Attributes:
        module: what `Trainable.loss` calls (wrapped where the engine needs it).
        rank, world: this process and how many there are.
        device: where batches go.
    """

    module: nn.Module
    rank: int
    world: int
    device: torch.device

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of one micro-batch's mean loss; the engine divides by the number of micro-batches."""
        ...

    def step(self, lr: float) -> float:
        """Clip, update the weights and their average, clear gradients; returns the gradient norm before clipping."""
        ...

    def full_weights(self, ema: bool) -> dict[str, Tensor] | None:
        """Every trained parameter whole, float32, and every buffer as it is, on the CPU: on rank 0; None elsewhere. All ranks must call."""
        ...

    def save(self, folder: Path) -> None:
        """Write this rank's share of weights, optimiser and average below `folder`. All ranks must call."""
        ...

    def load(self, folder: Path) -> None:
        """Restore what `save` wrote at the same world size."""
        ...


def _buffers(module: nn.Module) -> dict[str, Tensor]:
    """Buffers hold what training measures without a gradient, such as the spread of the latents."""
    return {name: buffer.detach().cpu().clone() for name, buffer in module.named_buffers()}


def device_here() -> torch.device:
    """The GPU of this process (by LOCAL_RANK) or the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", torch.cuda.current_device())))
    return torch.device("cpu")


def gather_objects(engine: Engine, value: Any) -> list[Any]:
    """`value` of every rank, in rank order, on every rank."""
    if engine.world == 1:
        return [value]
    values: list[Any] = [None] * engine.world
    dist.all_gather_object(values, value)
    return values


def _rank_and_world() -> tuple[int, int]:
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def trained_parameters(module: nn.Module) -> dict[str, nn.Parameter]:
    return {name: p for name, p in module.named_parameters() if p.requires_grad}


class PlainEngine:
    """AdamW in one process, or in several that average their gradients once per step."""

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
        device: torch.device | None = None,
    ) -> None:
        self.device = device or device_here()
        self.module = module.to(self.device).train()
        self.rank, self.world = _rank_and_world()
        self.clip, self.micro_batches = clip, micro_batches
        self.parameters = trained_parameters(module)
        self.optimizer = torch.optim.AdamW(self.parameters.values(), lr=lr, betas=betas, weight_decay=weight_decay)
        if self.world > 1:
            for tensor in module.state_dict().values():
                dist.broadcast(tensor, 0)
        self.ema = Ema(list(self.parameters.values()), ema_decay) if ema_decay else None

    def backward(self, loss: Tensor) -> None:
        (loss / self.micro_batches).backward()

    def step(self, lr: float) -> float:
        self._average_gradients()
        norm = torch.nn.utils.clip_grad_norm_(self.parameters.values(), self.clip if self.clip else float("inf"))
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.ema:
            self.ema.update(list(self.parameters.values()))
        return float(norm)

    def _average_gradients(self) -> None:
        if self.world == 1:
            return
        for parameter in self.parameters.values():
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        flat = torch.cat([p.grad.reshape(-1) for p in self.parameters.values() if p.grad is not None])
        dist.all_reduce(flat)
        flat /= self.world
        start = 0
        for parameter in self.parameters.values():
            assert parameter.grad is not None
            parameter.grad.copy_(flat[start : start + parameter.numel()].view_as(parameter))
            start += parameter.numel()

    def full_weights(self, ema: bool) -> dict[str, Tensor] | None:
        if self.rank != 0:
            return None
        tensors = self.ema.averages if ema and self.ema else list(self.parameters.values())
        weights = {name: t.detach().float().cpu().clone() for name, t in zip(self.parameters, tensors, strict=True)}
        return weights | _buffers(self.module)

    def save(self, folder: Path) -> None:
        # Every rank holds the same state; one copy is enough.
        if self.rank != 0:
            return
        state = {
            "weights": {name: p.detach() for name, p in self.parameters.items()},
            "buffers": dict(self.module.named_buffers()),
            "optimizer": self.optimizer.state_dict(),
            "ema": self.ema.state() if self.ema else None,
        }
        torch.save(state, folder / "plain.pt")

    @torch.no_grad()
    def load(self, folder: Path) -> None:
        state = torch.load(folder / "plain.pt", map_location=self.device, weights_only=True)
        for name, parameter in self.parameters.items():
            parameter.copy_(state["weights"][name])
        for name, buffer in self.module.named_buffers():
            buffer.copy_(state["buffers"][name])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.ema:
            self.ema.restore(state["ema"])


class DeepSpeedEngine:
    """ZeRO stages 1-3 on any device; needs an open process group or opens one for itself alone.

    The average is kept over this rank's shard of the float32 weights and is gathered only when it is wanted.
    """

    def __init__(
        self,
        module: nn.Module,
        *,
        zero_stage: int,
        lr: float,
        betas: tuple[float, float],
        weight_decay: float,
        clip: float,
        ema_decay: float,
        micro_batches: int,
        micro_batch: int,
        bf16: bool = False,
        device: torch.device | None = None,
    ) -> None:
        self.device = device or device_here()
        deepspeed = _import_deepspeed(self.device)
        _ensure_process_group(self.device)
        self.rank, self.world = _rank_and_world()
        self.zero_stage = zero_stage
        self._raw = module.to(self.device).train()
        self._parameters = trained_parameters(module)
        optimizer = torch.optim.AdamW(self._parameters.values(), lr=lr, betas=betas, weight_decay=weight_decay)
        settings = {
            "train_micro_batch_size_per_gpu": micro_batch,
            "gradient_accumulation_steps": micro_batches,
            "train_batch_size": micro_batch * micro_batches * self.world,
            "gradient_clipping": clip,
            "zero_optimization": {"stage": zero_stage},
            "zero_allow_untested_optimizer": True,
            # DeepSpeed switches the caller's autocast off inside its forward unless told of it here.
            "torch_autocast": {"enabled": bf16, "dtype": "bfloat16"},
        }
        self.engine, *_ = deepspeed.initialize(model=module, optimizer=optimizer, config=settings, dist_init_required=False)
        self.module = self.engine
        self.ema = Ema(self.shards(), ema_decay) if ema_decay else None

    def shards(self) -> list[Tensor]:
        """This rank's float32 pieces of the weights, as the optimiser sees them."""
        optimizer = self.engine.optimizer
        return list(optimizer.fp32_partitioned_groups_flat if self.zero_stage == 3 else optimizer.single_partition_of_fp32_groups)

    def backward(self, loss: Tensor) -> None:
        self.engine.backward(loss)
        if not self.engine.is_gradient_accumulation_boundary():
            self.engine.step()

    def step(self, lr: float) -> float:
        for group in self.engine.optimizer.param_groups:
            group["lr"] = lr
        self.engine.step()
        if self.ema:
            self.ema.update(self.shards())
        norm = self.engine.get_global_grad_norm()
        return float(norm) if norm is not None else float("nan")

    def full_weights(self, ema: bool) -> dict[str, Tensor] | None:
        from deepspeed.utils import safe_get_full_fp32_param

        weights = {}
        with self._averaged() if ema and self.ema else contextlib.nullcontext():
            for name, parameter in self._parameters.items():
                whole = safe_get_full_fp32_param(parameter)
                if self.rank == 0:
                    weights[name] = whole.detach().float().cpu().clone()
        return weights | _buffers(self.engine.module) if self.rank == 0 else None

    @contextlib.contextmanager
    @torch.no_grad()
    def _averaged(self) -> Iterator[None]:
        """The optimiser's float32 shards hold the averages inside the block."""
        assert self.ema is not None
        kept = [shard.clone() for shard in self.shards()]
        try:
            for shard, average in zip(self.shards(), self.ema.averages, strict=True):
                shard.copy_(average)
            yield
        finally:
            for shard, original in zip(self.shards(), kept, strict=True):
                shard.copy_(original)

    def save(self, folder: Path) -> None:
        self.engine.save_checkpoint(str(folder), tag="deepspeed", save_latest=False, exclude_frozen_parameters=True)
        if self.ema:
            torch.save(self.ema.state(), folder / f"ema-{self.rank:05d}.pt")

    def load(self, folder: Path) -> None:
        self.engine.load_checkpoint(str(folder), tag="deepspeed", load_module_strict=False)
        if self.ema:
            self.ema.restore(torch.load(folder / f"ema-{self.rank:05d}.pt", map_location=self.device, weights_only=True))


def _import_deepspeed(device: torch.device) -> Any:
    """DeepSpeed without its compile at first use: on a CPU the shared-memory operator is left out, gloo does its work."""
    if device.type == "cpu":
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    # Its autotuner, unused here, would import mlflow: a second of start-up for every worker.
    hidden = "mlflow" not in sys.modules
    if hidden:
        sys.modules["mlflow"] = None  # type: ignore[assignment]
    try:
        import deepspeed
        import deepspeed.ops
        from deepspeed.utils import logger
    finally:
        if hidden:
            del sys.modules["mlflow"]

    logger.setLevel("WARNING")
    warnings.filterwarnings("ignore", category=FutureWarning, message="`torch.distributed.*is deprecated")  # one line per step
    if device.type == "cpu":
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    return deepspeed


def _ensure_process_group(device: torch.device) -> None:
    if not dist.is_initialized():
        os.environ.setdefault("LOCAL_RANK", "0")  # DeepSpeed insists on it
        meeting = Path(tempfile.mkdtemp(prefix="mvforge-group-")) / "store"
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo", init_method=f"file://{meeting}", rank=0, world_size=1)
