"""A champion that was never scored on the present basis is generated, meshed and scored again, by the real steps on a real cluster."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import pyarrow as pa
import pytest
import torch

from evaluation import gate, rescore, score
from evaluation.gate_rule import PROMOTED, GateConfig
from evaluation.generate import GenerateConfig
from evaluation.reconstruct import ReconstructConfig
from evaluation.rescore import Rescoring
from evaluation.score import ScoreConfig
from evaluation.version_scores import latest
from infra import tracking
from infra.job import Job, Resources
from infra.storage import Location
from tests.evaluation.traced import chair, imagined, ledger, rendered, store
from training.methods import METHODS
from training.methods.mvdiffusionpp_config import smoke

UIDS = ["chair_0", "chair_1"]
SETTINGS = Rescoring(
    GenerateConfig(steps=2),
    ReconstructConfig(stages=("hull", "export"), resolution=24),
    ScoreConfig(points=500, volume_resolution=16, truth_hull_resolution=0),
    {name: Resources(workers=2) for name in ("generate", "reconstruct", "score")},
)


def registered(root: Path, uri: str, number: int) -> tracking.ModelVersion:
    """An untrained generator with weights of its own as a version of `mv`."""
    method, config = METHODS["mvdiffusionpp"], smoke()
    torch.manual_seed(number)
    checkpoints: dict[str, Path] = {}
    for stage in method.stages:
        trainable = method.trainable(stage.name, config, checkpoints)
        folder = root / f"{number}-{stage.name}"
        folder.mkdir()
        trainable.save(trainable.build(), folder)
        checkpoints[stage.name] = folder
    method.export(config, checkpoints, root / f"{number}")
    (root / f"{number}" / "trained_uids.json").write_text(json.dumps(["another"]))
    return tracking.register(
        uri,
        name="mv",
        folder=root / f"{number}",
        loader_module="training.served",
        input_columns={"uid": "string"},
        output_columns={"image": "binary"},
        tags={},
        description="",
        run=tracking.open_run(uri, "test", "register"),
        build_id=f"b{number}",
    )


@pytest.mark.ray
def test_a_champion_is_scored_again_before_it_is_compared(ray_cluster, tracking_uri: str, tmp_path: Path, monkeypatch) -> None:
    one = registered(tmp_path, tracking_uri, 1)
    tracking.set_alias(tracking_uri, one, "champion")
    two = tracking.ModelVersion("mv", "2", "models:/mv/2")
    tracking.client_of(tracking_uri).create_model_version("mv", "elsewhere")
    root = Location(str(tmp_path))
    truth = [rendered(uid, chair(0.3 + 0.2 * number), 32, 1) for number, uid in enumerate(UIDS)]
    store(truth, root / "views")
    (root / "kept" / "kept.parquet").write_table(pa.Table.from_pylist([{"uid": uid, "split": "test"} for uid in UIDS]))
    views, kept = root / "views", root / "kept"
    job = Job(run=tracking.open_run(tracking_uri, "test", "gate"), build_id="g1", resources=Resources(workers=2))

    # What generate and score would leave for a good challenger. It has no run of its own: someone registered it by other means.
    store([imagined(one_object, 5.0) for one_object in truth], root / "made")
    ledger([{"uid": uid} for uid in UIDS], root / "made" / "ledger.parquet")
    settings = asdict(SETTINGS.generate)
    made_by = {"name": "mv", "version": "2", "uri": two.uri, "settings": settings, "trained_uids": ["another"]}
    (root / "made" / "model.json").write_json(made_by)
    score.run(SETTINGS.score, reference=views, generated=root / "made", meshes=None, model=None, out=root / "scores", job=Job())

    # Interrupted once between two steps: the call that comes next goes on there.
    task = gate.task_of(GateConfig(min_objects=2), SETTINGS)
    places = {"scores": root / "scores", "model": None, "generated": root / "made", "out": root / "out", "views": views, "kept": kept}
    with monkeypatch.context() as broken:
        broken.setattr(rescore, "read_scores", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            gate.run(task, job=job, **places)
    assert not (root / "out" / "decision.json").exists()
    generated_at = (tmp_path / "out" / "champion" / "generated" / "ledger.parquet").stat().st_mtime_ns
    gate.run(task, job=job, **places)
    assert (tmp_path / "out" / "champion" / "generated" / "ledger.parquet").stat().st_mtime_ns == generated_at

    record = (root / "out" / "decision.json").read_json()
    assert (record["decision"], record["champion_before"], record["champion_scored_again"]) == (PROMOTED, one.uri, True)
    assert record["paired"]["objects"] == 2 and record["paired"]["mean_difference"] > 5, "noise of 5 levels against untrained weights"
    assert record["trained_on"] == {one.uri: 0, two.uri: 0}
    made = (root / "out" / "champion" / "generated" / "model.json").read_json()
    assert made["uri"] == one.uri and made["settings"] == settings | {"model": one.uri}
    summary = (root / "out" / "champion" / "scores" / "summary.json").read_json()
    assert record["champion_before_value"] == summary["metrics"]["psnr_foreground"]["mean"]
    assert not (tmp_path / "out" / "champion" / "meshes").exists(), "psnr needs no meshes"

    assert f"scored again to be compared with {two.uri}" in tracking.version_facts(tracking_uri, one).description

    # The figures stay with the champion that was: the next gate has nothing to make.
    held = latest(tracking.version_facts(tracking_uri, one))
    assert held is not None and held.basis == record["basis"] and "psnr_foreground" in held.means
    tracking.set_alias(tracking_uri, one, "champion")
    again = gate.run(task, **{**places, "out": root / "out2"}, job=replace(job, build_id="g2"))
    assert not (root / "out2" / "champion").exists() and again.facts["decision"] == PROMOTED

    # A metric of meshes needs meshes.
    assert rescore.needs_meshes("chamfer") and not rescore.needs_meshes("psnr")
    rescore.rescore(SETTINGS, one, tracking_uri=tracking_uri, views=views, kept=kept, meshes=True, out=root / "out" / "champion", job=job)
    assert (tmp_path / "out" / "champion" / "meshes" / "ledger.parquet").exists()
