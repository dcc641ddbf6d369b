"""The gate's decision alone: who becomes champion, who does not, and why."""

import math
from dataclasses import replace

import pytest

from evaluation.gate_rule import KEPT, PROMOTED, REFUSED, Figure, GateConfig, decide
from evaluation.statistics import paired

A = Figure("a", "default/set/1-view", 20.0)
B = Figure("b", "default/set/1-view", 21.0)


def against(*differences: float) -> dict:
    """The paired difference of a challenger whose figures lie so far from the champion's."""
    champion = {f"o{n}": 20.0 + n for n in range(len(differences))}
    return paired(champion, {uid: champion[uid] + d for uid, d in zip(champion, differences, strict=True)})


SURELY_HIGHER = against(0.9, 1.1, 1.0, 0.8, 1.2, 1.0)
SURELY_LOWER = against(-0.9, -1.1, -1.0, -0.8, -1.2, -1.0)
NOISE = against(3.0, -2.5, 2.0, -1.0, 1.5, -2.0)


@pytest.mark.parametrize(
    ("challenger", "champion", "difference", "expected", "said"),
    [
        (B, None, None, PROMOTED, "there was no champion"),
        (B, A, SURELY_HIGHER, PROMOTED, "better"),
        (B, A, SURELY_LOWER, KEPT, "worse"),
        # A higher mean alone is not enough: the interval must leave zero out.
        (B, A, NOISE, KEPT, "no difference that is sure"),
        (B, A, against(0, 0, 0, 0, 0, 0), KEPT, "no difference that is sure"),
        (B, A, against(1.0, 1.1, 0.9), KEPT, "too few objects"),
        (replace(B, uri="a"), A, None, KEPT, "already"),
        # Figures of another basis, or none at all.
        (B, replace(A, basis="default/other/1-view"), SURELY_HIGHER, KEPT, "cannot be compared"),
        (B, replace(A, value=None, why_not="sizes differ"), None, KEPT, "sizes differ"),
        # Neither may have trained on the evaluation set, and both must tell.
        (replace(B, seen=1), None, None, REFUSED, "trained on 1 objects"),
        (replace(B, seen=None), A, SURELY_HIGHER, REFUSED, "not known"),
        (B, replace(A, seen=3), SURELY_HIGHER, KEPT, "trained on 3 objects"),
        (B, replace(A, seen=None), SURELY_HIGHER, KEPT, "not known"),
        # A mean over fewer objects is not better; one over more may be.
        (replace(B, missing=2), replace(A, missing=1), SURELY_HIGHER, KEPT, "more objects out"),
        (replace(B, missing=1), replace(A, missing=2), SURELY_HIGHER, PROMOTED, "better"),
        (replace(B, value=math.nan), A, SURELY_HIGHER, REFUSED, "no finite"),
        (replace(B, value=None, why_not="no mask"), None, None, REFUSED, "no mask"),
        (replace(B, withdrawn="2026-01-01: bad texture"), A, SURELY_HIGHER, REFUSED, "bad texture"),
    ],
)
def test_rule(challenger: Figure, champion: Figure | None, difference: dict | None, expected: str, said: str) -> None:
    decision, reason = decide(GateConfig(), challenger, champion, difference)
    assert decision == expected and said in reason
    assert challenger.uri in reason or (champion and champion.uri in reason)


@pytest.mark.parametrize(("value", "expected"), [(20.0, PROMOTED), (20.1, PROMOTED), (19.9, REFUSED), (math.inf, REFUSED)])
def test_the_first_needs_the_floor(value: float, expected: str) -> None:
    assert decide(GateConfig(minimum=20.0), replace(B, value=value), None)[0] == expected


def test_the_floor_is_asked_of_the_first_alone() -> None:
    assert decide(GateConfig(minimum=50.0), B, A, SURELY_HIGHER)[0] == PROMOTED


def test_lower_is_better_for_distances() -> None:
    chamfer = GateConfig(metric="chamfer", minimum=0.05)
    near, far = Figure("b", "x", 0.01), Figure("b", "x", 0.06)
    assert decide(chamfer, near, Figure("a", "x", 0.02), SURELY_LOWER)[0] == PROMOTED
    decision, reason = decide(chamfer, far, Figure("a", "x", 0.02), SURELY_HIGHER)
    assert decision == KEPT and reason.startswith("worse")
    assert decide(chamfer, far, None)[0] == REFUSED and decide(chamfer, near, None)[0] == PROMOTED


def test_the_reason_holds_the_figures() -> None:
    reason = decide(GateConfig(), B, A, SURELY_HIGHER)[1]
    assert "21.0000 against 20.0000 of a on default/set/1-view" in reason and "+1.0000" in reason and "over 6 objects" in reason


def test_fewer_objects_may_be_allowed_but_one_tells_nothing() -> None:
    lax = GateConfig(min_objects=1)
    assert decide(lax, B, A, against(1.0, 1.1, 0.9, 1.0))[0] == PROMOTED
    assert decide(lax, B, A, against(5.0))[0] == KEPT
