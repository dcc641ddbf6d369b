"""A step on a cluster: time by closed forms, what limits it, and what it costs. `mvforge simulate` adds chance and faults."""

import math
from dataclasses import dataclass, replace

from pipelines.planning.cluster_file import Cluster
from pipelines.planning.memory import StageMemory, stage_memory
from pipelines.planning.placing import Placement, place
from pipelines.planning.units import Units
from pipelines.planning.workload import StepLoad, Training, workload
from pipelines.recipe import Recipe

# Float32 gradients go around the ring twice (reduce-scatter and all-gather), less one share of N: 2 (N - 1) / N of their bytes.
RING_TRIPS, GRADIENT_BYTES = 2, 4
LONG, FEW = 0.02, 8  # a step of this share of the run is told when it uses less than an eighth of what would help
ASSUMPTIONS = (
    "steps run one after another, as the runner runs them; items are equal and workers never wait for each other",
    "reading, computing and writing overlap: the slowest of them decides; the exchange of gradients overlaps with computing",
    "a step's nodes are paid while it runs (cluster that grows and shrinks); `held` pays all nodes all the time",
    "starting a step takes as long as it did on the measured machine",
    "no faults and no stragglers: `mvforge simulate` has both",
    "registering, the gate and the report take minutes at most and are left out",
)


@dataclass(frozen=True)
class Rate:
    """TFLOP/s of one worker, and where the figure is from."""

    tflops: float
    source: str


@dataclass(frozen=True)
class StepPlan:
    """One step on the cluster.

    Attributes:
        load: what is to be done.
        placement: where.
        wall_s: from its start to its end.
        cpu_h, gpu_h: hours of processors and of GPUs that are busy or held by a busy worker.
        limits: seconds that each resource alone would take, by its name; the largest is `wall_s`, but for what comes on top:
            `start`, and in training `validation` (with sample pictures) and checkpoints.
        item_s: of one item on one worker, or of one update.
        checkpoint_s: that training stands still for one checkpoint.
        memory: of one GPU or process while it trains.
        rate: of the operations, where there are any.
        cost_low, cost_high: of the used nodes for `wall_s`.
        notes: assumptions, and warnings such as too few nodes.
        starved: what a long step leaves idle, with the setting that mends it; empty for others.
    """

    load: StepLoad
    placement: Placement
    wall_s: float
    cpu_h: float
    gpu_h: float
    limits: dict[str, float]
    item_s: float
    checkpoint_s: float
    memory: StageMemory | None
    rate: Rate | None
    cost_low: float
    cost_high: float
    notes: tuple[str, ...]
    starved: str = ""

    @property
    def bottleneck(self) -> str:
        return max(self.limits, key=lambda name: self.limits[name])


@dataclass(frozen=True)
class RunPlan:
    """A whole run.

    Attributes:
        steps: in order.
        wall_s: sum of the steps'.
        cost_low, cost_high: sums of the steps'.
        held_low, held_high: where the whole cluster is held all the time.
    """

    recipe: Recipe
    cluster: Cluster
    units: Units
    steps: tuple[StepPlan, ...]

    @property
    def wall_s(self) -> float:
        return sum(step.wall_s for step in self.steps)

    @property
    def cost_low(self) -> float:
        return sum(step.cost_low for step in self.steps)

    @property
    def cost_high(self) -> float:
        return sum(step.cost_high for step in self.steps)

    @property
    def held_low(self) -> float:
        return self.wall_s / 3600 * sum(group.count * group.price_low for group in self.cluster.groups)

    @property
    def held_high(self) -> float:
        return self.wall_s / 3600 * sum(group.count * group.price_high for group in self.cluster.groups)


def plan_run(recipe: Recipe, cluster: Cluster, units: Units, downloads: int | None = None) -> RunPlan:
    """Every step of the recipe on the cluster.

    Raises:
        UserError: a missing unit, an unknown number of objects, a step that fits on no node, a batch that does not divide.
    """
    loads = workload(recipe, units, cluster.object_mb, downloads)
    steps = [estimate(load, cluster, units) for load in loads]
    total = sum(step.wall_s for step in steps)
    steps = [_with_hint(step, cluster) if step.wall_s > LONG * total else step for step in steps]
    return RunPlan(recipe, cluster, units, tuple(steps))


