"""`--set`: types, nested keys, nearest names, labels."""

import pytest

from infra.errors import UserError
from pipelines import recipes
from pipelines.settings import apply, keys_of, label_for


@pytest.fixture
def tiny():
    return recipes.by_name("tiny")


def test_values_take_the_type_of_their_field(tiny):
    changed = apply(
        tiny,
        [
            "render.resolution=128",
            "train.unet1.lr=0.5",
            "generate.model=models:/mvforge@chosen",
            "generate.max_objects=none",
            "source=local:/data",
        ],
    )
    assert changed.render.resolution == 128 and isinstance(changed.render.resolution, int)
    assert changed.train["unet1"].lr == 0.5 and changed.train["unet2"].lr == tiny.train["unet2"].lr
    assert changed.generate.model == "models:/mvforge@chosen" and changed.generate.max_objects is None
    assert changed.catalog.source == "local:/data"
    assert tiny.render.resolution == 64, "the recipe itself must not change"


def test_tuples_and_resources(tiny):
    changed = apply(tiny, ["model.elevations_deg=0,30", "resources.render.workers=3"])
    assert changed.model.elevations_deg == (0.0, 30.0)
    assert changed.resources_for("render").workers == 3
    assert changed.resources_for("train.unet2").workers == tiny.resources["train"].workers


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("render.resolutoin=64", "did you mean 'render.resolution'"),
        ("sorce=local:/x", "did you mean 'source'"),
        ("render.resolution", "not of the form key=value"),
        ("render.resolution=big", "must be an integer"),
        ("train.unet1.precision=fp8", "cannot be 'fp8'"),
        ("model.keep_views=40", "exceeds the 32 targets"),
    ],
)
def test_wrong_settings_are_refused_with_the_mend(tiny, setting, message):
    with pytest.raises(UserError, match=message):
        apply(tiny, [setting])


def test_unknown_recipe_names_the_nearest():
    with pytest.raises(UserError, match="did you mean 'tiny'"):
        recipes.by_name("tinny")


def test_labels_depend_on_the_settings_and_not_on_their_order():
    assert label_for("tiny", []) == "tiny"
    one = label_for("tiny", ["a=1", "b=2"])
    assert one == label_for("tiny", ["b=2", "a=1"]) and one.startswith("tiny-") and len(one) == len("tiny-") + 6
    assert one != label_for("tiny", ["a=1", "b=3"])
    assert label_for("tiny", ["source=local:/x"]) == label_for("tiny", ["catalog.source=local:/x"])


@pytest.mark.parametrize("name", recipes.RECIPES)
def test_every_recipe_builds_its_graph_and_has_a_stable_fingerprint(name):
    from pipelines import graph
    from pipelines.dag import check_order
    from pipelines.fingerprint import digest

    steps, again = graph.build(recipes.by_name(name)), graph.build(recipes.by_name(name))
    check_order(steps)
    assert [digest(step.config) for step in steps] == [digest(step.config) for step in again]
    assert keys_of(recipes.by_name(name))


def test_the_graph_is_the_documented_chain():
    from pipelines import graph

    names = [step.name for step in graph.build(recipes.by_name("tiny"))]
    assert names == (
        [
            *("catalog", "fetch", "render", "curate"),
            *("train.mvae", "encode", "train.unet1", "train.unet2", "train.unet3", "register"),
            *("generate", "reconstruct", "score", "gate", "report"),
        ]
    )
