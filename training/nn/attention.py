"""Attention of the multi-view U-Net: one door to the backends, and the processor that joins the views of an object.

Axis letters: B objects, V views, N tokens of one view, L = V * N, H heads, D head width, C = H * D.
"""

import functools
import importlib.util
import logging
import math

import torch
import torch.nn.functional as F
from diffusers.models.attention_processor import Attention
from torch import Tensor

log = logging.getLogger(__name__)


def reference_attention(query: Tensor, key: Tensor, value: Tensor, key_valid: Tensor | None = None) -> Tensor:
    """Attention written query by query, as an oracle for the fast backends.

    Args:
        query: `[B, H, Lq, D]`; key, value: `[B, H, Lk, D]`.
        key_valid: bool `[B, Lk]`; keys that are False get no weight.
    """
    out = torch.zeros_like(query)
    for b in range(query.shape[0]):
        keep = torch.ones(key.shape[2], dtype=torch.bool) if key_valid is None else key_valid[b].cpu()
        for h in range(query.shape[1]):
            keys, values = key[b, h, keep], value[b, h, keep]
            for i in range(query.shape[2]):
                scores = keys @ query[b, h, i] / math.sqrt(query.shape[3])
                weights = (scores - scores.max()).exp()
                out[b, h, i] = (weights / weights.sum()) @ values
    return out


def attend(query: Tensor, key: Tensor, value: Tensor, key_bias: Tensor | None = None) -> Tensor:
    """softmax(q k^T / sqrt(D) + bias) v for `[B, H, L, D]` tensors.

    `key_bias` is a bool (True = attend) or additive mask that broadcasts to `[B, H, Lq, Lk]`. Masked calls always
    take SDPA: xformers wants its own padded bias layout and no head broadcast.
    """
    if key_bias is None and query.device.type == "cuda" and _xformers_works(query.device, query.dtype, query.shape[-1]):
        from xformers.ops import memory_efficient_attention

        # xformers keeps heads behind tokens: [B, L, H, D]
        joined = memory_efficient_attention(query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2))
        return joined.transpose(1, 2)
    return F.scaled_dot_product_attention(query, key, value, attn_mask=key_bias)


@functools.cache
def _xformers_works(device: torch.device, dtype: torch.dtype, head_dim: int) -> bool:
    """Whether a real tiny call runs and agrees with SDPA; an import alone proves nothing. Says why once."""
    if importlib.util.find_spec("xformers") is None:
        log.info("attention on %s: SDPA (xformers is not installed)", device)
        return False
    try:
        from xformers.ops import memory_efficient_attention

        probe = torch.randn(1, 8, 2, head_dim, device=device, dtype=dtype)
        got = memory_efficient_attention(probe, probe, probe)
        heads_first = probe.transpose(1, 2)
        want = F.scaled_dot_product_attention(heads_first, heads_first, heads_first).transpose(1, 2)
    except Exception as error:  # noqa: BLE001  any failure of a foreign kernel means the same: use SDPA
        log.warning("attention on %s %s: SDPA, because xformers failed: %s: %s", device, dtype, type(error).__name__, error)
        return False
    if not torch.allclose(got.float(), want.float(), atol=2e-2):
        log.warning("attention on %s %s: SDPA, because xformers disagrees with it", device, dtype)
        return False
    log.info("attention on %s %s: xformers", device, dtype)
    return True


class JointViewAttention:
    """diffusers attention processor: self-attention over all views of an object, per-view cross-attention.

    MVDiffusion++ §4.2: every self-attention keeps its weights and only sees a larger set of tokens. The batch axis
    arrives as `(b v)`; `num_views` and `valid` travel through `cross_attention_kwargs`.
    """

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
        num_views: int = 1,
        valid: Tensor | None = None,
    ) -> Tensor:
        """`hidden_states` `[B*V, N, C]`; `attention_mask` additive `[B*V, 1, K]` over tokens; `valid` bool `[B, V]`."""
        views_and_objects, tokens, channels = hidden_states.shape
        if encoder_hidden_states is None:
            context = hidden_states = hidden_states.reshape(-1, num_views * tokens, channels)  # (b v) n c -> b (v n) c
            bias = None if valid is None else valid.repeat_interleave(tokens, 1)[:, None, None, :]
        else:
            context = encoder_hidden_states
            bias = None if attention_mask is None else attention_mask[:, None]
        query, key, value = (
            layer(source).unflatten(-1, (attn.heads, -1)).transpose(1, 2)
            for layer, source in ((attn.to_q, hidden_states), (attn.to_k, context), (attn.to_v, context))
        )
        joined = attend(query, key, value, bias).transpose(1, 2).flatten(2)
        out = attn.to_out[1](attn.to_out[0](joined))
        return out.reshape(views_and_objects, tokens, -1)
