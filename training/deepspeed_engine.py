"""DeepSpeed ZeRO stages 1-3 as an engine: the only file that imports DeepSpeed. Knows no Ray and no method."""

import contextlib
import os
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn

from training import universal
from training.ema import Ema
from training.engine import (
    SMALLEST_LOSS_SCALE,
    buffers_of,
    device_here,
    ensure_process_group,
    first_on_host,
    gather_objects,
    rank_and_world,
    relative,
    trained_parameters,
)

TAG = "deepspeed"
BUFFERS = "buffers.pt"


class DeepSpeedEngine:
    """ZeRO stages 1-3 on any device; needs an open process group or opens one for itself alone.

    The average is kept over this rank's shard of the float32 weights and is gathered only when it is wanted.

    Args:
        precision: of the forward and backward pass; weights, gradients' sums and optimiser stay float32.
        offload: keep the optimiser's state and its step on the CPU.
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
        precision: Literal["fp32", "bf16", "fp16"] = "fp32",
        offload: bool = False,
        device: torch.device | None = None,
    ) -> None:
        self.device = device or device_here()
        deepspeed = _import_deepspeed(self.device)
        ensure_process_group(self.device)
        self.rank, self.world = rank_and_world()
        self.zero_stage = zero_stage
        self._converter = first_on_host(self)
        self.skipped = False
        self._fp16 = precision == "fp16"
        module.to(self.device).train()
        self._parameters = trained_parameters(module)
        optimizer = torch.optim.AdamW(self._parameters.values(), lr=lr, betas=betas, weight_decay=weight_decay)
        settings = {
            "train_micro_batch_size_per_gpu": micro_batch,
            "gradient_accumulation_steps": micro_batches,
            "train_batch_size": micro_batch * micro_batches * self.world,
            "gradient_clipping": clip,
            "zero_optimization": {"stage": zero_stage, **({"offload_optimizer": {"device": "cpu"}} if offload else {})},
            "zero_allow_untested_optimizer": True,
            "zero_force_ds_cpu_optimizer": False,  # its own Adam for offloading is compiled at first use
            # DeepSpeed switches the caller's autocast off inside its forward unless told of it here. No module is listed:
            # the gradients of the listed ones would be summed over the ranks in half precision.
            "torch_autocast": {
                "enabled": precision != "fp32",
                "dtype": {"fp16": "float16"}.get(precision, "bfloat16"),
                "lower_precision_safe_modules": [],
            },
        }
        self.engine, *_ = deepspeed.initialize(model=module, optimizer=optimizer, config=settings, dist_init_required=False)
        self.module = self.engine
        self._scale_losses()
        self.ema = Ema(self.shards(), ema_decay) if ema_decay else None

    def _scale_losses(self) -> None:
        """fp16: DeepSpeed's own dynamic loss scale in place of torch's.

        With torch_autocast DeepSpeed clips before torch's scaler takes the scale out again, so that every gradient looks
        too large; its own scale is taken out before.
        """
        from deepspeed.runtime.fp16.loss_scaler import DynamicLossScaler

        optimizer = self.engine.optimizer
        optimizer.torch_autocast_gradscaler = None
        if self._fp16:
            optimizer.loss_scaler = DynamicLossScaler(
                init_scale=2.0**16,
                scale_window=2000,
                min_scale=SMALLEST_LOSS_SCALE / 2,
                delayed_shift=1,
                consecutive_hysteresis=False,
                raise_error_at_min_scale=False,
                dtype=torch.float16,
            )
            optimizer.dynamic_loss_scale = True
            optimizer.check_grad_overflow = True

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
        scale = self.engine.optimizer.loss_scale
        self.engine.step()
        overflow = self._fp16 and bool(self.engine.optimizer.overflow)
        self.skipped = overflow and scale > SMALLEST_LOSS_SCALE
        if self.ema and not overflow:
            self.ema.update(self.shards())
        if overflow:
            return float("inf")
        norm = self.engine.get_global_grad_norm()
        return float(norm) if norm is not None else float("nan")

    def figures(self) -> dict[str, float]:
        if not self._fp16:
            return {}
        return {"loss_scale": float(self.engine.optimizer.loss_scale), "skipped_steps": float(self.engine.skipped_steps)}

    def ema_drift(self) -> float | None:
        if not self.ema:
            return None
        squares = self.ema.distance(self.shards())
        if self.world > 1:
            dist.all_reduce(squares)
        return relative(squares)

    def full_weights(self, ema: bool) -> dict[str, Tensor] | None:
        from deepspeed.utils import safe_get_full_fp32_param

        weights = {}
        with self._holding(self.ema.averages) if ema and self.ema else contextlib.nullcontext():
            for name, parameter in self._parameters.items():
                whole = safe_get_full_fp32_param(parameter)
                if self.rank == 0:
                    weights[name] = whole.detach().float().cpu().clone()
        return weights | buffers_of(self.engine.module) if self.rank == 0 else None

    @contextlib.contextmanager
    @torch.no_grad()
    def _holding(self, values: list[Tensor]) -> Iterator[None]:
        """The optimiser's float32 shards hold `values` inside the block."""
        kept = [shard.clone() for shard in self.shards()]
        try:
            for shard, value in zip(self.shards(), values, strict=True):
                shard.copy_(value)
            yield
        finally:
            for shard, original in zip(self.shards(), kept, strict=True):
                shard.copy_(original)

    def save(self, folder: Path) -> None:
        self.engine.save_checkpoint(str(folder), tag=TAG, save_latest=False, exclude_frozen_parameters=True)
        if self.ema:
            torch.save(self.ema.state(), folder / universal.average_file(self.rank))
        if self.rank == 0:
            torch.save(buffers_of(self.engine.module), folder / BUFFERS)

    def load(self, folder: Path, world: int) -> None:
        if world == self.world:
            self.engine.load_checkpoint(str(folder), tag=TAG, load_module_strict=False)
            if self.ema:
                own = folder / universal.average_file(self.rank)
                self.ema.restore(torch.load(own, map_location=self.device, weights_only=True))
        else:
            self._load_resharded(folder, world)
        saved = torch.load(folder / BUFFERS, map_location=self.device, weights_only=True)
        with torch.no_grad():
            for name, buffer in self.engine.module.named_buffers():
                buffer.copy_(saved[name])

    def reads_all_shares(self, world: int) -> bool:
        return world != self.world and self._converter == self.rank

    def _load_resharded(self, folder: Path, world: int) -> None:
        """One rank a machine makes whole parameters of the shares of `world` ranks; every rank takes its part of them."""
        with universal.converted(folder, TAG, self.ema is not None) if self.rank == self._converter else contextlib.nullcontext() as made:
            places = gather_objects(self, made)
            if failed := sorted({place.error for place in places if place is not None and place.error}):
                raise RuntimeError(f"the shares of {world} workers could not be made whole: {'; '.join(failed)}")
            place = places[self._converter]
            self.engine._config.load_universal_checkpoint = True
            try:
                self.engine.load_checkpoint(str(place.weights.parent), tag=place.weights.name, load_module_strict=False)
            finally:
                self.engine._config.load_universal_checkpoint = False
            if self.ema:
                own = folder / universal.average_file(0)
                self._load_average(place.average, torch.load(own, map_location="cpu", weights_only=True)["updates"])
            gather_objects(self, None)  # until all have read

    def _load_average(self, folder: Path, updates: int) -> None:
        from deepspeed.utils import safe_set_full_fp32_param, safe_set_local_fp32_param

        assert self.ema is not None
        with self._holding(self.shards()):
            for name, parameter in self._parameters.items():
                whole = torch.load(folder / "zero" / name / "fp32.pt", map_location=self.device, weights_only=False)
                if self.zero_stage != 3:
                    safe_set_full_fp32_param(parameter, whole["param"].view(parameter.shape))
                    continue
                # Its setter of whole parameters has no room for the padding of those that do not divide among the ranks.
                size = parameter.ds_tensor.ds_numel  # type: ignore[attr-defined]
                padded = torch.nn.functional.pad(whole.flatten(), (0, size * self.world - whole.numel()))
                safe_set_local_fp32_param(parameter, padded.narrow(0, self.rank * size, size))
            self.ema.restore({"updates": updates, "averages": self.shards()})


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
