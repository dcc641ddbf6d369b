"""Joint attention: against a loop written query by query, and against each object on its own."""

import pytest
import torch
from diffusers.models.attention_processor import Attention, AttnProcessor2_0

from training.nn.attention import attend, reference_attention
from training.nn.view_attention import JointViewAttention, view_groups


def _attention(cross_dim: int | None = None) -> Attention:
    torch.manual_seed(0)
    return Attention(query_dim=16, cross_attention_dim=cross_dim, heads=2, dim_head=8, processor=JointViewAttention())


@pytest.mark.parametrize("masked", [False, True])
def test_sdpa_equals_the_loop(masked: bool) -> None:
    torch.manual_seed(1)
    query, key, value = torch.randn(2, 3, 5, 8), torch.randn(2, 3, 7, 8), torch.randn(2, 3, 7, 8)
    valid = torch.tensor([[True] * 7, [True] * 3 + [False] * 4]) if masked else None
    got = attend(query, key, value, None if valid is None else valid[:, None, None, :])
    torch.testing.assert_close(got, reference_attention(query, key, value, valid), atol=1e-6, rtol=1e-5)


def test_gradients_equal_the_loop() -> None:
    torch.manual_seed(2)
    inputs = [torch.randn(1, 2, 4, 8, requires_grad=True) for _ in range(3)]
    valid = torch.tensor([[True, True, False, True]])
    fast = torch.autograd.grad(attend(*inputs, valid[:, None, None, :]).square().sum(), inputs)
    slow = torch.autograd.grad(reference_attention(*inputs, valid).square().sum(), inputs)
    for a, b in zip(fast, slow, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


def test_views_are_joined_as_one_sequence() -> None:
    """All tokens of an object's views are one sequence; tokens of another object stay out of it."""
    layer = _attention()
    tokens = torch.randn(6, 4, 16)  # 2 objects x 3 views x 4 tokens
    joint = layer(tokens, num_views=3)
    for b in range(2):
        own = tokens[3 * b : 3 * b + 3].reshape(1, 12, 16)
        query, key, value = (f(own).reshape(1, 12, 2, 8).transpose(1, 2) for f in (layer.to_q, layer.to_k, layer.to_v))
        loop = layer.to_out[0](reference_attention(query, key, value).transpose(1, 2).reshape(1, 12, 16)).reshape(3, 4, 16)
        torch.testing.assert_close(joint[3 * b : 3 * b + 3], loop, atol=1e-6, rtol=1e-5)


def test_one_view_equals_diffusers_own_processor() -> None:
    layer, tokens = _attention(), torch.randn(3, 4, 16)
    joint = layer(tokens, num_views=1)
    layer.set_processor(AttnProcessor2_0())
    torch.testing.assert_close(joint, layer(tokens), atol=1e-6, rtol=1e-5)


def test_padded_views_change_nothing() -> None:
    layer = _attention()
    tokens = torch.randn(2 * 3, 4, 16)
    valid = torch.tensor([[True, True, True], [False, True, True]])
    masked = layer(tokens, num_views=3, valid=valid).unflatten(0, (2, 3))
    alone = layer(tokens[4:], num_views=2)
    torch.testing.assert_close(masked[1, 1:], alone, atol=1e-6, rtol=1e-5)
    assert not torch.allclose(layer(tokens, num_views=3).unflatten(0, (2, 3))[1, 1:], alone, atol=1e-3)
    torch.testing.assert_close(masked[0], layer(tokens[:3], num_views=3), atol=1e-6, rtol=1e-5)


def test_cross_attention_stays_per_view_and_skips_padded_tokens() -> None:
    layer = _attention(cross_dim=12)
    tokens, words = torch.randn(4, 5, 16), torch.randn(4, 3, 12)
    bias = torch.zeros(4, 1, 3)
    bias[..., 2] = -10000.0
    got = layer(tokens, words, attention_mask=bias, num_views=2)
    layer.set_processor(AttnProcessor2_0())
    torch.testing.assert_close(got, layer(tokens, words[:, :2]), atol=1e-6, rtol=1e-5)


def test_the_compiler_takes_it_in_one_piece() -> None:
    """Choosing a backend must not cut the compiled graph: 32 layers would become 32 graphs."""
    layer, tokens = _attention(), torch.randn(6, 4, 16)
    compiled = torch.compile(layer, backend="eager", fullgraph=True)
    for flags in ([[False] * 3] * 2, [[False] * 2, [False] * 4]):
        groups = view_groups("global", flags, tokens.device)
        torch.testing.assert_close(compiled(tokens, groups=groups), layer(tokens, groups=groups))
