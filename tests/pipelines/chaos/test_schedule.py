"""What is planned: evenly over the kinds, where each can happen, the same for the same seed."""

from collections import Counter

import pytest

from pipelines.chaos.faults import KINDS
from pipelines.chaos.schedule import most_in, plan

STEPS = [
    *("catalog", "fetch", "render", "curate", "train.mvae", "encode", "train.unet1", "train.unet2", "train.unet3"),
    *("register", "generate", "reconstruct", "score", "gate", "report"),
]


@pytest.mark.parametrize("number", range(5))
def test_a_plan_is_even_possible_and_in_order(number: int):
    planned = plan(3, number, STEPS, list(KINDS), Counter(), 20)
    assert len(planned) == 20 and set(Counter(each.kind for each in planned).values()) <= {1, 2}
    assert {each.kind for each in planned} == set(KINDS)
    assert [STEPS.index(each.step) for each in planned] == sorted(STEPS.index(each.step) for each in planned)
    assert all(count <= most_in(step) for step, count in Counter(each.step for each in planned).items())
    for each in planned:
        if each.kind == "blender":
            assert each.step == "render"
        if each.kind in ("train_worker", "train_controller", "truncated_checkpoint"):
            assert each.step.startswith("train.")
        assert 0 <= each.work <= 0.75 and 0 <= each.delay < 1 and each.step not in ("catalog", "gate")


def test_the_seed_decides():
    one, same, other = (plan(seed, 1, STEPS, list(KINDS), Counter(), 20) for seed in (0, 0, 1))
    assert one == same != other


def test_kinds_that_were_missed_come_first():
    done = Counter({kind: 3 for kind in KINDS} | {"blender": 1, "actor": 2})
    kinds = Counter(each.kind for each in plan(0, 9, STEPS, list(KINDS), done, 3))
    assert kinds == {"blender": 2, "actor": 1}


def test_nothing_is_planned_where_nothing_can_happen():
    assert plan(0, 1, ["catalog"], ["blender", "train_worker"], Counter(), 5) == []
