"""Measured training steps and sampling of the multi-view U-Net with random weights, built on the device itself."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from torch import Tensor, nn

from training.bench_kernels import forced
from training.bench_rows import Figures, NotRun, median_seconds
from training.diffusion.sampling import make_scheduler, sample
from training.diffusion.schedule import ScheduleConfig
from training.flops import train_flops, unet_flops, vae_flops
from training.nn.config import UnetConfig, VaeConfig
from training.nn.unet import MultiViewUNet, empty_unet
from training.nn.vae import empty_autoencoder

SLOTS = 42  # 10 condition and 32 target views (MVDiffusion++ §4.2)
DECODED_AT_ONCE = 8


@dataclass(frozen=True)
class Shapes:
    """What is measured: the networks' sizes and the side of a latent in cells."""

    name: str
    unet: UnetConfig
    vae: VaeConfig
    latent_size: int

    @property
    def resolution(self) -> int:
        return self.latent_size * self.vae.factor


FULL = Shapes("full", UnetConfig(), VaeConfig(), 64)
TINY = Shapes(
    "tiny",
    UnetConfig(
        block_out_channels=(32, 64),
        attention_levels=(True, True),
        layers_per_block=1,
        num_heads=(1, 2),
        cross_attention_dim=32,
        norm_num_groups=8,
    ),
    VaeConfig(block_out_channels=(8, 16, 24, 32), layers_per_block=1, norm_num_groups=8),
    4,
)


@dataclass(frozen=True)
class Options:
    """How a row is computed.

    Attributes:
        objects: per forward pass.
        recompute: gradient checkpointing.
        compile: mode of `torch.compile` of the U-Net (`reduce-overhead` records CUDA graphs); None leaves it as it is.
        channels_last: convolutions in NHWC layout.
        fused: AdamW as one kernel instead of one per tensor group.
        optimizer: False measures forward and backward alone.
        attention: PyTorch's attention backend by name; None leaves the choice to the project's door.
        ragged: objects with unequal view counts are `packed` (only real views are computed) or `masked`.
    """

    objects: int = 1
    recompute: bool = False
    compile: str | None = None
    channels_last: bool = False
    fused: bool = False
    optimizer: bool = True
    attention: str | None = None
    ragged: str = "packed"

    @property
    def note(self) -> str:
        chosen = [name for name in ("recompute", "channels_last", "fused") if getattr(self, name)]
        chosen += [f"compile {self.compile}"] if self.compile else []
        chosen += [f"{self.objects} objects"] if self.objects > 1 else []
        chosen += [f"{self.attention} attention"] if self.attention else []
        return ", ".join(chosen + ([] if self.optimizer else ["no optimiser"]))


def train_step(shapes: Shapes, counts: Sequence[int], options: Options, device: torch.device, rate: float | None) -> Figures:
    """Seconds, memory and rate of one training step of objects with `counts` views each (one of them a condition).

    Weights and AdamW state are float32, computation is bf16 by autocast, as `precision="bf16"` trains without ZeRO.
    `tflops` and `mfu` count the model's own operations: computing activations again does not count as work.

    Args:
        rate: measured matrix product rate in TFLOP/s that MFU refers to; None leaves MFU out.
    """
    _reset_peak(device)
    module = _unet(shapes, options, device)
    if options.recompute:
        module.enable_gradient_checkpointing()
    run = torch.compile(module, mode=options.compile) if options.compile else module
    batch = _batch(shapes, counts, device)
    optimizer = torch.optim.AdamW(module.parameters(), 1e-5, fused=options.fused) if options.optimizer else None

    def step() -> None:
        module.zero_grad(set_to_none=True)
        with torch.autocast(device.type, torch.bfloat16):
            loss = run(*batch).square().mean()
        loss.backward()
        if optimizer is not None:
            optimizer.step()

    with forced(options.attention):
        seconds, repeats = median_seconds(step, device, 4 if options.compile else 2, 4.0, 10)
    operations = train_flops(shapes.unet, counts, shapes.latent_size)
    return {
        **_speed(operations, seconds, rate),
        "views": list(counts),
        "peak_gib": _peak(device),
        "repeats": repeats,
        "note": options.note,
    }


