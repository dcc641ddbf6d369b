"""Paired comparison against scipy and closed forms: means, interval, p-value, who is left out."""

import itertools
import math

import numpy as np
import pytest
import scipy.stats

from evaluation.statistics import EXACT_PAIRS, holm, paired, sign_flip_p


def keyed(values) -> dict[str, float]:
    return {f"object-{n:03d}": float(value) for n, value in enumerate(values)}


def test_a_constant_shift_is_all_there_is():
    a = keyed(np.random.default_rng(0).normal(20, 5, 12))
    result = paired(a, {uid: value + 0.25 for uid, value in a.items()})
    assert result["mean_difference"] == pytest.approx(0.25) and result["ci95"] == pytest.approx([0.25, 0.25])
    # Only the two patterns with all signs alike reach the observed mean.
    assert result["p_value"] == pytest.approx(2 / 2**12)
    assert (result["objects"], result["higher"], result["lower"], result["equal"], result["left_out"]) == (12, 12, 0, 0, {})
    same = paired(a, a)
    assert (same["mean_difference"], same["ci95"], same["p_value"], same["equal"]) == (0.0, [0.0, 0.0], 1.0, 12)


@pytest.mark.parametrize("count", [2, 5, 9])
def test_the_sign_flip_test_is_scipys_exact_permutation_test(count):
    rng = np.random.default_rng(count)
    a, b = rng.normal(0, 1, count), rng.normal(0.4, 1, count)
    expected = scipy.stats.permutation_test((b, a), lambda x, y: (x - y).mean(), permutation_type="samples", n_resamples=np.inf)
    assert paired(keyed(a), keyed(b))["p_value"] == pytest.approx(expected.pvalue)


def test_many_objects_are_drawn_at_random_and_agree_with_the_t_test():
    rng = np.random.default_rng(3)
    a = rng.normal(20, 5, 200)
    b = a + rng.normal(0.12, 1.0, 200)
    p = paired(keyed(a), keyed(b))["p_value"]
    assert p == pytest.approx(scipy.stats.ttest_rel(b, a).pvalue, abs=0.015) and 0.005 < p < 0.5
    assert sign_flip_p(np.full(EXACT_PAIRS + 1, 1.0)) < 0.001, "the smallest value that random flips can tell"


def test_the_interval_is_scipys_with_quantiles_of_student():
    rng = np.random.default_rng(5)
    a, noise = rng.normal(20, 5, 64), rng.normal(0.3, 1.0, 64)
    result = paired(keyed(a), keyed(a + noise))
    drawn = scipy.stats.bootstrap((noise,), np.mean, method="percentile", n_resamples=20_000, rng=1).bootstrap_distribution
    tail = scipy.stats.norm.cdf(-math.sqrt(64 / 63) * scipy.stats.t.ppf(0.975, 63))
    assert result["ci95"] == pytest.approx(np.quantile(drawn, [tail, 1 - tail]), abs=0.02)
    # Closed form for normal noise: Student's interval. Pairing takes the spread of the objects (5) out.
    expected = scipy.stats.t.interval(0.95, 63, noise.mean(), scipy.stats.sem(noise))
    assert result["ci95"] == pytest.approx(expected, abs=0.03)


@pytest.mark.parametrize(("count", "tries"), [(6, 400), (30, 150)])
def test_the_interval_holds_the_truth_nineteen_times_in_twenty(count, tries):
    """Nearly so with few objects, where the plain percentiles would hold it 17 times in 20 (with 6, 15 % miss it)."""
    rng = np.random.default_rng(8)
    held = 0
    for number in range(tries):
        low, high = paired(keyed(np.zeros(count)), keyed(rng.normal(0.5, 1.0, count)), seed=number)["ci95"]
        held += low <= 0.5 <= high
    assert 0.905 <= held / tries <= 0.985


def test_swapping_the_sides_turns_the_sign_and_nothing_else():
    rng = np.random.default_rng(11)
    a, b = keyed(rng.normal(0, 1, 20)), keyed(rng.normal(0.2, 1, 20))
    forth, back = paired(a, b), paired(b, a)
    assert back["mean_difference"] == -forth["mean_difference"] and back["p_value"] == pytest.approx(forth["p_value"])
    assert back["ci95"] == pytest.approx([-forth["ci95"][1], -forth["ci95"][0]])
    assert (back["higher"], back["lower"]) == (forth["lower"], forth["higher"])
    assert paired(a, b) == forth, "the same seed, the same figures"


def test_who_is_left_out_and_why():
    a = {"both": 1.0, "only a": 2.0, "lost by b": 3.0, "lost by a": None, "wild": float("nan")}
    b = {"both": 1.5, "only b": 2.0, "lost by b": None, "lost by a": 4.0, "wild": 1.0}
    result = paired(a, b)
    assert (result["objects"], result["mean_a"], result["mean_b"], result["ci95"]) == (1, 1.0, 1.5, None)
    assert result["left_out"] == {
        "lost by a": "no figure in A",
        "lost by b": "no figure in B",
        "only a": "not in B",
        "only b": "not in A",
        "wild": "not finite in A",
    }
    nothing = paired({"x": None}, {"y": 1.0})
    assert (nothing["objects"], nothing["mean_difference"], nothing["p_value"]) == (0, None, None) and len(nothing["left_out"]) == 2


def test_holm_is_the_smallest_correction_that_rejects_in_order():
    # Hand computation: sorted p times (m - rank), never falling.
    assert holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": None}) == pytest.approx({"a": 0.03, "b": 0.06, "c": 0.06, "d": None})
    # Slow reference, from the definition: reject the k smallest while each p_(i) <= alpha / (m - i).
    values = np.random.default_rng(0).random(6) ** 3
    corrected = holm(dict(enumerate(values)))  # type: ignore[arg-type]
    for alpha in np.linspace(0.001, 0.999, 200):
        rejected = set()
        for rank, index in enumerate(np.argsort(values)):
            if values[index] > alpha / (len(values) - rank):
                break
            rejected.add(int(index))
        assert {index for index, p in corrected.items() if p <= alpha} == rejected
    assert all(corrected[i] >= values[i] for i in range(6)) and list(itertools.islice(holm({}), 1)) == []