def _with_hint(step: StepPlan, cluster: Cluster) -> StepPlan:
    """A long step that leaves most of what would fit idle says so, with the setting that mends it."""
    load, placement, limited = step.load, step.placement, step.bottleneck
    if limited == "host":
        slow = f"{load.step} waits for its host, {cluster.host_files_per_s:g} files a second (host_files_per_s of the cluster file): "
        return replace(step, starved=f"{slow}an account there or --set fetch.mirrors=URL gives more")
    if placement.gpus or load.training is not None or limited not in ("CPU", "connections"):
        return step
    room = place(load.step, replace(load.resources, workers=10**9), cluster).workers
    useful = min(room, load.connections if limited == "connections" else load.items)
    cpus = max(1, round(placement.workers * load.resources.cpus))
    text = f"{load.step} uses {cpus:,} of {round(room * load.resources.cpus):,} CPUs: "
    if limited == "connections" and placement.workers >= load.connections:
        # More downloads at a time are the user's to decide: the host is someone else's.
        text += f"its {load.connections} connections are all in use, more with --set fetch.connections=N if the host allows"
        return replace(step, starved=text)
    if placement.workers * FEW <= useful:
        return replace(step, starved=f"{text}--set resources.{load.step}.workers={useful}")
    return step


def estimate(load: StepLoad, cluster: Cluster, units: Units) -> StepPlan:
    """One step. Raises UserError as `plan_run` does."""
    placement = place(load.step, load.resources, cluster)
    notes = list(load.notes)
    if placement.workers < placement.wanted:
        notes.append(
            f"the recipe wants {placement.wanted} workers and {placement.workers} fit: `mvforge run` would refuse; "
            f"planned with {placement.workers} ({_advice(load.step)})"
        )
    rate = rate_of(load, placement, units) if load.flops or load.training else None
    if load.training is not None:
        return _training(load, load.training, placement, cluster, units, rate, tuple(notes))
    item_s = load.cpu_s / placement.slowest_cpu
    limits = {}
    rounds = math.ceil(load.items / placement.workers)
    if load.cpu_s:
        limits["CPU"] = rounds * item_s + load.once_cpu_s / placement.slowest_cpu
    if load.flops and rate is not None:
        name = "GPU" if placement.gpus else "CPU"
        own = load.flops / 1e12 / rate.tflops
        # On a GPU the processor works beside it; without one both are the same processor.
        limits[name] = rounds * own + (0.0 if placement.gpus else limits.get("CPU", 0.0))
        item_s = max(item_s, own) if placement.gpus else item_s + own
    limits |= _transfer(load, placement, cluster)
    wall = max(limits.values()) + load.start_s
    limits |= _start(load)
    busy = wall - load.start_s if placement.gpus else limits.get("CPU", 0.0)
    return _priced(load, placement, wall, limits, item_s, 0.0, None, rate, tuple(notes), cpu_s=_cpu_s(load, placement, busy))


def _start(load: StepLoad) -> dict[str, float]:
    return {"start": load.start_s} if load.start_s else {}


def _cpu_s(load: StepLoad, placement: Placement, busy_s: float) -> float:
    """Processor seconds: of what is computed, or of all that workers with a GPU hold."""
    if placement.gpus:
        return busy_s * placement.workers * load.resources.cpus
    per_item = busy_s / max(1, math.ceil(load.items / placement.workers))
    return load.items * per_item * max(1.0, load.resources.cpus)


