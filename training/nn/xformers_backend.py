"""xformers' memory-efficient attention behind our layout, and the tiny call that decides whether it may be used.

xformers keeps heads behind tokens (`[B, L, H, D]`; ours is `[B, H, L, D]`), wants additive masks without broadcasting
whose rows start at multiples of 8 elements, and offers sequences of unequal length as one long sequence with block
borders. Its kernels need a GPU; on the CPU these conversions are tested with a stand-in for the kernel alone.
"""

import importlib
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

KINDS = ("dense", "bias", "keys", "packed")
NOT_INSTALLED = "xformers is not installed"
ROW_ALIGNMENT = 8
TOLERANCE = 2e-2  # half precision


def dense(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None = None) -> Tensor:
    """`[B, H, L, D]` in and out; `bias` broadcasts to `[B, H, Lq, Lk]`, bool or additive."""
    from xformers.ops import memory_efficient_attention

    mask = None if bias is None else aligned_bias(bias, query, key.shape[2])
    joined = memory_efficient_attention(query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2), attn_bias=mask)
    return joined.transpose(1, 2)


def with_valid_keys(query: Tensor, key: Tensor, value: Tensor, valid: Tensor) -> Tensor:
    """`[B, H, L, D]` in and out; keys where `valid` `[B, Lk]` is False are left out instead of masked."""
    from xformers.ops import memory_efficient_attention
    from xformers.ops.fmha.attn_bias import BlockDiagonalMask

    rows, queries = query.shape[0], query.shape[2]
    borders = BlockDiagonalMask.from_seqlens([queries] * rows, valid.sum(1).tolist())
    kept = [tensor.transpose(1, 2)[valid][None] for tensor in (key, value)]
    joined = memory_efficient_attention(query.transpose(1, 2).flatten(0, 1)[None], kept[0], kept[1], attn_bias=borders)
    return joined[0].unflatten(0, (rows, queries)).transpose(1, 2)


def packed(query: Tensor, key: Tensor, value: Tensor, lengths: Sequence[int]) -> Tensor:
    """`[T, H, D]` in and out: self-attention inside each of the consecutive stretches of `lengths` tokens."""
    from xformers.ops import memory_efficient_attention
    from xformers.ops.fmha.attn_bias import BlockDiagonalMask

    borders = BlockDiagonalMask.from_seqlens(list(lengths))
    return memory_efficient_attention(query[None], key[None], value[None], attn_bias=borders)[0]


def additive(bias: Tensor, dtype: torch.dtype) -> Tensor:
    """A bool mask as 0 and -inf; an additive one in `dtype`."""
    if bias.dtype == torch.bool:
        return torch.zeros(bias.shape, dtype=dtype, device=bias.device).masked_fill(~bias, float("-inf"))
    return bias.to(dtype)


def aligned_bias(bias: Tensor, query: Tensor, keys: int) -> Tensor:
    """`[B, H, Lq, Lk]` additive, in `query`'s dtype, a view into memory whose rows are padded to multiples of 8."""
    shape = (*query.shape[:3], keys)
    padded = query.new_zeros(*shape[:3], -(-keys // ROW_ALIGNMENT) * ROW_ALIGNMENT)
    rows = padded[..., :keys]
    rows.copy_(additive(bias, query.dtype).expand(shape))
    return rows


def problem(device: torch.device, dtype: torch.dtype, head_dim: int, kind: str) -> str | None:
    """Why such calls cannot go to xformers; None when a tiny one and its gradients agree with SDPA. An import proves nothing."""
    try:
        importlib.import_module("xformers")
        importlib.import_module("xformers.ops")
    except ModuleNotFoundError as error:
        return NOT_INSTALLED if error.name == "xformers" else f"xformers cannot be imported: {error}"
    except Exception as error:  # noqa: BLE001  a foreign library that breaks while loading is one that is not used
        return f"xformers cannot be imported: {type(error).__name__}: {error}"
    if device.type == "meta":
        return "tensors without values"
    # Random numbers of its own: asking must not move the training's random state.
    generator = torch.Generator(device).manual_seed(0)
    with torch.inference_mode(False), torch.enable_grad(), torch.autocast(device.type, enabled=False):
        q, k, v = (torch.randn(2, 2, 8, head_dim, device=device, generator=generator).to(dtype).requires_grad_() for _ in range(3))
        try:
            pairs = _both_ways(q, k, v, kind)
        except Exception as error:  # noqa: BLE001  any failure of a foreign kernel means the same: it is not used
            return f"xformers failed: {type(error).__name__}: {error}"
    agree = all(torch.allclose(got.float(), want.float(), atol=TOLERANCE, rtol=TOLERANCE) for got, want in pairs)
    return None if agree else "xformers disagrees with SDPA"


def _both_ways(query: Tensor, key: Tensor, value: Tensor, kind: str) -> list[tuple[Tensor, Tensor]]:
    """(xformers', SDPA's) result and gradients of one call of this kind."""
    valid = torch.arange(8, device=query.device) < torch.tensor([[8], [5]], device=query.device)
    if kind == "dense":
        got, want = dense(query, key, value), F.scaled_dot_product_attention(query, key, value)
    elif kind == "bias":
        slope = torch.linspace(-1, 1, 8, device=query.device, dtype=query.dtype)[None, None, None]
        got, want = dense(query, key, value, slope), F.scaled_dot_product_attention(query, key, value, attn_mask=slope)
    elif kind == "keys":
        got = with_valid_keys(query, key, value, valid)
        want = F.scaled_dot_product_attention(query, key, value, attn_mask=valid[:, None, None])
    else:
        rows = [tensor[0].transpose(0, 1) for tensor in (query, key, value)]
        got = packed(rows[0], rows[1], rows[2], [3, 5])
        parts = [tensor[:1].split([3, 5], 2) for tensor in (query, key, value)]
        alone = [F.scaled_dot_product_attention(*(part[i] for part in parts)) for i in (0, 1)]
        want = torch.cat(alone, 2)[0].transpose(0, 1)
    slopes = [torch.autograd.grad(result.float().square().sum(), (query, key, value)) for result in (got, want)]
    return [(got, want), *zip(*slopes, strict=True)]
