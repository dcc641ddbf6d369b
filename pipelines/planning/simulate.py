"""The whole run on a cluster with chance and faults: step after step, with the plan's unit costs."""

import hashlib
import math
from dataclasses import dataclass

import numpy as np

from infra.errors import UserError
from pipelines.planning.checkpoint_interval import daly_s, young_s
from pipelines.planning.estimate import RunPlan, StepPlan
from pipelines.planning.placing import slots
from pipelines.planning.sim_tasks import run_tasks
from pipelines.planning.sim_training import StageRun, run_training, straggling
from pipelines.planning.workload import Training

TASKS_IN_ALL = 1_000_000  # over all seeds of a step, so that simulating takes seconds
LONG_RUN_FAILURES = 5_000  # in the long run by which intervals are compared
SPREAD = (1 / 8, 1 / 4, 1 / 2, 1 / math.sqrt(2), 1.0, math.sqrt(2), 2.0, 4.0, 8.0)  # intervals tried, times Daly's
ASSUMPTIONS = (
    "nodes fail independently at a constant rate and lose all work in flight; the store, the driver and the tracking server do not",
    "of a render, generate or score step only objects in flight are lost; finished ones are kept (as the pieces of mvforge are)",
    "a training stage goes back to its last uploaded checkpoint; spare nodes are at hand, so the number of ranks stays",
    "an update waits for the slowest rank; times of ranks and of objects are lognormal",
    "faults of whole racks, of the network and of software are not in the model",
)


@dataclass(frozen=True)
class Interval:
    """One checkpoint interval: updates and seconds between two; mean wall time of the stage and goodput in the long run."""

    every: int
    seconds: float
    wall_s: float
    goodput: float


@dataclass(frozen=True)
class Checkpointing:
    """What saving costs in a stage, and how often to save.

    Attributes:
        save_s, upload_s: standing still, and until a checkpoint is safe.
        between_failures_s: mean over all nodes of the stage; infinite without failures.
        recipe: the interval that the recipe has.
        best: of those tried.
        tried: in rising order.
        young_s, daly_s: the closed forms.
    """

    save_s: float
    upload_s: float
    between_failures_s: float
    recipe: Interval
    best: Interval
    tried: tuple[Interval, ...]
    young_s: float
    daly_s: float


@dataclass(frozen=True)
class StepRun:
    """One step, means over the seeds; seconds of wall time.

    Attributes:
        ideal_s: the work that was drawn, shared evenly, and nothing else.
        wall_s, wall_low, wall_high: mean, shortest and longest.
        faults_s: lost to faults: work done again, restarts and repairs.
        waiting_s: for stragglers, and for the last tasks.
        saving_s: standing still for checkpoints.
        failures: mean number.
        seeds: how often it was simulated.
        checkpointing: of a training stage.
    """

    step: str
    ideal_s: float
    wall_s: float
    wall_low: float
    wall_high: float
    faults_s: float
    waiting_s: float
    saving_s: float
    failures: float
    seeds: int
    checkpointing: Checkpointing | None = None

    @property
    def goodput(self) -> float:
        return self.ideal_s / self.wall_s if self.wall_s else 1.0


def simulate(plan: RunPlan, seed: int, seeds: int, every: int | None = None) -> list[StepRun]:
    """Every step of the plan; the same seed gives the same figures.

    Args:
        seeds: how often each step is simulated, at least 1; very long steps less often.
        every: updates between checkpoints, instead of the recipe's.

    Raises:
        UserError: a number out of range.
    """
    if seeds < 1:
        raise UserError(f"--seeds {seeds}", "at least 1")
    if every is not None and every < 1:
        raise UserError(f"--checkpoint-every {every}", "at least 1")
    return [
        _stage(step, step.load.training, plan, seed, seeds, every) if step.load.training is not None else _tasks(step, plan, seed, seeds)
        for step in plan.steps
    ]


def _rng(seed: int, number: int, step: str, what: str = "") -> np.random.Generator:
    digest = hashlib.sha256(f"{seed}/{number}/{step}/{what}".encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:8], "little"))


