"""Progress inside blocks: actors answer for a whole block of objects, their notes tell how far each has come."""

import contextlib
import threading
from collections.abc import Iterator, Mapping
from typing import Any

from infra.metrics import FAILED, OK, Meter
from infra.progress import Progress
from infra.storage import Location
from rendering.pieces import DONE

EVERY_S = 5.0


class Outcomes:
    """Posts how objects ended, each once, whether the note of its block or the actor's answer tells it first."""

    def __init__(self, meter: Meter, views: int) -> None:
        self._meter, self._views = meter, views
        self._told: dict[str, set[str]] = {}
        self._answered: set[str] = set()
        self._lock = threading.Lock()

    def tell(self, block: str, finished: Mapping[str, Mapping[str, Any]], answered: bool = False) -> None:
        """`finished` are the block's objects that have ended so far (name -> state and reason); all of them if `answered`."""
        with self._lock:
            if block in self._answered:
                return
            told = self._told.setdefault(block, set())
            for name in finished.keys() - told:
                state, reason = finished[name]["state"], finished[name]["reason"]
                self._meter.items(OK if state == DONE else FAILED, 1, reason or "")
                self._meter.views(self._views if state == DONE else 0)
            told.update(finished)
            if answered:
                self._answered.add(block)
                del self._told[block]


class BlockProgress:
    """Moves a progress bar by what is answered, and between answers by what the notes of the other blocks call finished."""

    def __init__(self, progress: Progress, notes: Location, outcomes: Outcomes | None = None) -> None:
        self._progress, self._notes, self._outcomes = progress, notes, outcomes
        self._answered: set[str] = set()
        self._objects = self._shown = self._failed = 0
        self._lock, self._stop = threading.Lock(), threading.Event()

    def answer(self, blocks: set[str], objects: int, failed: int) -> None:
        """Actors have answered for these blocks."""
        with self._lock:
            self._answered |= blocks
            self._objects += objects
            self._failed += failed
            self._show(self._objects)

    def _show(self, objects: int) -> None:
        if objects > self._shown:
            self._progress.update(objects - self._shown, f"failed {self._failed}" if self._failed else "")
            self._shown = objects

    def _look(self) -> None:
        open_notes = [entry.name for entry in self._notes.children() if entry.name not in self._answered]
        finished = 0
        for name in open_notes:
            with contextlib.suppress(OSError):  # the run has ended meanwhile
                ended = (self._notes / name).read_json()["finished"]
                finished += len(ended)
                if self._outcomes is not None:
                    self._outcomes.tell(name, ended)
        with self._lock:
            # A block may have been answered since it was listed: it counts once, so the bar may lag but never lead.
            if self._answered.isdisjoint(open_notes):
                self._show(self._objects + finished)

    @contextlib.contextmanager
    def watching(self) -> Iterator["BlockProgress"]:
        def watch() -> None:
            while not self._stop.wait(EVERY_S):
                self._look()

        thread = threading.Thread(target=watch, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self._stop.set()
            thread.join()