def _transfer(load: StepLoad, placement: Placement, cluster: Cluster) -> dict[str, float]:
    """Seconds that moving the step's bytes takes at the least."""
    moved = load.bytes_in + load.bytes_out
    limits = {
        "store": moved / (cluster.store_gb_per_s * 1e9),
        "network": (moved + load.bytes_internet) * 8 / (placement.rate("network_gbit") * 1e9),
    }
    if load.bytes_internet:
        limits["internet"] = load.bytes_internet * 8 / (cluster.internet_gbit * 1e9)
        # As `rendering/fetch.py` shares them out.
        shares = min(placement.workers, load.connections)
        limits["connections"] = load.bytes_internet / (shares * (load.connections // shares) * cluster.connection_mb_per_s * 1e6)
        limits["host"] = load.items / cluster.host_files_per_s
    return limits


def rate_of(load: StepLoad, placement: Placement, units: Units) -> Rate:
    """What one worker computes per second: measured on such a GPU, else its data sheet's peak times the assumed share."""
    if not placement.gpus:
        name = load.rate if load.rate in units or not load.gpu_rate else load.gpu_rate
        return Rate(units.value(name) * placement.slowest_cpu, f"{name} measured on {units.units[name].device}")
    slowest: list[Rate] = []
    for group, _ in placement.groups:
        name = load.gpu_rate or load.rate
        measured = units.on(name, group.gpu_kind)
        if measured is not None:
            slowest.append(Rate(measured * load.resources.gpus, f"{name} measured on {units.units[name].device}"))
        else:
            speed = group.peak_tflops * group.mfu * load.resources.gpus
            slowest.append(Rate(speed, f"ASSUMED: {group.mfu:.0%} of the {group.peak_tflops:g} TFLOP/s of an {group.gpu_kind}"))
    return min(slowest, key=lambda rate: rate.tflops)


def _training(
    load: StepLoad,
    training: Training,
    placement: Placement,
    cluster: Cluster,
    units: Units,
    rate: Rate | None,
    notes: tuple[str, ...],
) -> StepPlan:
    config, workers = training.config, placement.workers
    config.micro_batches(workers)  # refuses a batch that does not divide
    assert rate is not None
    name = "GPU" if placement.gpus else "CPU"
    step = {
        name: training.flops_step / 1e12 / rate.tflops / workers,
        "loading": _loading_s(training, workers, config.readers, placement, units),
        "store": training.bytes_step / (cluster.store_gb_per_s * 1e9),
    }
    if placement.nodes > 1:
        trips = RING_TRIPS * (placement.nodes - 1) / placement.nodes
        slowest = min(group.network_gbit for group, _ in placement.groups)
        step["network"] = trips * training.parameters * GRADIENT_BYTES * 8 / (slowest * 1e9)
    # The step waits for local disk alone; the upload runs beside the next steps (docs/training.md). One worker's share each.
    size = training.parameters * units.value("train.checkpoint_bytes")
    disk = min(sum(group.disk_gb_per_s * count for group, count in placement.groups), workers * units.value("train.checkpoint_gb_per_s"))
    checkpoint_s = size / (disk * 1e9)
    saved = config.steps // config.checkpoint_every if config.checkpoint_every else 0
    looked = _looking_s(training, rate, placement, units)
    wall = config.steps * max(step.values()) + saved * checkpoint_s + looked + load.start_s
    limits = {key: config.steps * seconds for key, seconds in step.items()} | _start(load)
    if looked:
        limits["validation"] = looked
    memory = stage_memory(training.parameters, config, workers, training.activation_bytes)
    room = min((group.gpu_memory_gb for group, _ in placement.groups), default=0.0)
    if placement.gpus and memory.total_high > room:
        notes += (
            f"WARNING: up to {memory.total_high:.0f} GB on a GPU of {room:.0f} GB: checkpoint_activations=true or a smaller micro_batch",
        )
    if memory.activations is None:
        why = "are recomputed" if config.checkpoint_activations else "of this stage are not estimated"
        notes += (f"memory without activations, which {why}",)
    return _priced(
        load,
        placement,
        wall,
        limits,
        max(step.values()),
        checkpoint_s,
        memory,
        rate,
        notes,
        cpu_s=wall * workers * load.resources.cpus,
    )


def _looking_s(training: Training, rate: Rate, placement: Placement, units: Units) -> float:
    """Seconds of validations and sample pictures, which one rank makes while the others wait."""
    amounts = training.validations * training.validation_flops, training.previews * training.preview_flops
    rates = [
        rate.tflops if placement.gpus or name not in units else units.value(name) * placement.slowest_cpu for name in training.looking_rates
    ]
    return sum(flops / 1e12 / tflops for flops, tflops in zip(amounts, rates, strict=True) if flops)


def _loading_s(training: Training, workers: int, readers: int, placement: Placement, units: Units) -> float:
    """Seconds that the readers of all workers need for one update."""
    parallel = workers * readers * placement.slowest_cpu
    if training.megapixels_step:
        return training.megapixels_step / (units.value("load.megapixels") * parallel)
    return training.bytes_step / (units.value("load.array_gb_per_s") * 1e9 * parallel)


def _priced(
    load: StepLoad,
    placement: Placement,
    wall: float,
    limits: dict[str, float],
    item_s: float,
    checkpoint_s: float,
    memory: StageMemory | None,
    rate: Rate | None,
    notes: tuple[str, ...],
    *,
    cpu_s: float,
) -> StepPlan:
    gpu_h = wall / 3600 * placement.workers * load.resources.gpus
    hours = wall / 3600
    return StepPlan(
        load,
        placement,
        wall,
        cpu_s / 3600,
        gpu_h,
        limits,
        item_s,
        checkpoint_s,
        memory,
        rate,
        hours * placement.price("low"),
        hours * placement.price("high"),
        notes,
    )


def with_gpu_workers(recipe: Recipe, cluster: Cluster) -> Recipe:
    """The recipe with its GPU steps on all GPUs of the cluster, in the proportions that it has; training stages take as many as
    divide their batch."""
    most = max((r.workers * r.gpus for r in recipe.resources.values() if r.gpus), default=0.0)
    if not most:
        return recipe
    scale = cluster.gpus / most
    resources = dict(recipe.resources)
    for name, asked in recipe.resources.items():
        if asked.gpus:
            resources[name] = replace(asked, workers=max(1, round(asked.workers * scale)))
    for stage, config in recipe.train.items():
        asked, name = recipe.resources_for(f"train.{stage}"), f"train.{stage}"
        if asked.gpus:
            whole, wanted = max(1, config.global_batch // config.micro_batch), max(1, round(asked.workers * scale))
            resources[name] = replace(asked, workers=max(n for n in range(1, min(wanted, whole) + 1) if whole % n == 0))
    return replace(recipe, resources=resources)


def _advice(step: str) -> str:
    """How to change the number of a step's workers."""
    return f"--set resources.{step}.workers=N"
