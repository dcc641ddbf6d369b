"""The published run: its number of pictures, the paper's own set by one setting, its filters by two more."""

import pytest

from pipelines import recipes
from pipelines.settings import apply
from rendering.catalog import CatalogConfig


@pytest.fixture
def paper():
    return recipes.by_name("paper_mvdiffusionpp")


def test_three_million_views_and_the_papers_own_set_by_one_setting(paper):
    views = len(paper.render.views_of("any"))
    assert views == 42 and paper.catalog.count * views == 3_024_000
    assert apply(paper, ["objects=180000"]).catalog.count * views == 7_560_000


def test_licences_and_scores_are_settings(paper):
    assert paper.catalog.licences == () == CatalogConfig().licences, "the default policy: no NC, no ND, nothing unknown"
    changed = apply(paper, ["catalog.licences=cc0,cc-by", "catalog.scores=/data/aesthetic.csv", "catalog.min_score=5"]).catalog
    assert (changed.licences, changed.scores, changed.min_score) == (("cc0", "cc-by"), "/data/aesthetic.csv", 5.0)
    ranked = apply(paper, ["catalog.top_fraction=0.225", "catalog.captions=name+tags", "catalog.min_score=none"]).catalog
    assert (ranked.top_fraction, ranked.captions, ranked.min_score) == (0.225, "name+tags", None)
