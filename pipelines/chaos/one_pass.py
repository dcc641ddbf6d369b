"""A pass from nothing to its verdict: services, the disturbed run, the invariants, and everything put away again."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.chaos import damage, invariants, processes, registry, results
from pipelines.chaos.disturb import Disturbed, Stuck
from pipelines.chaos.faults import Durations
from pipelines.chaos.ledger import FaultRow, PassRow
from pipelines.chaos.schedule import Planned
from pipelines.chaos.services import ROOT, Services

SCRATCH_NOTE = "scratch.txt"
SHARED_MEMORY = Path("/dev/shm")
QUIET_S = 40.0
WORK = ("blender", "worker", "actor", "train_worker", "train_controller")
COMMAND_S = 900.0
OLD_S = 7200.0
RETRIES = 2


@dataclass(frozen=True)
class Course:
    """What every pass of a chaos run has in common.

    Attributes:
        out: folder of the whole chaos run.
        recipe: name of the recipe or its import path.
        options: further arguments of `mvforge run`.
        steps: those that are run, in order.
    """

    out: Path
    recipe: str
    options: list[str]
    steps: list[str]
    seed: int
    durations: Durations
    say: Callable[[str], None]


def run_pass(course: Course, number: int, planned: list[Planned], reference: Path | None, report: Callable[[FaultRow], None]) -> PassRow:
    """Run one pass and check it.

    Args:
        reference: store of an undisturbed run; None for that run itself, whose store is kept in `<out>/reference`.
    """
    folder = course.out / (f"pass-{number:03d}" if reference else "reference")
    remove(folder)
    folder.mkdir(parents=True)
    scratch = Path(tempfile.mkdtemp(prefix="mvc-"))
    (folder / SCRATCH_NOTE).write_text(str(scratch))
    services = Services(folder, scratch, folder / "store")
    # The reference stays on disk.
    amounts = {step: results.amount(build) for step, build in results.finished(reference, course.steps).items()} if reference else {}
    disk_full = damage.mount(services.store) if reference else "not disturbed"
    began = time.monotonic()
    try:
        with _Seen(str(folder)) as seen:
            services.start()
            course.say(f"pass {number}: {len(planned)} faults planned, services up after {time.monotonic() - began:.0f} s")
            run = Disturbed(
                services,
                [course.recipe, *course.options],
                course.steps,
                planned,
                amounts,
                course.seed,
                number,
                course.durations,
                disk_full,
                report,
                course.say,
            )
            broken: list[str] = []
            facts: dict[str, Any] = {"disk_full": disk_full}
            try:
                run.run()
                broken += _checked(course, services, reference or services.store, run, facts)
            except Stuck as error:
                broken.append(str(error))
            alive = services.stop()
            if alive:
                broken.append(f"{len(alive)} processes were left: " + "; ".join(f"{each.pid} {each.command[:80]}" for each in alive[:5]))
        if not broken:
            broken += invariants.tidy(services.store, scratch, SHARED_MEMORY, seen.pids)
        seconds = round(time.monotonic() - began, 1)
        facts |= {"ends": run.ends, "deviation": None}
        if not broken and reference is not None:
            facts["deviation"] = invariants.largest_deviation(services.store, reference, course.steps)
        row = PassRow(number, broken, seconds, run.starts, 0, facts)
        _put_away(folder, scratch, keep_store=bool(broken), keep_folder=reference is None)
        return row
    finally:
        processes.end_all(str(folder))
        damage.unmount(services.store)
        shutil.rmtree(scratch, ignore_errors=True)


class _Seen:
    """Numbers of all processes of a run, noted every second while the block runs."""

    def __init__(self, mark: str) -> None:
        self.pids: set[int] = set()
        self._mark, self._ended = mark, threading.Event()
        self._thread = threading.Thread(target=self._look, name="processes", daemon=True)

    def _look(self) -> None:
        while not self._ended.wait(1.0):
            self.pids |= {each.pid for each in processes.of_run(self._mark)}

    def __enter__(self) -> "_Seen":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()


def _checked(course: Course, services: Services, reference: Path, run: Disturbed, facts: dict[str, Any]) -> list[str]:
    """Everything that can be asked while the services are up; sentences for what does not hold."""
    facts["retried"] = _retry_failed(course, services, reference)
    broken = list(_quiet(services))
    again = mvforge(services, "run", course.recipe, *course.options)
    if again.get("ran") != []:
        broken.append(f"a second run does {again.get('ran', again)} again")
    status = mvforge(services, "status", course.recipe)
    states = {row["step"]: row["state"] for row in status.get("steps", []) if row["step"] in course.steps}
    if unfinished := {step: state for step, state in states.items() if state != "done"}:
        broken.append(f"mvforge status says {unfinished}")
    facts["collected"] = _collect(services)
    builds = results.finished(services.store, course.steps)
    broken += invariants.records(services.store, course.steps)
    if not broken:
        broken += invariants.objects(services.store, reference, course.steps)
        broken += invariants.curves(services.store, reference, course.steps)
        broken += invariants.figures(services.store, reference, course.steps)
        broken += registry.versions(services.tracking_uri, builds)
        broken += registry.runs(services.tracking_uri, builds)
    return broken


def _quiet(services: Services) -> Iterator[str]:
    """Some time after the driver has ended nothing works any more, though the cluster is up."""
    deadline = time.monotonic() + QUIET_S
    while left := [each for each in processes.of_run(str(services.folder)) if each.kind in WORK]:
        if time.monotonic() > deadline:
            yield f"{len(left)} workers go on without a driver: " + "; ".join(f"{each.pid} {each.command[:80]}" for each in left[:5])
            return
        time.sleep(0.5)


def _retry_failed(course: Course, services: Services, reference: Path) -> list[str]:
    """Objects that failed for a fault are tried again, as a person would; returns the steps."""
    retried = []
    theirs = results.finished(reference, course.steps)
    for _ in range(RETRIES):
        ours = results.finished(services.store, course.steps)
        failed = [step for step in ours if step in results.LEDGERS and _failures(ours[step]) - _failures(theirs[step])]
        if not failed:
            break
        retried.append(failed[0])
        course.say(f"    objects failed in {failed[0]}: --retry-failed")
        mvforge(services, "run", course.recipe, *course.options, "--retry-failed", failed[0])
        mvforge(services, "run", course.recipe, *course.options)
    return retried


def _failures(build: results.Finished) -> set[str]:
    return {uid for uid, status in results.statuses(build) if status == "failed"}


def _collect(services: Services) -> int:
    """Temporary files of killed writers made old, and `mvforge gc --delete`, which has to find them; how many there were."""
    old = [path for path in services.store.rglob(".*.tmp")]
    for path in old:
        os.utime(path, (time.time() - OLD_S,) * 2)
    mvforge(services, "gc", "--delete")
    return len(old)


def mvforge(services: Services, *arguments: str) -> dict[str, Any]:
    """A command in the pass's environment; its JSON, or `{"failed": the end of its log}`."""
    done = subprocess.run(
        [sys.executable, "-m", "pipelines", *arguments, "--json"],
        cwd=ROOT,
        env=services.environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=COMMAND_S,
    )
    if done.returncode:
        return {"failed": done.stderr[-600:]}
    return json.loads(done.stdout)


def _put_away(folder: Path, scratch: Path, keep_store: bool, keep_folder: bool) -> None:
    """What stays of a pass: of one that failed everything, of others the logs."""
    store = folder / "store"
    if keep_store:
        if os.path.ismount(store):
            shutil.copytree(store, folder / "store-kept")
        for session in scratch.glob("ray/session_2*"):
            if not session.is_symlink():
                shutil.copytree(session / "logs", folder / "ray-logs" / session.name, ignore_dangling_symlinks=True)
        return
    if not keep_folder:
        damage.unmount(store)
        for name in ("store", "home", "mlflow"):
            shutil.rmtree(folder / name, ignore_errors=True)


def remove(folder: Path) -> None:
    """What an interrupted call left of a pass: processes, the mounted store, the scratch folder, the files."""
    if not folder.exists():
        return
    processes.end_all(str(folder))
    damage.unmount(folder / "store")
    note = folder / SCRATCH_NOTE
    if note.exists():
        shutil.rmtree(note.read_text(), ignore_errors=True)
    shutil.rmtree(folder)