def _tasks(step: StepPlan, plan: RunPlan, seed: int, seeds: int) -> StepRun:
    faults, workers = plan.cluster.faults, step.placement.workers
    count = max(1, min(seeds, TASKS_IN_ALL // step.load.items))
    once = step.load.once_cpu_s / step.placement.slowest_cpu + step.load.start_s
    # What limits the step is shared by its workers, also where that is the network or the store.
    task_s = max(step.wall_s - once, 0.0) / math.ceil(step.load.items / workers)
    runs = [
        run_tasks(
            step.load.items,
            task_s,
            _spread(step, workers),
            _rng(seed, number, step.load.step),
            sigma=faults.task_sigma,
            failures_per_node_s=faults.failures_per_node_hour / 3600,
            repair_s=faults.repair_s,
            start_s=once,
        )
        for number in range(count)
    ]
    walls = [run.wall_s for run in runs]
    wall, ideal = float(np.mean(walls)), float(np.mean([run.useful_s for run in runs])) / workers
    lost = float(np.mean([(run.lost_s + run.down_s) / workers for run in runs]))
    # Repairs that end after the last task delay nobody.
    lost = min(lost, max(0.0, wall - ideal))
    failures = float(np.mean([run.failures for run in runs]))
    return StepRun(step.load.step, ideal, wall, min(walls), max(walls), lost, wall - ideal - lost, 0.0, failures, count)


def _spread(step: StepPlan, workers: int) -> list[int]:
    """Workers on each node, filled one node after another."""
    found, left = [], workers
    for group, nodes in step.placement.groups:
        for _ in range(nodes):
            found.append(min(left, slots(group, step.load.resources)))
            left -= found[-1]
    return [count for count in found if count]


def _stage(step: StepPlan, training: Training, plan: RunPlan, seed: int, seeds: int, every: int | None) -> StepRun:
    config, faults = training.config, plan.cluster.faults
    rate = faults.failures_per_node_hour * step.placement.nodes / 3600
    costs = Costs(
        step.checkpoint_s,
        training.parameters * plan.units.value("train.checkpoint_bytes") / (plan.cluster.store_gb_per_s * 1e9),
        faults.restart_s,
        1 / rate if rate else math.inf,
    )
    chosen = min(every or config.checkpoint_every or config.steps, config.steps)
    name = step.load.step
    runs, waits = [], 0.0
    for number in range(seeds):
        rng = _rng(seed, number, name)
        late = straggling(config.steps, step.item_s, step.placement.workers, faults.step_sigma, rng)
        waits += 0.0 if late is None else float(late.mean()) / seeds
        runs.append(_run(config.steps, step.item_s, chosen, rng, costs, late))
    saving = _checkpointing(step, config.steps, chosen, step.item_s + waits, costs, _rng(seed, 0, name, "intervals"))
    mean = {part: float(np.mean([getattr(run, part) for run in runs])) for part in PARTS}
    walls = [run.wall_s for run in runs]
    beside = step.load.start_s + step.limits.get("validation", 0.0)
    return StepRun(
        name,
        mean["useful_s"] + beside,
        mean["wall_s"] + beside,
        min(walls) + beside,
        max(walls) + beside,
        mean["again_s"] + mean["restart_s"],
        mean["straggling_s"],
        mean["saving_s"],
        mean["failures"],
        seeds,
        saving,
    )


PARTS = ("useful_s", "wall_s", "again_s", "restart_s", "straggling_s", "saving_s", "failures")


@dataclass(frozen=True)
class Costs:
    """Seconds: of saving, of making it safe, of a restart, and between failures."""

    save_s: float
    upload_s: float
    restart_s: float
    between_s: float


def _run(steps: int, step_s: float, every: int, rng: np.random.Generator, costs: Costs, waits: np.ndarray | None) -> StageRun:
    return run_training(
        steps,
        step_s,
        every,
        rng,
        waits=waits,
        save_s=costs.save_s,
        upload_s=costs.upload_s,
        restart_s=costs.restart_s,
        between_failures_s=costs.between_s,
    )


def _checkpointing(step: StepPlan, steps: int, chosen: int, step_s: float, costs: Costs, rng: np.random.Generator) -> Checkpointing:
    """Intervals compared in the long run: a stage so much longer that failures are many, its updates all of the mean length."""
    daly = daly_s(costs.save_s, costs.between_s)
    wanted = {chosen}
    times = 1
    if math.isfinite(daly):
        wanted |= {min(steps, max(1, round(daly * factor / step_s))) for factor in SPREAD}
        times = max(1, math.ceil(LONG_RUN_FAILURES * costs.between_s / (steps * step_s)))
    draws = int(rng.integers(2**31))
    tried = []
    for updates in sorted(wanted):
        # The same failures for every interval: they differ by the interval alone.
        run = _run(steps * times, step_s, updates, np.random.default_rng(draws), costs, None)
        tried.append(Interval(updates, updates * step_s, run.wall_s / times, run.useful_s / run.wall_s * step.item_s / step_s))
    best = min(tried, key=lambda one: one.wall_s)
    recipe = next(one for one in tried if one.every == chosen)
    young = young_s(costs.save_s, costs.between_s)
    return Checkpointing(costs.save_s, costs.upload_s, costs.between_s, recipe, best, tuple(tried), young, daly)
