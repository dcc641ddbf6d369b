"""The door to attention: which backend runs and why, and what is handed to xformers.

xformers has no kernel for the CPU, so its place is taken by a stand-in that computes its documented contract
(`[B, M, H, K]`, additive masks, block borders) with einsum; what is under test is our conversion and our choice.
"""

import logging
import sys
import types
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from infra.errors import UserError
from training.nn import attention, xformers_backend
from training.nn.attention import attend, attend_packed, chosen_backend, reference_attention

CALLS: list[str] = []


class Borders:
    """As xformers' BlockDiagonalMask: queries of a block see keys of the same block."""

    def __init__(self, queries: list[int], keys: list[int]) -> None:
        self.queries, self.keys = queries, keys

    @classmethod
    def from_seqlens(cls, q_seqlen: list[int], kv_seqlen: list[int] | None = None) -> "Borders":
        return cls(list(q_seqlen), list(kv_seqlen or q_seqlen))


def einsum_attention(query: Tensor, key: Tensor, value: Tensor, attn_bias: Tensor | Borders | None = None) -> Tensor:
    scores = torch.einsum("bmhk,bnhk->bhmn", query, key) / query.shape[-1] ** 0.5
    if isinstance(attn_bias, Borders):
        assert query.shape[:2] == (1, sum(attn_bias.queries)) and key.shape[:2] == (1, sum(attn_bias.keys))
        of_query = torch.arange(len(attn_bias.queries)).repeat_interleave(torch.tensor(attn_bias.queries))
        of_key = torch.arange(len(attn_bias.keys)).repeat_interleave(torch.tensor(attn_bias.keys))
        scores = scores.masked_fill(of_query[:, None] != of_key[None], float("-inf"))
    elif attn_bias is not None:
        assert attn_bias.shape == scores.shape and attn_bias.dtype == query.dtype
        assert attn_bias.stride(-1) == 1 and attn_bias.stride(-2) % 8 == 0
        scores = scores + attn_bias
    CALLS.append(type(attn_bias).__name__)
    return torch.einsum("bhmn,bnhk->bmhk", scores.softmax(-1), value)


def missing_operator(*args: object, **options: object) -> Tensor:
    raise NotImplementedError("No operator found for `memory_efficient_attention_forward`")


def forward_only(query: Tensor, *args: object, **options: object) -> Tensor:
    return einsum_attention(query.detach(), *(a.detach() for a in args), **options)


def wrong_scale(query: Tensor, key: Tensor, value: Tensor, attn_bias: object = None) -> Tensor:
    return einsum_attention(query * 3, key, value, attn_bias)


def heads_first(query: Tensor, key: Tensor, value: Tensor, attn_bias: object = None) -> Tensor:
    """A kernel with our layout in xformers' place: what a mistaken transposition looks like."""
    return einsum_attention(query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2)).transpose(1, 2)


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Iterator:
    def put(kernel) -> None:
        modules = {
            name: types.ModuleType(name) for name in ("xformers", "xformers.ops", "xformers.ops.fmha", "xformers.ops.fmha.attn_bias")
        }
        modules["xformers.ops"].memory_efficient_attention = kernel
        modules["xformers.ops.fmha.attn_bias"].BlockDiagonalMask = Borders
        for name, module in modules.items():
            monkeypatch.setitem(sys.modules, name, module)
        attention.asked_once.cache_clear()
        CALLS.clear()

    monkeypatch.delenv(attention.SWITCH, raising=False)
    attention.asked_once.cache_clear()
    yield put
    attention.asked_once.cache_clear()


def tensors(queries: int = 5, keys: int = 7) -> list[Tensor]:
    torch.manual_seed(3)
    return [torch.randn(2, 3, n, 8, requires_grad=True) for n in (queries, keys, keys)]


def biases() -> dict[str, Tensor | None]:
    torch.manual_seed(4)
    return {
        "none": None,
        "keys": torch.tensor([[True] * 7, [True, False] * 3 + [True]])[:, None, None],
        "additive per key": torch.randn(2, 1, 1, 7),
        "bool per head": torch.rand(1, 3, 5, 7) > 0.3,
        "additive full": torch.randn(2, 3, 5, 7),
    }


@pytest.mark.parametrize("backend", ["sdpa", "xformers", "products", "reference"])
@pytest.mark.parametrize("name", biases())
def test_every_backend_gives_the_loops_result_and_gradients(install, backend: str, name: str) -> None:
    install(einsum_attention)
    bias, inputs = biases()[name], tensors()
    got, want = attend(*inputs, bias, backend=backend), reference_attention(*inputs, bias=bias)
    torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-5)
    slopes = [torch.autograd.grad(result.square().sum(), inputs) for result in (got, want)]
    for a, b in zip(*slopes, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)
    if backend == "xformers":
        assert CALLS[-1] == {"none": "NoneType", "keys": "Borders"}.get(name, "Tensor")


