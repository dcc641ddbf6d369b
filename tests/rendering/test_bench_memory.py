"""One Blender child, never replaced: what it and its parent hold does not grow with the objects done."""

import os
from pathlib import Path

import pytest

from rendering.bench_memory import Series, measure, summary

pytestmark = pytest.mark.blender
# A leak of 1 MB an object would be 300 MB between the windows that are compared, out of 300 to 550 MB in all.
MOST_GROWTH = 1.15


def files() -> list[Path]:
    """Real files, many times heavier than generated ones, where they are at hand."""
    folder = os.environ.get("MVFORGE_ASSETS")
    return sorted([*Path(folder).glob("*.glb"), *Path(folder).glob("*.gltf")]) if folder else []


def test_a_leak_is_seen_in_the_summary():
    leaking = Series([100.0 + n for n in range(500)], [50.0] * 500, [0.1 * n for n in range(500)], {}, {7})
    facts = summary(leaking)
    assert (facts["child_rss_mb_early"], facts["child_rss_mb_late"], facts["child_rss_mb_growth"]) == (249.5, 549.5, 2.202)
    assert facts["own_rss_mb_growth"] == 1.0 and facts["child_cpu_s_per_object_early"] == facts["child_cpu_s_per_object_late"] == 0.1


def test_memory_is_flat_over_few_objects():
    facts = summary(measure(50))
    assert (facts["objects"], facts["children"], facts["failed"]) == (50, 1, {})
    assert facts["child_rss_mb_growth"] < MOST_GROWTH and facts["own_rss_mb_growth"] < MOST_GROWTH, facts


@pytest.mark.long
def test_memory_is_flat_over_five_hundred_objects():
    """Every fourth a real file where they are at hand."""
    facts = summary(measure(500, files()))
    print(facts)
    assert (facts["objects"], facts["children"]) == (500, 1) and set(facts["failed"]) <= {"agi_ktx2.glb"}
    assert facts["child_rss_mb_growth"] < MOST_GROWTH and facts["own_rss_mb_growth"] < MOST_GROWTH, facts
