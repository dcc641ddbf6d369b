"""The graph of a method over three Ray nodes that share a store; in render, in train and in generate the node that works is lost.

Everything of the node dies at once, as when a machine loses power. Nothing may be lost with it, nothing done twice, no object may
be blamed, and the training learns what it would have learnt.
"""

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import pytest

from infra import local_nodes, tracking
from infra.local_nodes import LocalCluster, LocalNode
from infra.storage import Location
from pipelines import recipes
from pipelines.graph import build
from tests.e2e import held_method, held_tasks
from tests.e2e.conftest import Chain
from tests.training import several
from tests.training.test_loop import untimed
from tests.waiting import until
from training.data import DataLocations
from training.stage import StageInputs, fit_local

pytestmark = [pytest.mark.ray, pytest.mark.blender, pytest.mark.slow, pytest.mark.timeout(900)]

RECIPE, LABEL = "tests.e2e.held_method:recipe", "held"
DISTURBED = ("render", "train.fine", "generate")
PATIENCE_S = 300.0


@dataclass
class Run:
    """A run of the command line on a cluster, and how to lose the node that works for it."""

    chain: Chain
    cluster: LocalCluster
    holds: Path
    log: Path
    driver: subprocess.Popen
    lost: dict[str, LocalNode] = field(default_factory=dict)

    def until(self, found: Callable[[], object], what: str) -> None:
        def ready() -> object:
            assert self.driver.poll() is None, f"the driver ended before: {what}\n{self.log.read_text()[-6000:]}"
            return found()

        until(ready, what, PATIENCE_S)

    def lose(self, step: str, works_on: Callable[[psutil.Process], bool]) -> None:
        """Kill the node with such a process while the step runs, let the others go on, and have another node join in its place."""
        node = next(node for node in self.cluster.nodes if not node.killed and any(map(works_on, node.processes())))
        node.kill()
        assert not (self.chain.store / step / LABEL / "record.json").exists(), f"{step} was over before its node was lost"
        self.lost[step] = node
        (self.holds / step).unlink(missing_ok=True)
        self.cluster.add_node(2)
        self.cluster.settle()

    def waiting(self, moment: str) -> list[int]:
        """Processes that wait at a moment."""
        return [int(path.suffix[1:]) for path in self.holds.glob(f"{moment}.[0-9]*")]

    def lose_waiting(self, step: str, workers: int) -> None:
        self.until(lambda: len(self.waiting(step)) >= workers, f"{workers} workers wait in {step}")
        pid = self.waiting(step)[-1]
        self.lose(step, lambda process: process.pid == pid)


def is_blender(process: psutil.Process) -> bool:
    try:
        return any(word.endswith("/blender_script.py") for word in process.cmdline())
    except psutil.Error:
        return False


def disturb(run: Run) -> None:
    store = run.chain.store

    def rendering() -> bool:
        return any((store / "_cache").rglob("*.arrow")) or any((store / "render").rglob("*.arrow"))

    run.until(rendering, "an object is rendered")
    run.lose("render", is_blender)
    checkpoints = store / "train.fine" / LABEL
    run.until(lambda: any(checkpoints.rglob("step-*10-*/manifest.json")), "the checkpoint at step 10")
    run.lose_waiting("train.fine", workers=2)
    run.lose_waiting("generate", workers=1)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """Run the recipe on a head without work and two nodes, and lose a node three times."""
    home = tmp_path_factory.mktemp("nodes")
    chain, holds, log = Chain(home / "home", {}), home / "holds", home / "log"
    chain.home.mkdir()
    holds.mkdir()
    for moment in DISTURBED[1:]:
        (holds / moment).touch()
    environment = {**chain.environment, **local_nodes.QUICK_NOTICE, held_method.HOLD: str(holds)}
    with local_nodes.local_cluster(0, [2, 2], environment=environment) as cluster, open(log, "wb") as stream:
        command = [sys.executable, "-m", "pipelines", "run", RECIPE]
        on_cluster = {**environment, "RAY_ADDRESS": cluster.address}
        driver = subprocess.Popen(command, env=on_cluster, cwd=chain.home, stdout=stream, stderr=stream, start_new_session=True)
        try:
            run = Run(chain, cluster, holds, log, driver)
            disturb(run)
            assert driver.wait(PATIENCE_S) == 0, log.read_text()[-6000:]
            yield run
        finally:
            driver.kill()
            driver.wait()


def test_every_step_ends_complete_and_tells_of_the_lost_nodes(run: Run) -> None:
    steps = [step.name for step in build(recipes.by_name(RECIPE))]
    records = {step: run.chain.record(step, LABEL) for step in steps}
    assert all(record["failed"] == 0 and record["completed"] > 0 for record in records.values()), records
    assert [records[step]["completed"] for step in ("catalog", "fetch", "render")] == [6, 6, 6]
    # On a busy machine a node may fail to start as well, and is then lost a second time.
    lost = {step: record["facts"].get("lost_nodes", 0) for step, record in records.items()}
    assert all(lost[step] >= 1 for step in DISTURBED) and not lost["catalog"] and not lost["fetch"], lost
    assert not list(run.chain.store.rglob("building.json")) and not list(run.chain.store.rglob("stopped.json"))


