"""The train step on real Ray with DeepSpeed when something other than a worker dies: the controller, a whole node."""

import os
import signal
import threading
from dataclasses import replace

import psutil
import pytest
import ray

from infra.errors import UserError
from infra.job import Job, Resources
from infra.storage import Location
from tests.training import several
from tests.training.test_loop import CONFIG
from tests.training.test_train import assert_same_curve, run_with_accidents, step_starts
from tests.training.toy import ToyConfig, write_objects
from tests.waiting import is_gone, until
from training import train
from training.data import DataLocations
from training.stage import StageInputs, fit_local


def controller_pid() -> int:
    """The Ray Train controller that is at work in this Ray session; other sessions on the machine have theirs, and one of a test before
    may still wait to be forgotten."""
    session = ray._private.worker.global_worker.node.get_session_dir_path()
    (found,) = [
        process.pid
        for process in psutil.process_iter(["cmdline"])
        if any("TrainController.run" in part for part in process.info["cmdline"] or ())
        and any(session in part for part in process.parent().cmdline())
    ]
    return found


@pytest.mark.ray
@pytest.mark.slow
def test_a_killed_controller_ends_in_the_uninterrupted_curve(ray_cluster, tracking_uri, tmp_path):
    config = replace(CONFIG, zero_stage=2)
    call, alone, out, _ = run_with_accidents(config, ["hold-8"], tmp_path, tracking_uri, workers=2)
    accidents = tmp_path / "accidents"

    def kill():
        until(lambda: len(list(accidents.glob("held-8.*"))) == 2)
        workers = [psutil.Process(int(path.suffix[1:])) for path in accidents.glob("held-8.*")]
        os.kill(controller_pid(), signal.SIGKILL)
        until(lambda: all(map(is_gone, workers)))  # they die with it
        (accidents / "hold-8").unlink()

    killer = threading.Thread(target=kill)
    killer.start()
    assert call().completed == 10
    killer.join()
    assert_same_curve(out, alone)
    starts = step_starts(tmp_path)  # two workers with two micro-batches each; the last checkpoint was that at 6
    assert (starts[5], starts[6], starts[7], starts[9]) == (4, 8, 8, 4)
    # Four CPUs hold two pairs of workers: a reservation that the dead controller left behind would show here.
    until(lambda: ray.available_resources().get("CPU") == 4)


@pytest.mark.ray
def test_ray_train_still_has_the_callbacks_that_are_left_out(ray_cluster):
    """Fails when a Ray upgrade renames them or builds its defaults in another way."""
    trainer = train._Trainer(lambda: None, scaling_config=ray.train.ScalingConfig(num_workers=1))
    names = {type(callback).__name__ for callback in super(train._Trainer, trainer)._create_default_callbacks()}
    assert set(train._Trainer.LEFT_OUT) < names
    assert {type(callback).__name__ for callback in trainer._create_default_callbacks()} == names - set(train._Trainer.LEFT_OUT)


def elastic(folder: str, out: str) -> None:
    """A cluster of two nodes and three CPUs; the second node dies by SIGKILL while three workers train."""
    from ray.cluster_utils import Cluster

    os.environ |= {"RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "10", "RAY_health_check_period_ms": "1000"}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
    second = cluster.add_node(num_cpus=1)
    environment = {"PYTHONPATH": os.environ["PYTHONPATH"], "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}
    ray.init(address=cluster.address, log_to_driver=True, runtime_env={"env_vars": environment})
    root, accidents = Location(folder), Location(folder) / "accidents"

    def kill():
        until(lambda: (accidents / "steps.log").exists() and (accidents / "steps.log").read_text().split().count("8") >= 3)
        cluster.remove_node(second, allow_graceful=False)
        (accidents / "hold-8").delete()

    threading.Thread(target=kill, daemon=True).start()
    config = replace(ELASTIC, model=ToyConfig(crash=str(accidents)))
    job = Job(build_id="b1", resources=Resources(workers=3, min_workers=1))
    train.run(config, views=root / "views", kept=root / "kept", out=Location(out), job=job)
    ray.shutdown()
    cluster.shutdown()


# Twelve objects an update: six micro-batches that one, two or three workers can share.
ELASTIC = replace(CONFIG, global_batch=12, zero_stage=2)


@pytest.mark.ray
@pytest.mark.long
def test_training_shrinks_when_a_node_dies_and_learns_the_same(tmp_path):
    root = Location(str(tmp_path))
    views, kept = write_objects(root, train=10, val=4)
    (tmp_path / "accidents").mkdir()
    (tmp_path / "accidents" / "hold-8").touch()
    logs = tmp_path / "logs"
    several.finish(several.start(1, logs, elastic, str(tmp_path), str(tmp_path / "out")), logs, timeout_s=600)
    alone = fit_local(ELASTIC, StageInputs(DataLocations(views, kept)), root / "alone")
    assert_same_curve(root / "out", alone)
    starts = step_starts(tmp_path)
    assert starts[5] == 6 and starts[9] == 6  # six micro-batches a step, by three workers before and by two after


def test_workers_that_cannot_share_the_batch_are_refused_with_those_that_can(tmp_path):
    places = {name: Location(str(tmp_path / name)) for name in ("views", "kept", "out")}
    job = Job(resources=Resources(workers=4, min_workers=1))
    with pytest.raises(UserError, match="1 to 4 workers cannot all share global_batch 12") as caught:
        train.run(ELASTIC, **places, job=job)
    assert "these can: 1, 2, 3;" in caught.value.mend
    with pytest.raises(UserError, match="min_workers 5"):
        train.run(ELASTIC, **places, job=Job(resources=Resources(workers=4, min_workers=5)))
