"""One pass: the run is started, its faults are injected one after the other, and what dies is started again, until it has finished.

What a person or a cluster's manager would do is done here and nothing more: lost services come back after a moment, a driver that
ended is started again with the same command once everything is up, and what an error message tells to do (`--rerun STEP`) is done.

The recovery time of a fault is the time from the fault to the next *progress* of the work, that is to a mark of finished work
(see `pipelines.chaos.progress`) that was never there before in this pass. It contains everything: noticing the death, starting
again, and doing again what was lost. Work that goes on undisturbed beside the fault counts as well, so it is the time for which
the run as a whole stood still; what the workers of a lost node finish before they notice does not count. A damaged shard does no
harm until it is read: it counts from the end of the run that found it. Where no mark follows, because the run was through, the
end of the run counts.
"""

import json
import re
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random

from infra.processes import start_time
from infra.seeds import seed_for
from pipelines.chaos import damage
from pipelines.chaos.faults import KINDS, Durations
from pipelines.chaos.ledger import INJECTED, MISSED, FaultRow
from pipelines.chaos.processes import Process
from pipelines.chaos.progress import Progress
from pipelines.chaos.schedule import DELAY_S, Planned
from pipelines.chaos.services import ROOT, Services

LOOK_S = 0.2
# No progress for so long is a run that hangs.
HANG_S = 420.0
# Ends of the driver that no fault explains, in a row.
UNEXPLAINED = 2
MEND = re.compile(r"--rerun ([a-z0-9.]+)")
TAIL_LINES = 12


class Stuck(Exception):
    """The run does not come to its end; says why."""


@dataclass
class _Open:
    """A fault that the work has not got over yet.

    Attributes:
        starts: of the driver before it.
        found: its harm has been seen (of most kinds at once).
        done_at: epoch seconds when it was all over; what was hit may finish a piece of work until then.
    """

    row: FaultRow
    starts: int
    found: bool
    done_at: float

    @property
    def at(self) -> float:
        return self.row.at or 0.0


