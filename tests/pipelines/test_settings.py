"""`--set`: types, nested keys, nearest names, labels."""

import pytest

from infra.errors import UserError
from pipelines import recipes
from pipelines.settings import apply, keys_of, label_for, settable


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


@pytest.mark.parametrize("name", recipes.RECIPES)
def test_every_step_of_every_recipe_takes_workers_of_its_own(name):
    from pipelines import graph

    recipe = recipes.by_name(name)
    steps = [step.name for step in graph.build(recipe)]
    assert recipe.step_names() == steps
    for step in steps:
        changed = apply(recipe, [f"resources.{step}.workers=7", f"resources.{step}.cpus=0.5"])
        assert {each.name: each.resources.workers for each in graph.build(changed)} == {
            each: 7 if each == step else recipe.resources_for(each).workers for each in steps
        }
        assert f"resources.{step}.workers" in settable(recipe)


def test_the_graph_without_an_encode_step_has_the_same_names_too(tiny):
    from pipelines import graph

    for changed in (apply(tiny, ["encode_on_the_fly=true"]), apply(tiny, [f"train.unet{n}.encode_on_the_fly=true" for n in (1, 2, 3)])):
        assert changed.step_names() == [step.name for step in graph.build(changed)] and "encode" not in changed.step_names()


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("resources.fecth.workers=4", "did you mean 'resources.fetch.workers'"),
        ("resources.fetch.wokers=4", "did you mean 'resources.fetch.workers'"),
        ("resources.train.unet4.workers=4", "did you mean 'resources.train.unet"),
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


def test_a_setting_of_the_denoiser_does_not_train_the_vae_again(tiny):
    from pipelines import graph
    from pipelines.fingerprint import digest

    def identities(*settings):
        return {step.name: digest(step.config) for step in graph.build(apply(tiny, list(settings)))}

    before = identities()
    changed = {name for name, identity in identities("model.keep_views=4").items() if identity != before[name]}
    assert changed == {"train.unet1", "train.unet2", "train.unet3", "register"}
    assert "train.mvae" in {name for name, identity in identities("model.kl_weight=1e-3").items() if identity != before[name]}


def test_every_field_the_vae_code_reads_is_part_of_its_identity():
    """The list of read fields is checked against the code: each `config.<field>` of the VAE's and the encoder's file is named."""
    import ast
    import dataclasses
    from pathlib import Path

    from training.methods import mvdiffusionpp, mvdiffusionpp_config, mvdiffusionpp_encode, mvdiffusionpp_vae

    derived = {"latent_size": {"resolution", "vae"}, "num_targets": set(), "num_slots": set()}
    fields = {field.name for field in dataclasses.fields(mvdiffusionpp_config.Config)}
    for module, reads in ((mvdiffusionpp_vae, mvdiffusionpp.VAE_READS), (mvdiffusionpp_encode, mvdiffusionpp.ENCODING_READS)):
        used: set[str] = set()
        for node in ast.walk(ast.parse(Path(module.__file__).read_text())):
            if isinstance(node, ast.Attribute) and ast.unparse(node.value) in ("config", "self.config"):
                used |= derived.get(node.attr, {node.attr} & fields)
        assert used <= set(reads), f"{module.__name__} reads {used - set(reads)}, which its stage does not name"