def test_every_object_is_there_once_and_none_is_blamed(run: Run) -> None:
    ledger = pq.read_table(run.chain.data("render", LABEL) / "ledger.parquet").to_pylist()
    assert Counter(row["uid"] for row in ledger) == {row["uid"]: 1 for row in ledger} and len(ledger) == 6
    assert all(row["status"] == "ok" and row["attempts"] == 1 for row in ledger), "a lost node is no attempt of an object"
    parts = [pq.read_table(part, columns=["uid", "images"]) for part in run.chain.data("render", LABEL).glob("part-*.parquet")]
    rows = [row for part in parts for row in part.to_pylist()]
    assert sorted(row["uid"] for row in rows) == sorted(row["uid"] for row in ledger)
    assert all(len(row["images"]) == 32 + 2 for row in rows)
    kept = {row["uid"]: row["split"] for row in pq.read_table(run.chain.data("curate", LABEL) / "kept.parquet").to_pylist()}
    made = pq.read_table(run.chain.data("generate", LABEL) / "ledger.parquet").to_pylist()
    assert sorted(row["uid"] for row in made) == sorted(uid for uid, split in kept.items() if split == "test")
    assert all(row["status"] == "ok" and row["attempts"] == 1 for row in made)
    assert set(pq.read_table(run.chain.data("score", LABEL) / "scores.parquet")["uid"].to_pylist()) == {row["uid"] for row in made}


def test_the_training_learns_what_an_undisturbed_one_learns(run: Run, tmp_path: Path) -> None:
    """The other one is a single process without Ray, on the same data and starting weights."""
    place = {step: Location(str(run.chain.data(step, LABEL))) for step in ("render", "curate", "train.fine")}
    (step,) = [step for step in build(recipes.by_name(RECIPE)) if step.name == "train.fine"]
    inputs = StageInputs(DataLocations(place["render"], place["curate"]))
    alone = fit_local(step.config, inputs, Location(str(tmp_path)))
    for name, expected in (("history", alone.history), ("validation", alone.validation)):
        rows = [json.loads(line) for line in (run.chain.data("train.fine", LABEL) / f"{name}.jsonl").read_text().splitlines()]
        assert [row["step"] for row in rows] == [row["step"] for row in expected], "every row once, in order"
        for row, other in zip(untimed(rows), untimed(expected), strict=True):
            assert row == pytest.approx(other, rel=2e-5)
    assert len(run.waiting("train.fine")) == 2, "both workers had reached the step at which a node was lost"


def test_the_registry_has_one_version_and_tracking_one_run_for_each_step(run: Run) -> None:
    from mlflow import MlflowClient

    uri = tracking.default_uri(run.chain.store)
    client = MlflowClient(tracking_uri=uri, registry_uri=uri)
    assert len(client.search_model_versions("name='mvforge'")) == 1
    runs = client.search_runs([client.get_experiment_by_name("mvforge").experiment_id])
    steps = Counter(each.data.tags["mvforge.step"] for each in runs if "mlflow.parentRunId" in each.data.tags)
    assert steps == {step.name: 1 for step in build(recipes.by_name(RECIPE))}
    assert all(each.info.status == "FINISHED" for each in runs)
    (training,) = [each for each in runs if each.data.tags.get("mvforge.step") == "train.fine"]
    logged = [metric.step for metric in client.get_metric_history(training.info.run_id, "train/loss")]
    assert logged == sorted(set(logged)) and logged[-1] == 20


def test_nothing_of_the_lost_nodes_is_left(run: Run) -> None:
    assert set(run.lost) == set(DISTURBED) and len({node.name for node in run.lost.values()}) == 3
    left = [path for path in run.chain.store.rglob("*") if path.name.endswith((".tmp", ".attempts.json")) or path.parent.name == "runs"]
    assert not left, left


def test_tasks_of_a_lost_node_are_done_again_and_one_that_kills_its_worker_is_not_for_ever(run: Run, tmp_path: Path) -> None:
    (tmp_path / "hold").touch()
    processes = several.start(1, tmp_path / "logs", held_tasks.work_on_cluster, run.cluster.address, tmp_path)

    def begun(item: str) -> list[int]:
        return [int(pid) for pid in (tmp_path / f"{item}.log").read_text().split()] if (tmp_path / f"{item}.log").exists() else []

    # A death at the moment in which its node is lost, too, counts as the node's: the bad one has to be through before.
    until(lambda: all(map(begun, "abc")) and (tmp_path / "bad.told").exists(), "all are in work and one is given up", PATIENCE_S)
    node = next(node for node in run.cluster.nodes if not node.killed and begun("a")[0] in [each.pid for each in node.processes()])
    gone = {process.pid for process in node.kill()}
    (tmp_path / "hold").unlink()
    several.finish(processes, tmp_path / "logs")
    results = json.loads((tmp_path / "results").read_text())
    said = results.pop("nothing left")
    assert results == {"a": "A", "b": "B", "c": "C", "bad": "WorkerCrashedError"}
    assert said == "tasks needs 1 workers with 64 CPU each; the nodes that are left have room for 0, since 1 s"
    assert [len(begun(item)) for item in "abc"] == [1 + (begun(item)[0] in gone) for item in "abc"] and len(begun("bad")) == 2
