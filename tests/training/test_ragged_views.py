"""Objects with unequal view counts in one batch: each as if alone, whatever the padding holds, and padding costs nothing."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from tests.training.test_unet import _inputs, _module
from training.nn.unet import MultiViewUNet
from training.nn.view_attention import view_groups

COUNTS = (1, 3, 1)  # conditions per object, padded in front as `collate` does
TARGETS = 2


def _ragged() -> dict[str, torch.Tensor]:
    most = max(COUNTS)
    inputs = _inputs(len(COUNTS), most, TARGETS)
    inputs["token_valid"] = torch.arange(most) >= most - torch.tensor(COUNTS)[:, None]
    inputs["valid"] = torch.cat([inputs["token_valid"], torch.ones(len(COUNTS), TARGETS, dtype=torch.bool)], 1)
    return inputs


def _alone(inputs: dict[str, torch.Tensor], b: int) -> dict[str, torch.Tensor]:
    first = max(COUNTS) - COUNTS[b]
    own = {name: inputs[name][b : b + 1, first:] for name in ("noisy", "condition_latents", "is_condition", "slots", "image_tokens")}
    return own | {"timesteps": inputs["timesteps"][b : b + 1]}


def _loss(module: MultiViewUNet, inputs: dict[str, torch.Tensor]) -> tuple[list[torch.Tensor], dict[str, torch.Tensor]]:
    """Predictions of the real views of each object, and the gradients of the sum of their squares."""
    module.zero_grad()
    if "valid" in inputs:
        every = module(**inputs)
        results = [every[b, max(COUNTS) - count :] for b, count in enumerate(COUNTS)]
    else:
        results = [module(**_alone(_ragged(), b))[0] for b in range(len(COUNTS))]
    sum(result.square().sum() for result in results).backward()
    return [r.detach() for r in results], {name: p.grad.clone() for name, p in module.named_parameters()}


@pytest.mark.parametrize("ragged", ["packed", "masked"])
@pytest.mark.parametrize("poison", [None, float("nan"), 1e30])
def test_each_object_is_as_if_alone(ragged: str, poison: float | None) -> None:
    module, inputs = _module(ragged=ragged), _ragged()
    module.view_scale.data.fill_(0.7)
    if poison is not None:
        for name in ("noisy", "condition_latents"):
            inputs[name][~inputs["valid"]] = poison
        inputs["image_tokens"][~inputs["token_valid"]] = poison
    want, want_grads = _loss(module, {})
    got, got_grads = _loss(module, inputs)
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)
    for name, grad in want_grads.items():
        scale = float(grad.abs().max()) + 1e-6
        torch.testing.assert_close(got_grads[name] / scale, grad / scale, atol=1e-5, rtol=1e-4, msg=name)


@torch.no_grad()
def test_padded_views_are_not_computed_when_packed() -> None:
    inputs = _ragged()
    real, every = int(inputs["valid"].sum()), inputs["valid"].numel()
    seen = {}
    for ragged in ("packed", "masked"):
        module = _module(ragged=ragged)
        module.unet.conv_in.register_forward_hook(lambda m, i, out, name=ragged: seen.update({name: len(out)}))
        with FlopCounterMode(display=False) as counter:
            out = module(**inputs)
        convolutions = counter.get_flop_counts()["Global"][torch.ops.aten.convolution]
        seen[f"{ragged} flops"] = convolutions
        assert torch.isfinite(out).all()
    assert (seen["packed"], seen["masked"]) == (real, every)
    assert seen["packed flops"] * every == seen["masked flops"] * real
    assert not _module()(**inputs)[~inputs["valid"]].any()


@torch.no_grad()
def test_equal_counts_are_one_call_whether_or_not_marked_valid() -> None:
    module, inputs = _module(), _inputs()
    everything = torch.ones(2, 4, dtype=torch.bool)
    assert torch.equal(module(**inputs), module(**inputs, valid=everything))


def _seen_by(module: MultiViewUNet, inputs: dict[str, torch.Tensor], views: int) -> list[list[int]]:
    """For each view, which views' latents change its prediction."""
    with torch.no_grad():
        base = module(**inputs)[0]
        changed = []
        for source in range(views):
            noisy = inputs["noisy"].clone()
            noisy[0, source] += 1.0
            difference = (module(**inputs | {"noisy": noisy})[0] - base).abs().amax((1, 2, 3))
            changed.append(difference > 1e-6)
    return [[s for s in range(views) if changed[s][view]] for view in range(views)]


def test_ring_views_look_at_neighbours_and_conditions() -> None:
    def neighbours(is_condition: list[bool]) -> list[list[int]]:
        groups = view_groups("ring", [is_condition], torch.device("cpu"))
        told: dict[int, list[int]] = {}
        for asking, looked_at in groups.tables:
            for views, seen in zip(asking.tolist(), looked_at.tolist(), strict=True):
                told |= {view: sorted(seen) for view in views}
        return [told[view] for view in sorted(told)]

    assert neighbours([True, True, False, False, False, False]) == [
        [0, 1],
        [0, 1],
        [0, 1, 2, 3, 5],
        [0, 1, 2, 3, 4],
        [0, 1, 3, 4, 5],
        [0, 1, 2, 4, 5],
    ]
    assert neighbours([True, False, False]) == [[0], [0, 1, 2], [0, 1, 2]]
    assert neighbours([True, False]) == [[0], [0, 1]]


def test_what_each_kind_of_cross_view_attention_lets_through() -> None:
    one_layer = {"attention_levels": (False, True), "num_heads": (2, 4)}
    inputs = _inputs(1, 1, 5)
    assert _seen_by(_module(cross_view="none", **one_layer), inputs, 6) == [[view] for view in range(6)]
    assert _seen_by(_module(cross_view="global", **one_layer), inputs, 6) == [list(range(6))] * 6
    ring = _seen_by(_module(cross_view="ring", **one_layer), inputs, 6)
    assert ring[0] == [0] and all(0 in seen for seen in ring)


@torch.no_grad()
def test_ring_in_a_ragged_batch_is_each_object_alone_and_global_for_three_made_views() -> None:
    module, inputs = _module(cross_view="ring"), _ragged()
    out = module(**inputs)
    for b, count in enumerate(COUNTS):
        torch.testing.assert_close(out[b, max(COUNTS) - count :], module(**_alone(inputs, b))[0], atol=1e-5, rtol=1e-5)
    # Without condition views, three views on a ring are all each other's neighbours.
    three = _inputs(2, 0, 3) | {"image_tokens": torch.randn(2, 1, 12)}
    torch.testing.assert_close(module(**three), _module(cross_view="global")(**three), atol=1e-5, rtol=1e-5)
