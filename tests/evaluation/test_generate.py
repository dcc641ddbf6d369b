"""Batch inference on a real Ray cluster with a real (untrained) generator, and what happens to objects that go wrong."""

import os
import signal
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from evaluation import generate, model_source
from evaluation.generate import GenerateConfig
from evaluation.generate_object import generate_one
from evaluation.generated_pieces import Pieces
from infra import tracking
from infra.errors import UserError
from infra.job import Job, Resources
from infra.seeds import seed_for
from infra.storage import Location
from rendering.view_set import CONDITION, TARGET, ViewSet
from rendering.views import ViewStore
from tests.evaluation.traced import chair, imagined, rendered, store
from training.lookup import load_generator
from training.methods import METHODS
from training.methods.mvdiffusionpp_config import smoke

UIDS = ["chair_0", "chair_1", "chair_2", "chair_3"]
CONFIG = GenerateConfig(steps=2, conditions=2)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Location:
    """What register leaves, with random weights."""
    root = tmp_path_factory.mktemp("register")
    method, config = METHODS["mvdiffusionpp"], smoke()
    torch.manual_seed(0)
    checkpoints: dict[str, Path] = {}
    for stage in method.stages:
        trainable = method.trainable(stage.name, config, checkpoints)
        folder = root / stage.name
        folder.mkdir()
        trainable.save(trainable.build(), folder)
        checkpoints[stage.name] = folder
    method.export(config, checkpoints, root / "model")
    place = Location(str(root))
    (place / "version.json").write_json({"name": "mv", "version": 7, "uri": "models:/mv/7", "build_id": "b1"})
    return place


@pytest.fixture(scope="module")
def views(tmp_path_factory: pytest.TempPathFactory) -> Location:
    place = Location(str(tmp_path_factory.mktemp("render")))
    store([rendered(uid, chair(0.3 + 0.1 * number), 32, 2) for number, uid in enumerate(UIDS)], place)
    return place


def kept(place: Location, uids: list[str], split: str = "test") -> Location:
    rows = [{"uid": uid, "split": split} for uid in uids] + [{"uid": "trained_on", "split": "train"}]
    (place / "kept.parquet").write_table(pa.Table.from_pylist(rows))
    return place


def job_in(tmp_path: Path, **settings) -> Job:
    return Job(resources=Resources(workers=2, cpus=1), cache=Location(str(tmp_path / "cache")), **settings)


def pieces_of(job: Job) -> dict[str, float]:
    assert job.cache is not None
    return {entry.name: entry.mtime for entry in (job.cache / "pieces").children()}


@pytest.mark.ray
def test_a_run_grows_and_repeats_only_what_it_must(ray_cluster, model: Location, views: Location, tmp_path: Path) -> None:
    out, job = Location(str(tmp_path / "out")), job_in(tmp_path)
    summary = generate.run(CONFIG, model=model, views=views, kept=kept(Location(str(tmp_path)), UIDS[:3]), out=out, job=job)
    assert (summary.completed, summary.failed, summary.facts["model"]) == (3, 0, "models:/mv/7")
    made = ViewStore(out)
    assert made.uids() == UIDS[:3]
    first = made.read("chair_1")

    # The actors' result is that of a plain call in this process.
    torch.set_num_threads(1)
    plain = generate_one(load_generator(model.local_path() / "model", "cpu"), ViewStore(views).read("chair_1"), CONFIG, "models:/mv/7")
    np.testing.assert_array_equal(first.rgba * (first.rgba[..., 3:] > 0), plain.rgba * (plain.rgba[..., 3:] > 0))
    assert first.facts == plain.facts and first.origin == "models:/mv/7" and set(first.roles) == {TARGET}
    truth = ViewStore(views).read("chair_1")
    assert first.facts["conditions"] == [32, 33] and first.facts["seed"] == seed_for(0, "chair_1")
    assert first.facts["reference_azimuth_deg"] == truth.azimuth_deg[32]

    # One more object: only that one is made.
    before = pieces_of(job)
    grown = Location(str(tmp_path / "grown"))
    generate.run(CONFIG, model=model, views=views, kept=kept(Location(str(tmp_path)), UIDS), out=grown, job=job)
    after = pieces_of(job)
    assert len(before) == 3 and len(after) == 4 and before.items() < after.items()
    assert ViewStore(grown).uids() == UIDS

    ledger = (grown / "ledger.parquet").read_table().to_pylist()
    assert [row["uid"] for row in ledger] == UIDS and {row["status"] for row in ledger} == {"ok"}
    assert all(row["views"] == 32 and row["split"] == "test" and row["seconds"] > 0 for row in ledger)
    assert (grown / "model.json").read_json()["settings"]["conditions"] == 2
    assert (grown / "sheet.webp").exists()


