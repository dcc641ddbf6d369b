"""The published run: its number of pictures, the paper's own set by one setting, its filters by two more, and its cost."""

import pytest

from pipelines import recipes
from pipelines.projection import lines, project
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


def test_its_cost_is_the_published_one(paper):
    """Figures of the reproduction notes: 53 and 84 TFLOP an object, 54 PFLOP a step, 424 TFLOP of it on each of 128 GPUs, 13.9 GB state."""
    cost = project(paper)
    rows = {row["stage"]: row for row in cost["stages"]}
    assert list(rows) == ["mvae", "unet1", "unet2", "unet3"]
    assert rows["unet1"]["tflop_object"] == pytest.approx(53, rel=5e-3) and rows["unet3"]["tflop_object"] == pytest.approx(84, rel=5e-3)
    assert rows["unet1"]["tflop_step"] / 1e3 == pytest.approx(54, rel=0.01)
    assert rows["unet1"]["tflop_gpu_step"] == pytest.approx(424, rel=2e-3)
    assert rows["unet3"]["views"] == 0.5 * (1 + 8) + 0.5 * (6 + 8)
    assert rows["mvae"]["tflop_object"] == pytest.approx(3 * (1.117 + 2.515), rel=0.01)
    weeks = sum(row["days"] for row in rows.values() if row["stage"] != "mvae") / 7
    assert 0.2 < weeks < 1.5, "the paper trained for about a week on as many GPUs"
    notes_gb = 72_000 * 42 * 32_768 / 1e9  # float16 means of 4x64x64
    assert notes_gb < cost["array_gb"] < 1.05 * notes_gb, "and the placeholder and the image tokens"
    assert cost["pictures"] == 3_024_000 and cost["picture_gb_raw"] == pytest.approx(3_171, rel=1e-3)
    assert cost["sample_tflop"] / 1e3 == pytest.approx(11.7 + 32 * 2.515 / 1e3, rel=5e-3)
    text = "\n".join(lines(cost))
    assert "40%" in text and "989" in text and "an assumption" in text and "model.unet.pretrained=None" in text


def test_recomputing_costs_one_forward_pass_and_settings_move_the_projection(paper):
    plain = project(paper)["stages"][1]
    again = project(apply(paper, ["train.unet1.checkpoint_activations=true"]))["stages"][1]
    assert again["tflop_object"] == pytest.approx(69, rel=0.01)
    every_view = project(apply(paper, ["model.keep_views=32"]))["stages"][1]
    assert every_view["tflop_object"] / plain["tflop_object"] == pytest.approx(10.1, rel=0.01), "what view dropout saves"


def test_a_recipe_without_gpus_projects_no_hours():
    cost = project(recipes.by_name("tiny"))
    assert all(row["gpu_hours"] is None for row in cost["stages"]) and "no GPUs" in "\n".join(lines(cost))
    assert project(recipes.by_name("tests.e2e.toy_recipe:recipe")) is None, "a method need not tell its budget"
