"""What a training step on real Ray workers leaves in MLflow: figures by kind, sample grids, system metrics."""

import json
import threading
import time
from dataclasses import replace

import pytest

from infra import tracking
from infra.job import Job, Resources
from infra.storage import Location
from tests.training.test_loop import CONFIG
from tests.training.test_train_survives import wait_until
from tests.training.toy import ToyConfig, write_objects
from training import notice_file, train
from training.data import DataLocations
from training.notice import Left
from training.notice_file import give
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


@pytest.mark.ray
def test_the_run_of_a_driver_that_goes_on_has_all_steps(ray_cluster, tracking_uri, tmp_path):
    """A new driver opens a new run; what the one before had tracked in its own of steps and pictures is tracked there too, each once."""
    root = Location(str(tmp_path))
    views, kept = write_objects(root, train=10, val=4)
    fit_local(CONFIG, StageInputs(DataLocations(views, kept)), root / "first")
    (tmp_path / "accidents").mkdir()
    (tmp_path / "accidents" / "hold-11").touch()
    model = ToyConfig(crash=str(tmp_path / "accidents"))
    config = replace(CONFIG, stage="second", encode_on_the_fly=True, log_every=1, sample_every=8, sample_objects=3, model=model)
    weights = {"init": root / "first", "weights": {"first": root / "first"}}
    runs = [tracking.open_run(tracking_uri, "test", name) for name in ("before", "after")]

    def call(run):
        job = Job(build_id="b1", run=run, resources=Resources(workers=2))
        return train.run(config, views=views, kept=kept, out=root / "out", job=job, **weights)

    def tell():
        log = tmp_path / "accidents" / "steps.log"
        wait_until(lambda: log.exists() and log.read_text().split().count("11") >= 2)
        give(root / "out", leave=True)
        time.sleep(2 * notice_file.POLL_S)
        (tmp_path / "accidents" / "hold-11").unlink()

    telling = threading.Thread(target=tell)
    telling.start()
    with pytest.raises(Left) as left:
        call(runs[0])
    telling.join()
    assert call(runs[1]).completed == 10

    client = tracking.client_of(tracking_uri)
    histories = (client.get_metric_history(run.run_id, "train/loss") for run in runs)
    before, after = ([m.step for m in sorted(history, key=lambda m: (m.timestamp, m.step))] for history in histories)
    assert before == list(range(1, left.value.step + 1)) and 11 <= before[-1] < 20
    assert after == list(range(1, 21)), "the earlier ones at the start, not when the training is through"
    steps = [[file.path[-6:-4] for file in client.list_artifacts(run.run_id, "samples")] for run in runs]
    assert steps == [["08"], ["08", "16", "20"]]
    written = [json.loads(line) for line in (root / "out" / "validation.jsonl").read_text().splitlines()]
    assert sorted(m.step for m in client.get_metric_history(runs[1].run_id, "validation/loss")) == [row["step"] for row in written]
