"""The train step on real Ray workers with DeepSpeed, through deaths and errors."""

from collections import Counter
from dataclasses import replace

import pytest

from infra import tracking
from infra.errors import UserError
from infra.job import Job, Resources
from infra.storage import Location
from tests.training.test_loop import CONFIG, untimed
from tests.training.toy import ToyConfig, write_objects
from training import train
from training.data import DataLocations
from training.stage import StageInputs, fit_local


def run_with_accidents(config, names, tmp_path, tracking_uri, workers):
    """A call of the step with accidents prepared, as a function to be called again, and what plain training makes."""
    root = Location(str(tmp_path))
    views, kept = write_objects(root, train=10, val=4)
    alone = fit_local(config, StageInputs(DataLocations(views, kept)), root / "alone")
    accidents = tmp_path / "accidents"
    accidents.mkdir()
    for name in names:
        (accidents / name).touch()
    run = tracking.open_run(tracking_uri, "test", "train.first")

    def call(run=run):
        job = Job(build_id="b1", run=run, resources=Resources(workers=workers))
        return train.run(replace(config, model=ToyConfig(crash=str(accidents))), views=views, kept=kept, out=root / "out", job=job)

    return call, alone, root / "out", run


def assert_same_curve(out, alone):
    for row, expected in zip(untimed(train._read_lines(out / "history.jsonl")), untimed(alone.history), strict=True):
        assert row == pytest.approx(expected, rel=2e-5)


def step_starts(tmp_path):
    """How often each step was begun, over all workers and micro-batches."""
    return Counter(int(line) for line in (tmp_path / "accidents" / "steps.log").read_text().split())


@pytest.mark.ray
def test_a_failed_step_says_why_and_its_second_call_goes_on_where_it_stopped(ray_cluster, tracking_uri, tmp_path):
    call, alone, out, run = run_with_accidents(CONFIG, ["fail-14"], tmp_path, tracking_uri, workers=1)
    with pytest.raises(UserError, match="asked to fail at step 14"):
        call()
    assert not (out / "history.jsonl").exists()
    call()
    assert_same_curve(out, alone)
    starts = step_starts(tmp_path)  # four micro-batches; step 14 failed in its first, the last checkpoint was that at 12
    assert [starts[step] for step in (0, 11, 12, 13, 14, 15)] == [4, 4, 8, 8, 5, 4]
    logged = tracking.client_of(tracking_uri).get_metric_history(run.run_id, "validation/loss")
    assert [m.step for m in logged] == [row["step"] for row in alone.validation]


def test_what_cannot_work_is_refused_before_any_worker_starts(tmp_path):
    root = Location(str(tmp_path))
    places = {"views": root / "v", "kept": root / "k", "out": root / "o", "job": Job()}
    with pytest.raises(UserError, match="no stage 'third'"):
        train.run(replace(CONFIG, stage="third"), **places)
    with pytest.raises(UserError, match="starts from first"):
        train.run(replace(CONFIG, stage="second"), **places)
    with pytest.raises(UserError, match="arrays encoded with first"):
        train.run(replace(CONFIG, stage="second"), init=root / "i", **places)
    with pytest.raises(UserError, match="not a multiple"):
        train.run(replace(CONFIG, global_batch=6), **places)
    with pytest.raises(UserError, match="unknown method"):
        train.run(replace(CONFIG, method="mvdifusionpp"), **places)
    assert not (tmp_path / "o").exists()
