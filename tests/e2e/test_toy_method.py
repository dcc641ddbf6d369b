"""A method of someone else, given by import path, goes from 3D files to a registered, scored model: one file, one recipe."""

import json

import numpy as np
import pandas as pd
import pytest

from infra import tracking
from infra.storage import Location
from pipelines import recipes
from pipelines.graph import build
from rendering.view_set import CONDITION
from rendering.views import ViewStore, encode_image
from tests.e2e.conftest import Chain
from training.methods import METHODS

RECIPE = "tests.e2e.toy_recipe:recipe"


@pytest.fixture(scope="module")
def toy_chain(tmp_path_factory: pytest.TempPathFactory, ray_cluster: None) -> Chain:
    chain = Chain(tmp_path_factory.mktemp("toy"), {})
    return Chain(chain.home, chain.mvforge("run", RECIPE))


def test_nothing_of_ours_names_it() -> None:
    assert "flat_colour" not in METHODS and "flat" not in recipes.RECIPES


def test_its_graph_follows_from_its_stages() -> None:
    names = [step.name for step in build(recipes.by_name(RECIPE))]
    assert names[3:9] == ["curate", "train.rough", "encode", "train.fine", "register", "generate"]


@pytest.mark.ray
@pytest.mark.blender
@pytest.mark.slow
def test_it_goes_through_every_step(toy_chain: Chain) -> None:
    assert toy_chain.result["label"] == "flat"
    assert toy_chain.result["ran"] == [step.name for step in build(recipes.by_name(RECIPE))]
    for step in toy_chain.result["ran"]:
        record = toy_chain.record(step, "flat")
        assert record["completed"] > 0 and record["failed"] == 0, step
    assert "flat" in (toy_chain.data("report", "flat") / "report.html").read_text()


@pytest.mark.ray
@pytest.mark.blender
@pytest.mark.slow
def test_it_learns_and_its_second_stage_starts_from_the_first(toy_chain: Chain) -> None:
    rough, fine = (
        [json.loads(row)["loss"] for row in (toy_chain.data(f"train.{stage}", "flat") / "validation.jsonl").read_text().splitlines()]
        for stage in ("rough", "fine")
    )
    assert rough[-1] < 0.5 * rough[0]
    assert fine[0] == pytest.approx(rough[-1], rel=1e-3), "same weights, same held-out examples"


@pytest.mark.ray
@pytest.mark.blender
@pytest.mark.slow
def test_its_registered_version_serves_the_pictures_that_were_scored(toy_chain: Chain) -> None:
    import mlflow

    uri = tracking.default_uri(toy_chain.store)
    version = tracking.resolve(uri, "models:/mvforge/1")
    mlflow.set_tracking_uri(uri)
    try:
        served = mlflow.pyfunc.load_model(version.uri)
    finally:
        mlflow.set_tracking_uri(None)  # it set the environment variable too, where the next tests would find it
    store = ViewStore(Location(str(toy_chain.data("generate", "flat"))))
    uid = store.uids()[0]
    generated = store.read(uid)
    given = ViewStore(Location(str(toy_chain.data("render", "flat")))).read(uid).with_role(CONDITION)
    rows = served.predict(pd.DataFrame({"uid": [uid], "condition": [encode_image(given.rgba[0])], "seed": [0]}))
    assert len(rows) == len(generated) == 32
    assert np.allclose(rows["elevation_deg"], generated.elevation_deg)
    assert rows["image"].iloc[5] == encode_image(generated.rgba[5]), "the toy uses no noise: the same picture, byte for byte"
