"""Splits depend on the group alone, and an empty one is refused with a mend that works."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.errors import UserError
from rendering.split import check_fractions, check_splits, empty_splits, split_of


def test_shares_come_out_as_asked():
    splits = [split_of(f"group-{i}", 0.2, 0.1, 5) for i in range(20_000)]
    # Standard deviation of a share of 0.2 in 20,000 draws is 0.003.
    assert splits.count("val") / 20_000 == pytest.approx(0.2, abs=0.015)
    assert splits.count("test") / 20_000 == pytest.approx(0.1, abs=0.015)


def test_known_assignments_never_change():
    # Written down once: a changed hash would silently move training objects into the test set of existing builds.
    assert [split_of(f"group-{i}", 0.2, 0.2, 0) for i in range(8)] == ["test", "test", "test", "train", "test", "train", "test", "train"]


@given(st.text(min_size=1), st.floats(0.05, 0.4), st.floats(0.05, 0.4), st.integers(0, 99))
def test_more_test_data_takes_from_the_others_only(group, val, test, seed):
    if split_of(group, val, test, seed) == "test":
        assert split_of(group, val, min(test * 1.2, 0.5), seed) == "test"


def test_an_empty_split_is_refused_and_the_named_seed_mends_it():
    groups = [f"g{i}" for i in range(5)]
    bad = next(seed for seed in range(100) if empty_splits(groups, 0.2, 0.2, seed))
    with pytest.raises(UserError) as caught:
        check_splits(groups, 0.2, 0.2, bad)
    seed = int(re.search(r"split_seed=(\d+)", caught.value.mend)[1])
    assert {split_of(group, 0.2, 0.2, seed) for group in groups} == {"train", "val", "test"}
    check_splits(groups, 0.2, 0.2, seed)


def test_too_few_groups_for_three_splits_get_a_mend_without_a_seed():
    with pytest.raises(UserError) as caught:
        check_splits(["a", "a", "b", "b"], 0.2, 0.2, 0)
    assert "2 distinct" in caught.value.message and "add objects" in caught.value.mend and "split_seed=" not in caught.value.mend


def test_a_fraction_of_zero_asks_for_no_such_split():
    check_splits(["only"], 0.0, 0.0, 0)
    assert split_of("only", 0.0, 0.0, 0) == "train"


@pytest.mark.parametrize(("val", "test"), [(0.5, 0.5), (-0.1, 0.2), (0.2, 1.0)])
def test_fractions_must_leave_training_data(val, test):
    with pytest.raises(UserError, match="training set"):
        check_fractions(val, test)