@pytest.mark.parametrize("backend", ["sdpa", "xformers", "products", "reference"])
def test_packed_sequences_equal_each_sequence_alone(install, backend: str) -> None:
    install(einsum_attention)
    torch.manual_seed(5)
    lengths = [4, 2, 4, 3]
    inputs = [torch.randn(13, 2, 8, requires_grad=True) for _ in range(3)]
    got = attend_packed(*inputs, lengths, backend=backend)
    alone = [
        reference_attention(*(t[None].transpose(1, 2) for t in part))[0].transpose(0, 1)
        for part in zip(*(t.split(lengths) for t in inputs), strict=True)
    ]
    want = torch.cat(alone)
    torch.testing.assert_close(got, want, atol=1e-6, rtol=1e-5)
    slopes = [torch.autograd.grad(result.square().sum(), inputs) for result in (got, want)]
    for a, b in zip(*slopes, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


def test_a_missing_package_means_sdpa_and_is_said_once(install, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "xformers", None)  # as if it were not installed, wherever this runs
    with caplog.at_level(logging.INFO, attention.__name__):
        assert [chosen_backend(None, tensors()[0], "dense") for _ in range(3)] == ["sdpa"] * 3
    assert [record.getMessage() for record in caplog.records] == [
        "dense attention on cpu torch.float32, head width 8: SDPA (xformers is not installed)"
    ]
    with pytest.raises(UserError, match="not installed"):
        attend(*tensors(), backend="xformers")


@pytest.mark.parametrize(
    ("kernel", "reason"),
    [
        (missing_operator, "NotImplementedError: No operator found"),
        (forward_only, "RuntimeError"),
        (wrong_scale, "disagrees"),
        (heads_first, "disagrees"),
    ],
)
def test_a_kernel_that_does_not_work_is_not_used(install, kernel, reason: str, caplog: pytest.LogCaptureFixture) -> None:
    install(kernel)
    with caplog.at_level(logging.WARNING, attention.__name__):
        torch.testing.assert_close(attend(*tensors()), reference_attention(*tensors()), atol=1e-6, rtol=1e-5)
        attend(*tensors())
    assert len(caplog.records) == 1 and reason in caplog.text and "SDPA" in caplog.text


def test_a_broken_library_is_named(install, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    install(einsum_attention)
    monkeypatch.setitem(sys.modules, "xformers.ops", None)
    with caplog.at_level(logging.WARNING, attention.__name__):
        assert chosen_backend("auto", tensors()[0], "dense") == "sdpa"
    assert "xformers cannot be imported" in caplog.text


def test_a_working_kernel_is_used_and_asked_once(install) -> None:
    install(einsum_attention)
    assert chosen_backend("auto", tensors()[0], "dense") == "xformers"
    probing = len(CALLS)
    attend(*tensors())
    attend(*tensors())
    assert len(CALLS) == probing + 2


def test_asking_leaves_random_numbers_alone_and_works_under_inference_mode(install) -> None:
    install(einsum_attention)
    torch.manual_seed(0)
    before = torch.get_rng_state()
    with torch.inference_mode():
        assert all(xformers_backend.problem(torch.device("cpu"), torch.bfloat16, 8, kind) is None for kind in xformers_backend.KINDS)
    assert torch.equal(before, torch.get_rng_state())


def test_the_switch(install, monkeypatch: pytest.MonkeyPatch) -> None:
    install(einsum_attention)
    monkeypatch.setenv(attention.SWITCH, "sdpa")
    assert chosen_backend(None, tensors()[0], "dense") == "sdpa"
    assert chosen_backend("reference", tensors()[0], "dense") == "reference"  # an argument wins
    monkeypatch.setenv(attention.SWITCH, "flashy")
    with pytest.raises(UserError, match="flashy"):
        attend(*tensors())


def test_training_in_bf16_on_a_cpu_writes_the_products_out() -> None:
    torch.manual_seed(3)
    inputs = [torch.randn(2, 2, 12, 16, requires_grad=True) for _ in range(3)]
    halves = [t.to(torch.bfloat16) for t in inputs]
    assert chosen_backend("auto", halves[0], "dense") == "products"
    assert chosen_backend("auto", inputs[0], "dense") == chosen_backend("auto", halves[0].detach(), "dense") == "sdpa"
    got, want = attend(*halves), reference_attention(*inputs)
    torch.testing.assert_close(got.float(), want, atol=2e-2, rtol=2e-2)
    fast = torch.autograd.grad(got.float().square().sum(), inputs)
    slow = torch.autograd.grad(want.square().sum(), inputs)
    for a, b in zip(fast, slow, strict=True):
        torch.testing.assert_close(a, b, atol=5e-2, rtol=5e-2)
