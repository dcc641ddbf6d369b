"""The one door to attention: xformers where it works, else PyTorch's SDPA, and a slow reference as oracle.

On a CPU, training in bf16 writes the matrix products out, because SDPA's flash kernel is slow at it: forward and backward of
528 tokens take about twice as long (`python -m training.bench --rows 'attention*'`, docs/benchmarks.md).

Axis letters: B sequences, H heads, D head width, Lq and Lk tokens, T tokens of all sequences of a packed call.
"""

import functools
import logging
import math
import os
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from infra.errors import UserError
from training.nn import xformers_backend

log = logging.getLogger(__name__)

BACKENDS = ("auto", "xformers", "sdpa", "products", "reference")
SWITCH = "MVFORGE_ATTENTION"  # environment variable; an explicit argument wins over it


def attend(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None = None, backend: str | None = None) -> Tensor:
    """softmax(q k^T / sqrt(D) + bias) v.

    Args:
        query: `[B, H, Lq, D]`; key, value: `[B, H, Lk, D]`.
        bias: bool (True = attend) or additive mask that broadcasts to `[B, H, Lq, Lk]`.
        backend: one of `BACKENDS`; None reads the environment variable `MVFORGE_ATTENTION`, `auto` when unset.

    Raises:
        UserError: unknown backend, or xformers is demanded and does not work here.
    """
    kind = "dense" if bias is None else "keys" if _masks_keys(bias) else "bias"
    chosen = chosen_backend(backend, query, kind)
    if chosen == "reference":
        return reference_attention(query, key, value, bias=bias)
    if chosen == "xformers":
        if bias is not None and _masks_keys(bias):
            return xformers_backend.with_valid_keys(query, key, value, bias[:, 0, 0, :].expand(len(query), -1))
        return xformers_backend.dense(query, key, value, bias)
    if chosen == "products" and bias is None:
        return torch.softmax((query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2), -1) @ value
    return F.scaled_dot_product_attention(query, key, value, attn_mask=bias)


def attend_packed(query: Tensor, key: Tensor, value: Tensor, lengths: Sequence[int], backend: str | None = None) -> Tensor:
    """Self-attention of sequences that lie one behind the other, each over its own tokens only; no padding anywhere.

    xformers does it in one call. SDPA does one batched call per distinct length.

    Args:
        query, key, value: `[T, H, D]`.
        lengths: tokens of each sequence; their sum is T.
        backend: as in `attend`.
    """
    chosen = chosen_backend(backend, query, "packed")
    if chosen == "xformers":
        return xformers_backend.packed(query, key, value, lengths)
    pieces = [tensor.split(list(lengths)) for tensor in (query, key, value)]
    results: dict[int, Tensor] = {}
    for length in dict.fromkeys(lengths):
        members = [i for i, other in enumerate(lengths) if other == length]
        batch = [torch.stack([piece[i] for i in members]).transpose(1, 2) for piece in pieces]  # [members, H, length, D]
        joined = attend(batch[0], batch[1], batch[2], backend=chosen).transpose(1, 2)
        results |= dict(zip(members, joined.unbind(0), strict=True))
    return torch.cat([results[i] for i in range(len(lengths))])


def reference_attention(query: Tensor, key: Tensor, value: Tensor, key_valid: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
    """Attention written query by query, as an oracle for the fast backends.

    Args:
        query: `[B, H, Lq, D]`; key, value: `[B, H, Lk, D]`.
        key_valid: bool `[B, Lk]`; keys that are False get no weight.
        bias: as in `attend`.
    """
    shape = (*query.shape[:3], key.shape[2])
    every = torch.zeros(shape, dtype=query.dtype, device=query.device)
    if bias is not None:
        every = every + xformers_backend.additive(bias, query.dtype)
    rows = []
    for b in range(shape[0]):
        keep = torch.ones(shape[3], dtype=torch.bool, device=query.device) if key_valid is None else key_valid[b].to(query.device)
        for h in range(shape[1]):
            keys, values = key[b, h, keep], value[b, h, keep]
            for i in range(shape[2]):
                scores = keys @ query[b, h, i] / math.sqrt(query.shape[3]) + every[b, h, i, keep]
                weights = (scores - scores.max()).exp()
                rows.append((weights / weights.sum()) @ values)
    return torch.stack(rows).reshape(query.shape)


def chosen_backend(backend: str | None, query: Tensor, kind: str) -> str:
    """What a call of this kind (`xformers_backend.KINDS`) on tensors like `query` takes: one of `BACKENDS` but `auto`."""
    name = backend or os.environ.get(SWITCH) or "auto"
    if name not in BACKENDS:
        raise UserError(f"there is no attention backend '{name}'", f"use one of {', '.join(BACKENDS)}")
    if name in ("sdpa", "products", "reference"):
        return name
    if name == "auto" and query.device.type == "cpu" and query.dtype == torch.bfloat16 and query.requires_grad:
        return "products"
    problem = xformers_problem(query.device, query.dtype, query.shape[-1], kind)
    if problem is None:
        return "xformers"
    if name == "xformers":
        raise UserError(f"xformers cannot do {kind} attention on {query.device} in {query.dtype}: {problem}", "use sdpa or auto")
    return "sdpa"


@torch.compiler.assume_constant_result  # the compiler takes the answer and does not look inside
def xformers_problem(device: torch.device, dtype: torch.dtype, head_dim: int, kind: str) -> str | None:
    """Why xformers is not used for such calls, or None when its tiny call ran and agreed with SDPA; asked and logged once."""
    return asked_once(device, dtype, head_dim, kind)


@functools.cache
def asked_once(device: torch.device, dtype: torch.dtype, head_dim: int, kind: str) -> str | None:
    problem = xformers_backend.problem(device, dtype, head_dim, kind)
    used = "xformers" if problem is None else f"SDPA ({problem})"
    # A missing package is a plain choice, a broken one deserves attention.
    level = logging.INFO if problem in (None, xformers_backend.NOT_INSTALLED) else logging.WARNING
    log.log(level, "%s attention on %s %s, head width %d: %s", kind, device, dtype, head_dim, used)
    return problem


def _masks_keys(bias: Tensor) -> bool:
    return bias.dtype == torch.bool and bias.ndim == 4 and bias.shape[1:3] == (1, 1)