@torch.no_grad()
def sampling(shapes: Shapes, targets: int, sampler: str, steps: int, options: Options, device: torch.device, rate: float | None) -> Figures:
    """All `targets` views of one object from one condition view: joint sampling in bf16 and decoding to pictures."""
    _reset_peak(device)
    module = _unet(shapes, options, device).to(torch.bfloat16).eval()
    run = torch.compile(module, mode=options.compile) if options.compile else module
    with device:
        vae = empty_autoencoder(shapes.vae).eval()
    nn.Module.to(vae, torch.bfloat16)  # diffusers' own `to` warns about loading from files
    views = targets + 1
    noisy, condition, is_condition, _, slots, tokens, *_ = _batch(shapes, [views], device)

    def denoise(current: Tensor, timesteps: Tensor, dropped: bool) -> Tensor:
        return run(current, condition, is_condition, timesteps, slots, tokens)

    scheduler = make_scheduler(sampler, ScheduleConfig(), "v")
    generator = torch.Generator().manual_seed(0)

    def whole(count: int = steps) -> None:
        latents = sample(denoise, noisy, scheduler, count, [generator])[0, 1:]
        for part in latents.to(torch.bfloat16).split(DECODED_AT_ONCE):
            _decode(vae, part)

    whole(2)  # kernels are chosen and compiled outside the clock
    seconds, repeats = median_seconds(whole, device, 0, 1.0, 3)
    forward = unet_flops(shapes.unet, views, shapes.latent_size).total
    operations = steps * forward + targets * vae_flops(shapes.vae, shapes.resolution)[1].total
    note = f"{targets} views of {shapes.resolution} px, decoded" + (f", {options.note}" if options.note else "")
    return {**_speed(operations, seconds, rate), "peak_gib": _peak(device), "repeats": repeats, "note": note}


def _decode(vae: AutoencoderKL, latents: Tensor) -> Tensor:
    return vae.decode(latents).sample


def _unet(shapes: Shapes, options: Options, device: torch.device) -> MultiViewUNet:
    if options.compile and device.type == "cpu":
        raise NotRun("compiling is measured on GPUs only: on a CPU it takes longer than all else here")
    with device:
        unet = empty_unet(shapes.unet, shapes.vae.latent_channels, shapes.latent_size)
        module = MultiViewUNet(unet, SLOTS, ragged=options.ragged)
    if options.attention:
        module.attention.backend = "sdpa"  # xformers would win otherwise, where it works
    if options.channels_last:
        module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing in torch's stubs
    return module


def _batch(shapes: Shapes, counts: Sequence[int], device: torch.device) -> tuple[Any, ...]:
    """Arguments of the denoiser: the first view of each object is the condition, views beyond its count are padding."""
    size, objects, views = shapes.latent_size, len(counts), max(counts)
    latents = torch.randn(2, objects, views, shapes.vae.latent_channels, size, size, device=device)
    numbers = torch.arange(views, device=device)
    is_condition = (numbers == 0).expand(objects, -1)
    timesteps = torch.randint(1000, (objects,), device=device)
    slots = (numbers % SLOTS).expand(objects, -1)
    tokens = torch.randn(objects, 1, shapes.unet.cross_attention_dim, device=device)
    valid = None if min(counts) == views else numbers < torch.tensor(counts, device=device)[:, None]
    return latents[0], latents[1], is_condition, timesteps, slots, tokens, None, valid


def _speed(operations: float, seconds: float, rate: float | None) -> Figures:
    tflops = operations / seconds / 1e12
    return {"seconds": seconds, "tflop": operations / 1e12, "tflops": tflops, "mfu": tflops / rate if rate else None}


def _reset_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def _peak(device: torch.device) -> float | None:
    """Peak of allocated GPU memory in GiB; None on a CPU, where a process has no such figure."""
    return torch.cuda.max_memory_allocated(device) / 2**30 if device.type == "cuda" else None
