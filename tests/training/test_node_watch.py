"""How often a training may lose workers, and what it says when too few nodes are left for it."""

import os
import threading
from dataclasses import replace
from pathlib import Path

import pytest
import ray

from infra.errors import UserError
from infra.job import Job, Resources
from infra.local_nodes import QUICK_NOTICE, local_cluster
from infra.storage import Location
from tests.training import several
from tests.training.test_loop import CONFIG
from tests.training.test_train import assert_same_curve, run_with_accidents, step_starts
from tests.training.toy import ToyConfig, write_objects
from tests.waiting import until
from training import train
from training.checkpoint_manifest import MANIFEST
from training.node_watch import furthest


def test_the_newest_whole_checkpoint_says_how_far_a_training_got(tmp_path: Path) -> None:
    place = Location(str(tmp_path))
    assert furthest(place) == ""
    for name in ("step-00000006-aa", "step-00000012-bb", "step-00000018-cc"):
        (place / name / "share").write_text("")
    for name in ("step-00000006-aa", "step-00000012-bb"):
        (place / name / MANIFEST).write_text("{}")
    assert furthest(place) == "step-00000012"  # the last one is half-written


@pytest.mark.ray
@pytest.mark.long
def test_deaths_between_checkpoints_may_be_many(ray_cluster, tracking_uri, tmp_path):
    """Five deaths, where four without a checkpoint in between would end the training."""
    config = replace(CONFIG, zero_stage=2, checkpoint_every=2)
    call, alone, out, _ = run_with_accidents(config, [f"kill-{step}" for step in (3, 7, 11, 15, 18)], tmp_path, tracking_uri, workers=2)
    assert call().completed == 10
    assert_same_curve(out, alone)
    starts = step_starts(tmp_path)  # two workers with two micro-batches each; the step in which one dies is not begun by all
    twice = [step for step in range(20) if step not in (3, 7, 11, 15, 18) and starts[step] == 8]
    assert twice == [2, 6, 10, 14], "from the last checkpoint before each death, after every second step"
    assert all(starts[step] == 4 for step in range(20) if step not in (*twice, 3, 7, 11, 15, 18))


def too_small(folder: str, out: str) -> None:
    """Two workers on two nodes, one of which is lost and not replaced; what the step raises is left in `error`."""
    os.environ["MVFORGE_NODE_PATIENCE_S"] = "6"
    root, accidents = Location(folder), Location(folder) / "accidents"
    environment = {**os.environ, **QUICK_NOTICE, "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}
    with local_cluster(0, [1, 1], environment=environment) as cluster:
        ray.init(address=cluster.address, runtime_env={"env_vars": {"PYTHONPATH": os.environ["PYTHONPATH"]}})

        def kill() -> None:
            log = accidents / "steps.log"
            until(lambda: log.exists() and log.read_text().split().count("8") >= 2)
            cluster.nodes[0].kill()
            (accidents / "hold-8").delete()

        threading.Thread(target=kill, daemon=True).start()
        config = replace(CONFIG, zero_stage=2, model=ToyConfig(crash=str(accidents)))
        with pytest.raises(UserError) as caught:
            train.run(
                config, views=root / "views", kept=root / "kept", out=Location(out), job=Job(build_id="b1", resources=Resources(workers=2))
            )
        (root / "error").write_text(f"{caught.value.message}|{caught.value.mend}")
        ray.shutdown()


@pytest.mark.ray
@pytest.mark.long
def test_a_cluster_that_has_become_too_small_ends_the_training_with_a_message(tmp_path):
    write_objects(Location(str(tmp_path)), train=10, val=4)
    (tmp_path / "accidents").mkdir()
    (tmp_path / "accidents" / "hold-8").touch()
    logs = tmp_path / "logs"
    several.finish(several.start(1, logs, too_small, str(tmp_path), str(tmp_path / "out")), logs, timeout_s=500)
    message, _, mend = (tmp_path / "error").read_text().partition("|")
    assert message.startswith("train.first needs 2 workers with 1 CPU each; the nodes that are left have room for 1")
    assert "run the same command again" in mend and "resources.train.first.min_workers" in mend
    assert (tmp_path / "out" / "state").exists() and not (tmp_path / "out" / "history.jsonl").exists()
