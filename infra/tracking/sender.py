"""The thread that makes tracking calls in order, and the journal that they wait in; `infra.tracking.outbox` says what for."""

import json
import logging
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from infra.tracking import calls
from infra.tracking.faults import is_final
from infra.tracking.journal import REFUSED, Call, Journal, abandoned
from infra.tracking.stores import answers, first_line, shown

OWN = "own-"
"""What our ids of runs begin with, that the server has yet to name."""
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 10.0
TRIES_OF_A_SERVER_THAT_ANSWERS = 5
CREATE_PATIENCE_S = 5.0
LOST_PATIENCE_S = 2.0

log = logging.getLogger(__name__)


class Outbox:
    """One address, one journal, one sending thread."""

    def __init__(self, uri: str, folder: Path, say: Callable[[str], None]) -> None:
        self.uri, self.folder, self.say = uri, folder, say
        self._journal = Journal.new(folder)
        self._changed = threading.Condition()
        self._waiting: deque[Call] = deque()
        self._data: dict[int, bytes] = {}  # of calls that the disk did not take
        self._count = 0
        self._refused_runs: dict[str, Exception] = {}
        self._parents: dict[str, str | None] = {}
        self._last_steps: dict[tuple[str, str], int] = {}
        self._lost_since: float | None = None
        self._attempts = 0
        self._closing = self._hurried = False
        self._others = _Others(self)
        self._others_left = True
        self._thread = threading.Thread(target=self._send, name="tracking outbox", daemon=True)
        self._thread.start()

    # What runs ask of it.

    def submit(self, kind: str, run: str, given: dict[str, Any], data: bytes | None = None) -> None:
        """Note a call and return; the thread makes it."""
        with self._changed:
            # The server's id where it is known: the journal forgets ids together with the calls that it is through with.
            call = Call(self._count, time.time(), kind, self.real(run), given)
            self._count += 1
            try:
                self._journal.add(call, data)
            except OSError:
                log.exception("a tracking call cannot be noted on disk, and is lost if this process dies before it is sent")
                call.file = None
                if data is not None:
                    self._data[call.number] = data
            self._waiting.append(call)
            if kind == "metrics":
                for name, _, _, step in given["rows"]:
                    self._last_steps[run, name] = max(step, self._last_steps.get((run, name), step))
            self._changed.notify_all()

    def create_run(self, given: dict[str, Any]) -> str:
        """Our id of a new run; returns when the server has made it, or after a moment in which it has not answered.

        Raises:
            UserError: the server refuses to make it.
        """
        own = f"{OWN}{uuid.uuid4().hex}"
        parent = given["tags"].get("mlflow.parentRunId")
        self._parents[own] = parent
        self.submit(
            "create", own, given if parent is None else {**given, "tags": {**given["tags"], "mlflow.parentRunId": self.real(parent)}}
        )
        self._wait(lambda: own in self._journal.ids or own in self._refused_runs, CREATE_PATIENCE_S)
        if own in self._refused_runs:
            raise self._refused_runs[own]
        return own

    def real(self, run: str) -> str:
        """The server's id of a run, or ours as long as it has none."""
        return self._journal.ids.get(run, run)

    def is_new(self, run: str) -> bool:
        """Whether the run was made through this outbox, which then knows all that is in it."""
        return run in self._parents

    def parent(self, run: str) -> str | None:
        """Of a new run."""
        return self._parents[run]

    def last_step(self, run: str, metric: str) -> int | None:
        """Of a new run."""
        return self._last_steps.get((run, metric))

    @property
    def lost(self) -> bool:
        """Whether the server did not answer the last call, or leaves one waiting for longer than a moment."""
        with self._changed:
            oldest = self._waiting[0].at if self._waiting else None
        return self._lost_since is not None or oldest is not None and time.time() - oldest > CREATE_PATIENCE_S

    @property
    def waiting(self) -> int:
        """Calls that the server has not got, if it is lost; 0 while all goes well."""
        return len(self._waiting) if self.lost else 0

    def flush(self, patience_s: float) -> bool:
        """Wait until all is sent, or the server proves to be lost; whether nothing waits any more."""
        before = self._attempts
        self._wait(lambda: self._idle() or self._lost_since is not None and self._attempts > before, patience_s, hurry=True)
        return self._idle()

    def require_sent(self, run: str) -> None:
        """Wait until this process's calls are made.

        Raises:
            ConnectionError: the server is lost.
            Exception: what the server said when it refused to make the run.
        """
        while self._waiting:
            self._wait(lambda: not self._waiting, 1.0, hurry=True)
            if self._waiting and self._lost_since is not None:
                raise ConnectionError(f"{len(self._waiting)} tracking calls wait")
        if run in self._refused_runs:
            raise self._refused_runs[run]

    def close(self, patience_s: float) -> None:
        """Send what can be sent now and stop; what is left stays in the journal."""
        sent = self.flush(LOST_PATIENCE_S if self.lost else patience_s)
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join(1.0)  # a request to a server that stands still is left behind: the thread is a daemon
        if sent and not self._thread.is_alive():
            self._journal.remove()
            return
        if not sent:
            self.say(
                f"{len(self._waiting)} tracking calls wait in {self._journal.path} for the MLflow server {shown(self.uri)}: the next run "
                "sends them, or `mvforge tracking --send`"
            )
        if not self._thread.is_alive():
            self._journal.close()

    def _idle(self) -> bool:
        return not self._waiting and not self._others_left

    def _wait(self, ready: Callable[[], bool], patience_s: float, hurry: bool = False) -> None:
        with self._changed:
            if hurry:
                self._hurried = True
                self._changed.notify_all()
            if self._lost_since is not None and not hurry:
                return
            self._changed.wait_for(lambda: ready() or self._lost_since is not None and not hurry, patience_s)

    # What the thread does.

    def _send(self) -> None:
        pause = FIRST_PAUSE_S
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closing or bool(self._waiting) or self._others_left)
                if self._closing:
                    return
                own = self._waiting[0] if self._waiting else None
            try:
                if own is not None:
                    self._make(self._journal, own)
                else:
                    self._others_left = next(self._others, False)
            except Exception as error:
                self._note_lost(error)
                with self._changed:
                    self._attempts += 1
                    self._changed.notify_all()
                    self._changed.wait_for(lambda: self._closing or self._hurried, pause)
                    self._hurried = False
                pause = min(2 * pause, LONGEST_PAUSE_S)
                continue
            pause = FIRST_PAUSE_S
            self._note_back()
            with self._changed:
                self._attempts += 1
                if own is not None:
                    self._waiting.popleft()
                    self._data.pop(own.number, None)
                    self._mark_done(self._journal, own, len(self._waiting))
                self._changed.notify_all()

    def _make(self, journal: Journal, call: Call) -> None:
        """Make a call, or put it aside when it can never succeed. Raises when it should be tried again."""
        run = journal.ids.get(call.run, call.run)
        if call.run in self._refused_runs:
            self._refuse(call, self._refused_runs[call.run])
            return
        try:
            if call.kind == "create":
                tags = call.given["tags"]
                if parent := tags.get("mlflow.parentRunId"):
                    tags = {**tags, "mlflow.parentRunId": journal.ids.get(parent, parent)}
                made = calls.create_run(self.uri, {**call.given, "tags": tags}, call.run, again=call.tries > 0)
                with self._changed:
                    self._note_name(journal, call.run, made)
                return
            if run.startswith(OWN):  # its name was not noted, on a full disk
                found = calls.find_run(self.uri, run)
                if found is None:
                    raise LookupError(f"the server has no run {run}")
                journal.ids[run], run = found, found
            data = (journal.files / call.file).read_bytes() if call.file is not None else self._data.get(call.number)
            calls.perform(self.uri, call.kind, run, call.given, data)
        except Exception as error:
            call.tries += 1
            if not is_final(error):
                call.refusals = call.refusals + 1 if answers(self.uri) else 0
                if call.refusals < TRIES_OF_A_SERVER_THAT_ANSWERS:
                    raise
            self._refuse(call, error)

    def _note_name(self, journal: Journal, own: str, made: str) -> None:
        try:
            journal.named(own, made)
        except OSError:
            log.exception("the id of a run cannot be noted on disk; a later process looks for it at the server")

    def _refuse(self, call: Call, error: Exception) -> None:
        log.warning("the MLflow server refuses '%s' for run %s, which is put aside: %s", call.kind, call.run, first_line(error))
        if call.kind == "create":
            self._refused_runs[call.run] = error
        with open(self.folder / REFUSED, "a") as stream:
            stream.write(json.dumps({**asdict(call), "error": str(error)}) + "\n")

    def _mark_done(self, journal: Journal, call: Call, remaining: int) -> None:
        try:
            journal.done(call, remaining)
        except OSError:
            log.exception("that a tracking call was made cannot be noted on disk; it may be made twice, which changes nothing")

    def _note_lost(self, error: Exception) -> None:
        if self._lost_since is None:
            self._lost_since = time.monotonic()
            where = f"work goes on, tracking calls wait in {self._journal.path}"
            self.say(f"the MLflow server {shown(self.uri)} is lost ({first_line(error)}): {where}")

    def _note_back(self) -> None:
        if self._lost_since is not None:
            seconds, self._lost_since = time.monotonic() - self._lost_since, None
            self.say(f"the MLflow server {shown(self.uri)} is back after {seconds:.0f} s: {len(self._waiting)} tracking calls are sent")


class _Others:
    """Journals that processes left behind, call by call; an iterator that survives an error, which a generator does not."""

    def __init__(self, box: Outbox) -> None:
        self._box, self._journals = box, abandoned(box.folder)
        self._journal: Journal | None = None

    def __iter__(self) -> "_Others":
        return self

    def __next__(self) -> bool:
        if self._journal is None:
            self._journal = next(self._journals)
            if self._journal.calls:
                self._box.say(f"{len(self._journal.calls)} tracking calls of an earlier run are being sent")
        if not self._journal.calls:
            self._journal.remove()
            self._journal = None
            return True
        call = self._journal.calls[0]
        # The first of them may have been under way when its process ended.
        call.tries = max(call.tries, 1)
        self._box._make(self._journal, call)
        del self._journal.calls[0]
        self._box._mark_done(self._journal, call, len(self._journal.calls) or 1)
        return True