class Stubborn:
    """A generator with moods, by object: it returns nonsense, kills its process, or does its work."""

    def __init__(self, truth: ViewStore) -> None:
        self.truth = truth

    def generate(self, conditions: ViewSet, seed: int, **options) -> ViewSet:
        if conditions.uid == "chair_1":
            raise RuntimeError("no idea how to draw this")
        if conditions.uid == "chair_2":
            os.kill(os.getpid(), signal.SIGKILL)
        made = imagined(self.truth.read(conditions.uid), 5.0)
        return replace(made, rgba=made.rgba.astype(float)) if conditions.uid == "chair_3" else made


@pytest.mark.ray
def test_objects_that_go_wrong_are_rows(
    ray_cluster, model: Location, views: Location, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generate, "load_generator", lambda folder, device: Stubborn(ViewStore(views)))
    out, job = Location(str(tmp_path / "out")), job_in(tmp_path)
    config = replace(CONFIG, quality_note="tiny: not trained to quality")
    summary = generate.run(
        config, model=model, views=views, kept=kept(Location(str(tmp_path)), [*UIDS, "never_rendered"]), out=out, job=job
    )
    rows = {row["uid"]: row for row in (out / "ledger.parquet").read_table().to_pylist()}
    assert (summary.completed, summary.failed) == (1, 4)
    assert {uid: row["reason"] for uid, row in rows.items()} == {
        "chair_0": "",
        "chair_1": "error",
        "chair_2": "crash",
        "chair_3": "invalid",
        "never_rendered": "missing_views",
    }
    assert "no idea how to draw this" in rows["chair_1"]["detail"] and rows["chair_2"]["attempts"] == 2
    assert ViewStore(out).uids() == ["chair_0"]
    assert ViewStore(out).read("chair_0").facts["quality_note"] == "tiny: not trained to quality"

    # A retry takes up the failed ones only, a rerun all.
    ok = next(row["uid"] for row in rows.values() if row["status"] == "ok")
    keys = {entry.name.partition(".")[0] for entry in (job.cache / "pieces").children()}
    place = job.cache / "pieces"
    retried = {Pieces(place).entry(key)["uid"] for key in keys if not Pieces(place, retry_failed=True).done(key)}
    assert retried == set(rows) - {ok} and all(Pieces(place).done(key) for key in keys)
    assert not any(Pieces(place, fresh_since=time.time() + 1).done(key) for key in keys)


def test_the_generator_sees_the_given_views_in_its_own_frame_and_nothing_else(views: Location) -> None:
    seen: list[ViewSet] = []

    class Recorder:
        def generate(self, conditions: ViewSet, seed: int, **options) -> ViewSet:
            seen.append(conditions)
            return imagined(truth, 0.0)

    truth = ViewStore(views).read("chair_0")
    generate_one(Recorder(), truth, replace(CONFIG, conditions=1), "models:/mv/7")
    (given,) = seen
    assert given.roles == (CONDITION,) and given.mesh is None and given.facts == {}
    assert given.azimuth_deg[0] == pytest.approx(0.0)
    np.testing.assert_allclose(given.camera.position[0, 0], 0.0, atol=1e-12)
    np.testing.assert_array_equal(given.rgba[0], truth.rgba[32])


def test_mistakes_of_the_user(model: Location, views: Location, tmp_path: Path) -> None:
    place = Location(str(tmp_path))

    def attempt(config: GenerateConfig, split: str = "test", **roles) -> None:
        generate.run(config, **({"model": model, "views": views, "kept": kept(place, UIDS, split)} | roles), out=place / "out", job=Job())

    with pytest.raises(UserError, match="split 'test'"):
        attempt(CONFIG, split="val")
    with pytest.raises(UserError, match="at most 2"):
        attempt(replace(CONFIG, conditions=3))
    with pytest.raises(UserError, match="register"):
        attempt(CONFIG, model=None)
    with pytest.raises(UserError, match="registry"):
        attempt(replace(CONFIG, model="models:/mv@chosen"))


@pytest.mark.ray
def test_wrong_sampler_is_one_message_and_not_a_row_per_object(ray_cluster, model: Location, views: Location, tmp_path: Path) -> None:
    place = Location(str(tmp_path))
    with pytest.raises(UserError, match="magic"):
        generate.run(
            replace(CONFIG, sampler="magic"), model=model, views=views, kept=kept(place, UIDS[:1]), out=place / "out", job=job_in(tmp_path)
        )


def test_a_model_chosen_in_the_registry_becomes_one_version(model: Location, tmp_path: Path) -> None:
    uri = tracking.default_uri(tmp_path)
    run = tracking.open_run(uri, "test", "register")
    version = tracking.register(
        uri,
        name="other",
        folder=model.local_path() / "model",
        loader_module="training.register",
        input_columns={"image": "binary"},
        output_columns={"image": "binary"},
        tags={},
        description="",
        run=run,
        build_id="b9",
    )
    tracking.set_alias(uri, version, "chosen")
    source = model_source.find("models:/other@chosen", model, uri)
    assert (source.uri, source.requested) == ("models:/other/1", "models:/other@chosen")
    assert source.identity != model_source.find(None, model, uri).identity
    assert load_generator(source.open(tmp_path / "opened"), "cpu")
