"""Registration with a real store, and the registered model served by MLflow itself."""

import json
from dataclasses import replace

import mlflow
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

import training.methods
from infra import tracking
from infra.errors import UserError
from infra.job import Job
from infra.storage import Location
from rendering.codecs import decode_image, encode_image
from rendering.view_set import CONDITION
from tests.training.test_loop import CONFIG
from tests.training.toy import TOY, ToyConfig, view_set, write_objects
from training import register
from training.data import DataLocations
from training.encoded import to_table, write_shards
from training.stage import StageInputs, fit_local

REGISTER = register.RegisterConfig(name="toy-model", method=CONFIG.method, model=ToyConfig(), recipe="toy")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Checkpoints of both stages and everything else register reads; the second stage saw one object less."""
    root = Location(str(tmp_path_factory.mktemp("trained")))
    views, kept = write_objects(root, train=4, val=2)
    config = replace(CONFIG, steps=2, checkpoint_every=100)
    fit_local(config, StageInputs(DataLocations(views, kept)), root / "first")
    means = {"mean": np.random.default_rng(0).random((5, 3), np.float32)}
    write_shards([to_table(f"object-{n:03d}", means) for n in (1, 2, 3, 4, 5)], root / "arrays")
    fit_local(replace(config, stage="second"), StageInputs(DataLocations(views, kept, root / "arrays"), root / "first"), root / "second")
    licences = ["CC0-1.0", "CC-BY-4.0", "CC-BY-4.0", None, "CC0-1.0", "CC0-1.0"]
    rows = [
        {"uid": f"object-{n:03d}", "sha256": f"{n:064x}", "licence": licence, "title": f"Thing {n}", "author": f"Maker {n}"}
        for n, licence in enumerate(licences)
    ]
    (root / "meshes" / "meshes.parquet").write_table(pa.Table.from_pylist(rows))
    checkpoints = {"first": root / "first", "second": root / "second"}
    return {"checkpoints": checkpoints, "meshes": root / "meshes", "views": views, "kept": kept}


def test_one_version_per_build_with_tags_and_the_objects_it_saw(trained, tracking_uri, tmp_path):
    run = tracking.open_run(tracking_uri, "test", "register")
    out = Location(str(tmp_path))
    for _ in range(2):
        register.run(REGISTER, out=out / "one", job=Job(build_id="b1", run=run), **trained)
    register.run(REGISTER, out=out / "two", job=Job(build_id="b2", run=run), **trained)
    one, two = (out / "one" / "version.json").read_json(), (out / "two" / "version.json").read_json()
    assert (one["uri"], two["uri"]) == ("models:/toy-model/1", "models:/toy-model/2")
    assert one["uids"] == [f"object-{n:03d}" for n in range(4)]
    assert (one["build_id"], one["run_id"]) == ("b1", run.run_id)
    tags = tracking.version_tags(tracking_uri, tracking.resolve(tracking_uri, one["uri"]))
    assert tags["recipe"] == "toy" and tags["licences"] == "CC-BY-4.0 2, CC0-1.0 1, unknown 1"
    assert tags["git_commit"] and tags["trained_objects"] == "4" and float(tags["validation_loss.second"]) > 0
    files = {"toy.safetensors", "mvforge.json", "trained_uids.json", "attribution.csv", "attribution.json", "README.md"}
    assert {e.name for e in (out / "one" / "model").walk()} == files
    manifest = (out / "one" / "model" / "attribution.json").read_json()
    assert manifest["licences"] == {"CC-BY-4.0": 2, "CC0-1.0": 1, "unknown": 1}
    assert [(entry["uid"], entry["author"]) for entry in manifest["objects"]] == [(f"object-{n:03d}", f"Maker {n}") for n in range(4)]


def test_the_card_says_what_it_learned_from_and_may_be_used_for(trained, tracking_uri, tmp_path):
    parent = tracking.open_run(tracking_uri, "test", "pipeline")
    run = tracking.open_run(tracking_uri, "test", "register", parent_run_id=parent.run_id)
    out = Location(str(tmp_path))
    config = replace(REGISTER, limits="Chairs only.")
    register.run(config, out=out, job=Job(build_id="b1", run=run), **trained)
    facts = tracking.version_facts(tracking_uri, tracking.resolve(tracking_uri, "models:/toy-model/1"))
    page = (out / "model" / "README.md").read_text()
    for text in (facts.description, page):
        assert "4 objects: CC-BY-4.0 2, CC0-1.0 1, unknown 1" in text and "Chairs only." in text and "Not evaluated yet." in text
        assert "- 2 ask for attribution" in text and "- 1 state no known licence" in text and "forbid" not in text
    assert page.startswith("---\n") and len(facts.description) < 3000
    client = tracking.client_of(tracking_uri)
    for run_id in (run.run_id, parent.run_id):
        (read,) = client.get_run(run_id).inputs.dataset_inputs
        assert (read.dataset.digest, read.tags[0].value) == (facts.tags["data_fingerprint"], "training")
    model = client.get_logged_model(facts.model_id)
    assert model.params["recipe"] == "toy" and json.loads(model.tags["mlflow.modelVersions"]) == [{"name": "toy-model", "version": "1"}]
    assert "made with mvforge" in tracking.model_description(tracking_uri, "toy-model")


def test_mlflow_serves_what_the_generator_makes(trained, tracking_uri, tmp_path, monkeypatch):
    monkeypatch.setitem(training.methods.METHODS, "toy", TOY)
    run = tracking.open_run(tracking_uri, "test", "register")
    out = Location(str(tmp_path))
    register.run(REGISTER, out=out, job=Job(build_id="served", run=run), **trained)
    version = tracking.resolve(tracking_uri, (out / "version.json").read_json()["uri"])
    folder = tracking.download(tracking_uri, version, tmp_path / "download")
    served = mlflow.pyfunc.load_model(str(tracking.client_of(tracking_uri).get_model_version_download_uri(version.name, version.version)))
    rng = np.random.default_rng(0)
    rgba = rng.integers(0, 256, (1, 8, 8, 4), dtype=np.uint8)
    rgba[..., 3] = 255
    answer = served.predict(pd.DataFrame({"uid": ["x"], "condition": [encode_image(rgba[0])], "seed": [5]}))
    expected = TOY.load_generator(folder, "cpu").generate(view_set("x", rgba, (CONDITION,)), 5)
    assert list(answer.columns) == ["uid", "view_index", "azimuth_deg", "elevation_deg", "image"]
    assert answer["azimuth_deg"].tolist() == expected.azimuth_deg.tolist()
    for n, data in enumerate(answer["image"]):
        np.testing.assert_array_equal(decode_image(data), expected.rgba[n])
    with pytest.raises(mlflow.exceptions.MlflowException, match="signature|schema"):
        served.predict(pd.DataFrame({"uid": ["x"], "seed": [5]}))


def test_missing_stage_or_store_is_refused(trained, tracking_uri, tmp_path):
    out = Location(str(tmp_path))
    with pytest.raises(UserError, match="tracking"):
        register.run(REGISTER, out=out, job=Job(), **trained)
    run = tracking.open_run(tracking_uri, "test", "register")
    only_first = {**trained, "checkpoints": {"first": trained["checkpoints"]["first"]}}
    with pytest.raises(UserError, match="second"):
        register.run(REGISTER, out=out, job=Job(run=run), **only_first)
