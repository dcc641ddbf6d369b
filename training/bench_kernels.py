"""Measured rates of what training is made of: bf16 matrix products, and attention by every backend at the U-Net's shapes."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from training.bench_rows import Figures, NotRun, median_seconds
from training.nn import xformers_backend
from training.nn.attention import attend, reference_attention
from training.nn.config import UnetConfig

SDPA = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "math": SDPBackend.MATH,
}
BACKENDS = ("xformers", *SDPA, "products", "reference")
REFERENCE_TOKENS = 64  # the readable oracle works query by query: minutes at a real size


def matmul_rate(size: int, device: torch.device) -> Figures:
    """bf16 product of two `size` x `size` matrices."""
    left, right = torch.randn(2, size, size, device=device, dtype=torch.bfloat16)
    seconds, repeats = median_seconds(lambda: left @ right, device, 3, 1.0, 50)
    return {"seconds": seconds, "tflops": 2 * size**3 / seconds / 1e12, "repeats": repeats}


def attention_shapes(config: UnetConfig, views: int, latent_size: int) -> list[tuple[int, int, int]]:
    """(level, tokens of all views, heads) for every level with joint self-attention, the middle block's included."""
    levels = len(config.block_out_channels)
    has = [attends or level == levels - 1 for level, attends in enumerate(config.attention_levels)]
    return [(n, views * (latent_size // 2**n) ** 2, config.num_heads[n]) for n in range(levels) if has[n]]


def forced(backend: str | None) -> AbstractContextManager[Any]:
    """Within it PyTorch's attention takes this backend alone; None leaves the choice to PyTorch."""
    return sdpa_kernel(SDPA[backend]) if backend else nullcontext()


def attention_rate(backend: str, tokens: int, heads: int, width: int, device: torch.device) -> Figures:
    """Forward and backward of one object's joint attention; head width `width`.

    Raises:
        NotRun: the backend does not exist here, or is not made for this size.
    """
    if backend == "reference" and tokens > REFERENCE_TOKENS:
        raise NotRun(f"the readable reference is for tests; {tokens} tokens are more than {REFERENCE_TOKENS}")
    attention = _backend(backend, width, device)
    parts = [torch.randn(1, heads, tokens, width, device=device, dtype=torch.bfloat16, requires_grad=True) for _ in range(3)]
    upstream = torch.randn(1, heads, tokens, width, device=device, dtype=torch.bfloat16)

    def step() -> None:
        torch.autograd.grad(attention(*parts), parts, upstream)

    with forced(backend if backend in SDPA else None):
        seconds, repeats = median_seconds(step, device, 2, 0.5, 20)
    operations = 3.5 * 4 * tokens**2 * heads * width
    return {"seconds": seconds, "tflops": operations / seconds / 1e12, "repeats": repeats}


def _backend(name: str, width: int, device: torch.device) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    if name == "reference":
        return reference_attention
    if name == "products":
        return partial(attend, backend="products")
    if name != "xformers":
        return F.scaled_dot_product_attention
    if (problem := xformers_backend.problem(device, torch.bfloat16, width, "dense")) is not None:
        raise NotRun(problem)
    return xformers_backend.dense
