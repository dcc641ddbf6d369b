"""What a training step on real Ray workers leaves in MLflow: figures by kind, sample grids, system metrics."""

from dataclasses import replace

import pytest

from infra import tracking
from infra.job import Job, Resources
from infra.storage import Location
from tests.training.test_loop import CONFIG
from tests.training.toy import write_objects
from training import train
from training.data import DataLocations
from training.stage import StageInputs, fit_local


@pytest.mark.ray
def test_figures_grids_and_system_metrics_of_two_workers_are_tracked(ray_cluster, tracking_uri, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "1")
    root = Location(str(tmp_path))
    views, kept = write_objects(root, train=10, val=4)
    fit_local(CONFIG, StageInputs(DataLocations(views, kept)), root / "first")
    run = tracking.open_run(tracking_uri, "test", "train.second")
    job = Job(build_id="b1", run=run, resources=Resources(workers=2))
    config = replace(CONFIG, stage="second", encode_on_the_fly=True, sample_every=8, sample_objects=3, zero_stage=2)
    train.run(config, views=views, kept=kept, out=root / "out", job=job, init=root / "first", weights={"first": root / "first"})

    client = tracking.client_of(tracking_uri)
    logged = set(client.get_run(run.run_id).data.metrics)
    figures = "loss grad_norm lr ema_drift samples_per_s tokens_per_s tflops_per_device peak_memory_gb data_wait_s loader_samples_per_s"
    assert {f"train/{name}" for name in f"{figures} checkpoint_wait_s checkpoint_upload_s".split()} <= logged
    assert {"validation/loss", "preview/psnr", "system/cpu_utilization_percentage", "system/system_memory_usage_megabytes"} <= logged
    assert [m.step for m in client.get_metric_history(run.run_id, "preview/psnr")] == [8, 16, 20]
    assert {file.path for file in client.list_artifacts(run.run_id, "samples")} == {
        *(f"samples/step-0000{step}.png" for step in ("08", "16", "20"))
    }
    left = {entry.name for entry in (root / "out").children()}
    assert left == {"checkpoint", "history.jsonl", "validation.jsonl", "previews.jsonl", "uids.json", "loss.png", "pictures"}
    downloaded = client.download_artifacts(run.run_id, "samples/step-000020.png", str(tmp_path))
    with open(downloaded, "rb") as picture:
        assert picture.read() == (root / "out" / "pictures" / "samples" / "step-000020.png").read_bytes()
