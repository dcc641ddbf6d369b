"""The kinds of faults: where each can happen, and what is done. Processes get SIGKILL: no handler runs, nothing is flushed."""

import signal
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Protocol

from pipelines.chaos import damage, processes
from pipelines.chaos.processes import Process
from pipelines.chaos.services import Services

TASKS = ("fetch", "curate", "reconstruct", "score")
POOLS = ("render", "encode", "generate")
RESTART_S = 2.0


@dataclass(frozen=True)
class Durations:
    """Seconds that lasting faults last: a pause, a full disk, an outage of the tracking server."""

    pause_s: float = 10.0
    disk_s: float = 5.0
    outage_s: float = 60.0


class Scene(Protocol):
    """What an injection may touch."""

    services: Services
    store: Path
    step: str
    random: Random
    durations: Durations
    disk_full: str

    def driver(self) -> Process | None:
        """The process of `mvforge run`, while it lives."""
        ...

    def later(self, seconds: float, action: Callable[[], None]) -> None:
        """Do something after so many seconds, before the next fault."""
        ...


Inject = Callable[[Scene], str | None]
"""Does the fault; returns what was hit, or None when there was nothing to hit (and nothing was done)."""


@dataclass(frozen=True)
class Kind:
    """One kind of fault.

    Attributes:
        text: for the table.
        steps: names of steps, or what they begin with, in which it can happen; empty for all.
        present: whether there is something to hit.
        until: it comes before so large a share of the step's work is finished.
        found_late: it does no harm before somebody reads what it damaged.
    """

    name: str
    text: str
    steps: tuple[str, ...]
    present: Callable[[Scene], bool]
    inject: Inject
    until: float = 0.75
    found_late: bool = False

    def fits(self, step: str) -> bool:
        return not self.steps or any(step == each or step.startswith(f"{each}.") for each in self.steps)


def _living(scene: Scene, *kinds: str) -> list[Process]:
    return [each for each in processes.of_run(str(scene.services.folder)) if each.kind in kinds]


def _kill_one(scene: Scene, *kinds: str) -> str | None:
    there = _living(scene, *kinds)
    if not there:
        return None
    victim = scene.random.choice(sorted(there, key=lambda each: each.pid))
    return f"{victim.pid} {_title(victim)}" if victim.send(signal.SIGKILL) else None


def _title(process: Process) -> str:
    return "Blender" if process.kind == "blender" else process.command.partition(" ")[0].rpartition("/")[2][:60]


def _kind_of_process(name: str, text: str, steps: Iterable[str], *kinds: str) -> Kind:
    return Kind(name, text, tuple(steps), lambda scene: bool(_living(scene, *kinds)), lambda scene: _kill_one(scene, *kinds))


def _kill_driver(scene: Scene) -> str | None:
    driver = scene.driver()
    return f"{driver.pid} mvforge run" if driver is not None and driver.send(signal.SIGKILL) else None


def _kill_raylet(scene: Scene) -> str | None:
    raylet = scene.services.node_raylet()
    if raylet is None:
        return None
    lost = scene.services.lose_node(raylet, RESTART_S)
    busy = sorted({each.kind for each in lost} - {"idle", "other"})
    return f"{raylet.pid} raylet of the node, with {', '.join(busy) or 'no work'} on it"


def _kill_head(scene: Scene) -> str | None:
    victims = scene.services.lose_head()
    return f"head, node and driver, {len(victims)} processes"


def _kill_mlflow(scene: Scene) -> str | None:
    victims = scene.services.kill_mlflow(RESTART_S)
    return f"{len(victims)} processes, started again after {RESTART_S:g} s"


def _drop_tracking(scene: Scene) -> str | None:
    scene.services.kill_mlflow(scene.durations.outage_s)
    return f"no server for {scene.durations.outage_s:g} s"


def _pause(scene: Scene) -> str | None:
    """One process of any kind stands still for a while."""
    there = _living(scene, "blender", "worker", "actor", "train_worker", "train_controller", "raylet")
    if (driver := scene.driver()) is not None:
        there.append(driver)
    kinds = sorted({each.kind for each in there})
    if not kinds:
        return None
    chosen = scene.random.choice(kinds)
    victim = scene.random.choice(sorted((each for each in there if each.kind == chosen), key=lambda each: each.pid))
    if not victim.send(signal.SIGSTOP):
        return None

    def go_on() -> None:
        victim.send(signal.SIGCONT)

    scene.later(scene.durations.pause_s, go_on)
    return f"{victim.pid} {_title(victim)} for {scene.durations.pause_s:g} s"


def _fill_disk(scene: Scene) -> str | None:
    if scene.disk_full:
        return None
    written = damage.fill(scene.store)
    scene.later(scene.durations.disk_s, lambda: damage.empty(scene.store))
    return f"{written}, for {scene.durations.disk_s:g} s"


def _corrupt(scene: Scene) -> str | None:
    return damage.corrupt_shard(scene.store, _shard_step(scene), scene.random)


def _shard_step(scene: Scene) -> str:
    """Whose shards the step reads."""
    return "render" if scene.step in ("curate", "train.mvae") else "encode"


def _truncate(scene: Scene) -> str | None:
    """The newest checkpoint is cut, and a worker killed so that it is asked for."""
    if not _living(scene, "train_worker"):
        return None
    hit = damage.truncate_checkpoint(scene.store, scene.step, scene.random)
    return f"{hit}, and {_kill_one(scene, 'train_worker') or 'no worker'} killed" if hit else None


def _has_checkpoint(scene: Scene) -> bool:
    return any((scene.store / scene.step).glob("*/*/state/*/step-*/manifest.json"))


KINDS = {
    kind.name: kind
    for kind in (
        _kind_of_process("blender", "Blender child killed", ("render",), "blender"),
        _kind_of_process("worker", "Ray worker (a task) killed", TASKS, "worker"),
        _kind_of_process("actor", "Ray actor killed", POOLS, "actor"),
        _kind_of_process("train_worker", "train worker killed", ("train",), "train_worker"),
        _kind_of_process("train_controller", "train controller killed", ("train",), "train_controller"),
        Kind("raylet", "raylet of a node killed", (), lambda scene: scene.services.node_raylet() is not None, _kill_raylet),
        Kind("driver", "driver killed", (), lambda scene: scene.driver() is not None, _kill_driver),
        Kind("head", "head's machine lost, with the driver", (), lambda scene: scene.driver() is not None, _kill_head),
        Kind("mlflow", "MLflow server killed, started again at once", (), lambda scene: scene.services.is_up("mlflow"), _kill_mlflow),
        Kind("outage", "MLflow server away for a while", (), lambda scene: scene.services.is_up("mlflow"), _drop_tracking),
        Kind("pause", "a process paused (SIGSTOP)", (), lambda scene: scene.driver() is not None, _pause),
        Kind("disk_full", "disk full", (), lambda scene: not scene.disk_full and scene.driver() is not None, _fill_disk),
        Kind("corrupt_shard", "bytes of a shard flipped", ("curate", "train.mvae", "train.unet1"), lambda scene: True, _corrupt, 0.3, True),
        Kind("truncated_checkpoint", "newest checkpoint truncated, train worker killed", ("train",), _has_checkpoint, _truncate),
    )
}
