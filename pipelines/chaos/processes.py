"""The processes of one disturbed run: all of them, whatever became of their parents, and never anyone else's.

The run's own folder stands last in its `PATH`, the one variable that every process hands on, a Blender child too. `SPT_NOENV`
keeps Ray from overwriting a process's environment with its title.
"""

import contextlib
import os
import signal
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from infra.processes import start_time

SERVICES = ("ray::DashboardAgent", "ray::RuntimeEnvAgent")
IDLE = "ray::IDLE"
# Actors that Ray keeps for its own bookkeeping; they hold no work of ours.
RAYS_OWN = ("ActorLocationTracker", "_UsageCollectionActor", "_StatsActor", "_AutoscalingCoordinatorActor", "SynchronizationActor")


@dataclass(frozen=True)
class Process:
    """A process as it was seen: `started` in clock ticks since boot tells it from a later one of the same number."""

    pid: int
    parent: int
    started: str
    command: str

    def is_alive(self) -> bool:
        """It runs, and is no zombie."""
        return start_time(self.pid) == self.started and state_of(self.pid) not in ("Z", "X", "")

    def send(self, number: int) -> bool:
        """Send a signal; False when it has ended."""
        if not self.is_alive():
            return False
        try:
            os.kill(self.pid, number)
        except ProcessLookupError:
            return False
        return True

    @property
    def kind(self) -> str:
        """`blender`, `train_worker`, `train_controller`, `actor`, `worker`, `idle`, `raylet`, `gcs`, or `other`."""
        text = self.command
        if "/blender_script.py" in text:
            return "blender"
        if "/raylet/raylet" in text:
            return "raylet"
        if "/gcs/gcs_server" in text:
            return "gcs"
        if not text.startswith("ray::") or text.startswith(SERVICES):
            return "other"
        if text.startswith(IDLE):
            return "idle"
        if "RayTrainWorker" in text:
            return "train_worker"
        if "TrainController" in text:
            return "train_controller"
        if text.startswith(tuple(f"ray::{name}" for name in RAYS_OWN)):
            return "other"
        return "actor" if "MapWorker" in text else "worker"


def state_of(pid: int) -> str:
    """The kernel's letter for what a process does (R, S, T, Z, ...); empty when there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return ""


# Others' processes by number, with the time of their entry in /proc: most of what is there, and read once.
_others: dict[str, int] = {}


def of_run(mark: str) -> list[Process]:
    """All living processes whose `PATH` ends with the folder `mark`."""
    found, wanted = [], f":{mark}".encode()
    for entry in os.scandir("/proc"):
        if not entry.name.isdigit():
            continue
        with contextlib.suppress(OSError, IndexError):
            since = entry.stat().st_ctime_ns
            if _others.get(entry.name) == since:
                continue
            variables = Path(entry.path, "environ").read_bytes().split(b"\0")
            if not any(each.startswith(b"PATH=") and each.endswith(wanted) for each in variables):
                _others[entry.name] = since
                continue
            command = Path(entry.path, "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
            fields = Path(entry.path, "stat").read_text().rpartition(")")[2].split()
            if fields[0] not in ("Z", "X"):
                found.append(Process(int(entry.name), int(fields[1]), fields[19], command))
    return found


def below(pid: int, processes: Iterable[Process]) -> list[Process]:
    """Those of the processes that descend from one."""
    parents, found = {pid}, []
    rest = list(processes)
    while more := [each for each in rest if each.parent in parents]:
        found += more
        parents |= {each.pid for each in more}
        rest = [each for each in rest if each not in more]
    return found


def end_all(mark: str, patience_s: float = 10.0) -> list[Process]:
    """Kill every process of the run, paused ones too; returns those that were there."""
    there = of_run(mark)
    deadline = time.monotonic() + patience_s
    while (living := of_run(mark)) and time.monotonic() < deadline:
        for each in living:
            each.send(signal.SIGKILL)
        time.sleep(0.1)
    return there