class Disturbed:
    """A run of the pipeline under faults; `run` returns when it has finished. Also the `Scene` of the injections.

    Args:
        command: arguments of `mvforge run`, with the recipe first.
        steps: of the run, in order.
        planned: faults in the order of the steps.
        amounts: pieces of work in each step.
        disk_full: why the disk cannot be filled, empty when it can.
    """

    def __init__(
        self,
        services: Services,
        command: list[str],
        steps: list[str],
        planned: list[Planned],
        amounts: dict[str, int],
        seed: int,
        number: int,
        durations: Durations,
        disk_full: str,
        report: Callable[[FaultRow], None],
        say: Callable[[str], None],
    ) -> None:
        self.services, self.store, self.durations, self.disk_full = services, services.store, durations, disk_full
        self.random = Random(seed_for(seed, "chaos faults", number))
        self.step = steps[0]
        self.starts = 0
        self.ends: list[str] = []
        self._command, self._steps, self._queue, self._number = command, steps, deque(planned), number
        self._report, self._say, self._amounts = report, say, amounts
        self._driver: subprocess.Popen[bytes] | None = None
        self._driver_started = ""
        self._log = self._result = services.logs
        self._later: list[tuple[float, Callable[[], None]]] = []
        self._open: list[_Open] = []
        self._unexplained = 0
        self._since: float | None = None  # when there was first something to hit for the fault that is next
        self._reruns: deque[str] = deque()
        self._rerunning = self._finished = False
        self.progress = Progress(self.store)

    # What injections use.

    def driver(self) -> Process | None:
        if self._driver is None or self._driver.poll() is not None:
            return None
        return Process(self._driver.pid, 0, self._driver_started, "mvforge run")

    def later(self, seconds: float, action: Callable[[], None]) -> None:
        self._later.append((time.monotonic() + seconds, action))

    # The pass.

    def run(self) -> None:
        """Raises Stuck when the run hangs or ends without a reason."""
        seen, moved = 0, time.monotonic()
        try:
            while True:
                time.sleep(LOOK_S)
                self.services.tend()
                self._do_later()
                if (count := self.progress.count()) != seen:
                    seen, moved = count, time.monotonic()
                if time.monotonic() - moved > HANG_S:
                    raise Stuck(f"no progress for {HANG_S:.0f} s in step {self.step}; last of {self._log.name}: {self._tail()}")
                self.step = self._step_now()
                self._close_recovered()
                if self.driver() is None and self._ended():
                    return
                if self.driver() is not None and not self._rerunning:
                    self._next_fault()
        finally:
            self._end_driver()
            self.progress.close()

    def _ended(self) -> bool:
        """The driver does not run: whether all is over, with all services up again; a driver that has not finished is started again."""
        if self._driver is not None:
            status = self._driver.wait()
            self._driver = None
            if status == 0 and not self._rerunning:
                self._finish()
            elif not self._rerunning or status != 0:
                self._note_end(status)
            self._rerunning = False
        if not self.services.has_head():
            self.services.lose_head()
            self.services.start_cluster()
        ready = self.services.are_up() and not self._later
        if ready and not self._finished:
            self._start_driver()
        return ready and self._finished

    def _finish(self) -> None:
        self._finished = True
        self.progress.look()
        for each in self._open:
            self._close(each, time.time())
        self._open.clear()
        while self._queue:
            self._miss(self._queue.popleft(), "the run had finished")

    def _note_end(self, status: int) -> None:
        tail = self._tail()
        self.ends.append(f"{self._log.name} in {self.step}: status {status}: {tail[-600:]}")
        self._say(f"    the driver ended with status {status} in {self.step}")
        self._unexplained = 0 if self._open else self._unexplained + 1
        for each in self._open:
            if not each.found:  # damage does no harm until it is read
                each.done_at = time.time()
                each.row, each.found = replace(each.row, at=each.done_at), True
        if self._unexplained > UNEXPLAINED:
            raise Stuck(f"the run ended {self._unexplained} times with no fault in between, last in {self.step}: {tail}")
        for step in MEND.findall(tail):
            if step in self._steps and step not in self._reruns:
                self._reruns.append(step)

    def _start_driver(self) -> None:
        self.starts += 1
        rerun = [word for step in self._reruns for word in ("--rerun", step)]
        self._rerunning = bool(self._reruns)
        self._reruns.clear()
        self._log = self.services.logs / f"driver-{self.starts:02d}.log"
        self._result = self._log.with_suffix(".json")
        command = [sys.executable, "-m", "pipelines", "run", *self._command, *rerun, "--json"]
        with open(self._log, "wb") as log, open(self._result, "wb") as result:
            self._driver = subprocess.Popen(
                command,
                cwd=ROOT,
                env=self.services.environment(),
                stdin=subprocess.DEVNULL,
                stdout=result,
                stderr=log,
                start_new_session=True,
            )
        self._driver_started = start_time(self._driver.pid)

    def _tail(self) -> str:
        """The end of the driver's log, with what it printed as JSON on a mistake."""
        if not self._log.is_file():
            return ""
        lines = [line for line in self._log.read_text(errors="replace").splitlines() if line.strip()]
        return "\n".join(lines[-TAIL_LINES:])

    def _step_now(self) -> str:
        """The step whose lease is held, the last one if there are several."""
        held = [step for step in self._steps if any((self.store / step).glob("*/lease.json"))]
        return held[-1] if held else self.step

    def _do_later(self) -> None:
        due = [action for moment, action in self._later if time.monotonic() >= moment]
        self._later = [(moment, action) for moment, action in self._later if time.monotonic() < moment]
        for action in due:
            action()

    # Faults.

    def _next_fault(self) -> None:
        while self._queue and self._steps.index(self._queue[0].step) < self._steps.index(self.step):
            planned = self._queue.popleft()
            self._miss(planned, "there was nothing to hit" if self._since is None else "the step ended before its time")
        if not self._queue or self._queue[0].step != self.step:
            return
        planned = self._queue[0]
        if (self._open and not planned.at_once) or not self.services.are_up() or self._later:
            return
        kind = KINDS[planned.kind]
        if self._since is None:
            if self.progress.finished_in(self.step) < int(planned.work * self._amounts.get(self.step, 0)) or not kind.present(self):
                return
            self._since = time.monotonic()
        if time.monotonic() < self._since + planned.delay * DELAY_S:
            return
        starts, at = self.starts, time.time()
        hit = kind.inject(self)
        if hit is None:
            return  # tried again while the step lasts
        self._queue.popleft()
        self._since, self._unexplained = None, 0
        row = FaultRow(self._number, kind.name, self.step, INJECTED, hit, at)
        self._open.append(_Open(row, starts, not kind.found_late, time.time()))
        self._say(f"    {time.strftime('%H:%M:%S')} {self.step}: {kind.text} ({hit})")

    def _miss(self, planned: Planned, why: str) -> None:
        self._since = None
        self._report(FaultRow(self._number, planned.kind, planned.step, MISSED, outcome=why))

    def _close_recovered(self) -> None:
        # A driver that dies of a fault dies of this one: none is over before everything runs again.
        if not self.services.are_up() or self._later or self.driver() is None or self._rerunning:
            return
        for each in list(self._open):
            moment = self.progress.next_after(each.done_at) if each.found else None
            if moment is not None:
                self._close(each, moment)
                self._open.remove(each)

    def _close(self, fault: _Open, moment: float) -> None:
        """Write the fault down; `moment` is the end of the run where no progress followed."""
        row, more = fault.row, self.starts - fault.starts
        first = self.progress.next_after(fault.done_at) or moment
        outcome = "went on by itself" if not more else f"went on when started again{f' {more} times' if more > 1 else ''}"
        if not fault.found:
            outcome = "not read any more"
        repeated = self.progress.repeated_after(fault.at)
        seconds = round(first - fault.at, 2)
        self._report(replace(row, recovery_s=seconds, repeated=repeated, outcome=outcome))
        self._say(f"             {row.kind}: {seconds:.1f} s to the next progress, {repeated} pieces of work repeated, {outcome}")

    def _end_driver(self) -> None:
        damage.empty(self.store)
        for _, action in self._later:
            action()
        self._later.clear()
        if self._driver is not None and self._driver.poll() is None:
            self._driver.send_signal(signal.SIGKILL)
            self._driver.wait()

    def result(self) -> dict:
        """What the last `mvforge run` printed."""
        return json.loads(Path(self._result).read_text())
