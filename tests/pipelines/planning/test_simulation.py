"""The simulation against closed forms: total work, M/D/c from a full queue, Young's and Daly's checkpoint formulas."""

import math

import numpy as np
import pytest

from pipelines import recipes
from pipelines.planning.checkpoint_interval import daly_s, expected_wall_s, young_s
from pipelines.planning.cluster_file import Faults
from pipelines.planning.estimate import plan_run
from pipelines.planning.sim_tasks import run_tasks
from pipelines.planning.sim_training import run_training, straggling
from pipelines.planning.simulate import simulate
from pipelines.settings import apply
from tests.pipelines.planning.made_up import gpu_cluster, units


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.mark.parametrize(("tasks", "nodes"), [(1, [1]), (7, [2, 1]), (100, [3, 3, 1]), (1000, [64])])
def test_equal_tasks_take_rounds(tasks, nodes):
    """c servers, a full queue, one service time: the last customer leaves after ceil(n / c) services."""
    run = run_tasks(tasks, 3.0, nodes, rng(), start_s=2.0)
    assert run.wall_s == pytest.approx(2.0 + 3.0 * math.ceil(tasks / sum(nodes))) and run.useful_s == 3.0 * tasks and run.lost_s == 0


def test_unequal_tasks_obey_grahams_bounds():
    """List scheduling: total / c <= makespan <= total / c + longest (Graham 1969), whatever the order."""
    for seed in range(5):
        run = run_tasks(500, 2.0, [5, 5], rng(seed), sigma=0.8)
        longest = float((2.0 * np.exp(0.8 * rng(seed).standard_normal(500) - 0.32)).max())
        assert run.useful_s / 10 <= run.wall_s <= run.useful_s / 10 + longest
    mean = np.mean([run_tasks(2000, 2.0, [1], rng(seed), sigma=0.8).useful_s for seed in range(20)]) / 2000
    assert mean == pytest.approx(2.0, rel=0.02), "the spread leaves the mean"


def test_failures_lose_what_is_in_flight_and_nothing_else():
    run = run_tasks(4000, 10.0, [4] * 10, rng(), failures_per_node_s=1 / 2000, repair_s=50.0)
    assert run.useful_s == 40_000 and run.failures > 0, "every task ends exactly once"
    assert run.tasks_again <= 4 * run.failures and 0 < run.lost_s <= 10.0 * run.tasks_again
    # A slot is up for 1 / rate seconds and down for the repair; a node's failures cost on average half a task a slot.
    assert run.wall_s == pytest.approx(40_000 / 40 * (1 + (50 + 5) / 2000), rel=0.05)
    assert run_tasks(100, 1.0, [2], rng(), failures_per_node_s=0.01).wall_s >= 50


@pytest.mark.parametrize("interval", [500, 2000, 8000])
def test_training_takes_dalys_mean_time(interval):
    work, save, restart, between = 8_000_000, 60.0, 120.0, 20_000.0
    run = run_training(work, 1.0, interval, rng(), save_s=save, restart_s=restart, between_failures_s=between)
    assert run.wall_s == pytest.approx(expected_wall_s(work, interval, save, restart, between), rel=0.03)
    assert run.useful_s == work and run.saving_s == pytest.approx(save * work / interval)


def test_the_best_interval_is_young_and_dalys():
    save, between = 60.0, 20_000.0
    tried = np.geomspace(200, 12_000, 24).astype(int)
    walls = [run_training(8_000_000, 1.0, int(every), rng(1), save_s=save, between_failures_s=between).wall_s for every in tried]
    best = int(np.argmin(walls))
    assert tried[best] == pytest.approx(daly_s(save, between), rel=0.35), "the valley is flat: within 3 % of wall time"
    assert young_s(save, between) == pytest.approx(math.sqrt(2 * 60 * 20_000)) and daly_s(save, between) < young_s(save, between)
    exact = [expected_wall_s(1.0, float(every), save, 0.0, between) for every in np.linspace(500, 4000, 3501)]
    assert 500 + int(np.argmin(exact)) == pytest.approx(daly_s(save, between), rel=0.01), "the minimum of the exact mean"


def test_without_faults_time_adds_up():
    plain = run_training(1050, 2.0, 100, rng(), save_s=5.0)
    assert plain.wall_s == 1050 * 2 + 11 * 5 and plain.failures == 0 and plain.again_s == 0
    waits = np.full(1050, 0.5)
    assert run_training(1050, 2.0, 100, rng(), waits=waits, save_s=5.0).wall_s == pytest.approx(1050 * 2.5 + 11 * 5)
    assert math.isinf(young_s(1.0, math.inf)) and math.isinf(daly_s(1.0, math.inf))


def test_drawn_waits_and_equal_ones_meet_the_same_failures():
    """Two ways through the code: lengths in a table, and counted."""
    settings = dict(save_s=7.0, upload_s=30.0, restart_s=40.0, between_failures_s=900.0)
    one = run_training(5005, 1.5, 50, rng(3), **settings)
    two = run_training(5005, 1.5, 50, rng(3), waits=np.zeros(5005), **settings)
    assert one.failures == two.failures > 5 and one.wall_s == pytest.approx(two.wall_s)
    late = run_training(5005, 1.5, 50, rng(3), **(settings | {"upload_s": 300.0}))
    assert late.again_s > one.again_s, "a checkpoint that is still on its way is lost"


def test_the_slowest_of_many_ranks():
    """Against the largest of as many normal draws."""
    waits = straggling(4000, 1.0, 128, 0.1, rng())
    direct = np.exp(0.1 * rng(1).standard_normal((4000, 128)).max(1) - 0.005) - 1
    assert waits is not None and waits.mean() == pytest.approx(direct.mean(), rel=0.01)
    assert np.quantile(waits, 0.9) == pytest.approx(np.quantile(direct, 0.9), rel=0.03)
    assert straggling(10, 1.0, 128, 0.0, rng()) is None


def test_a_whole_run_repeats_itself_and_faults_cost():
    paper = apply(recipes.by_name("paper_mvdiffusionpp"), ["objects=3000"])
    calm = Faults(failures_per_node_hour=0.0, step_sigma=0.0, task_sigma=0.0)
    plans = {name: plan_run(paper, gpu_cluster(faults=faults), units()) for name, faults in (("calm", calm), ("real", Faults()))}
    quiet = {run.step: run for run in simulate(plans["calm"], 0, 1)}
    for step in plans["calm"].steps:
        wall = quiet[step.load.step].wall_s
        assert wall == pytest.approx(step.wall_s, rel=1e-6), "nothing by chance: the plan's closed form"
    stormy = plan_run(paper, gpu_cluster(faults=Faults(failures_per_node_hour=0.05)), units())
    some, more = (next(r for r in simulate(p, 0, 2) if r.step == "train.unet1") for p in (plans["real"], stormy))
    assert more.faults_s > some.faults_s and more.goodput < some.goodput <= 1
    saving = more.checkpointing
    assert saving is not None and saving.best.wall_s <= saving.recipe.wall_s
    assert saving.best.seconds == pytest.approx(saving.daly_s, rel=1.1)
    again = next(r for r in simulate(stormy, 0, 2) if r.step == "train.unet1")
    assert again == more and next(r for r in simulate(stormy, 1, 2) if r.step == "train.unet1") != more
