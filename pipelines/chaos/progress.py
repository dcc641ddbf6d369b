"""How far a disturbed run is, read off its store alone.

A *mark* is a piece of finished work that lies there under its final name: a fetched file, an object's piece in a cache or an
unfinished build, a training update's row, a whole checkpoint, a step's record. A mark that appears for the first time is progress;
one that was there before and is made again is work repeated. The time of a mark is its file's modification time.
"""

import os
import threading
from collections.abc import Iterator
from pathlib import Path

LOOK_S = 0.1
PIECES = (".arrow", ".glb", ".json", ".parquet")


def found_in(store: Path) -> Iterator[tuple[str, Path]]:
    """(mark, file) of everything finished that lies in the store now."""
    for step in _folders(store):
        for label in _folders(step):
            if label.name == "_cache":
                yield from ((f"{step.name}/{file.name}", file) for file in _pieces(label))
                continue
            for build in _folders(label):
                yield from ((f"{step.name}/{file.name}", file) for file in _pieces(build / "pieces"))
                for row in _files(build / "live"):
                    if row.name.startswith("train-"):
                        yield f"{step.name} update {int(row.stem.removeprefix('train-'))}", row
                for attempt in _folders(build / "state"):
                    for checkpoint in _folders(attempt):
                        if (checkpoint / "manifest.json").exists():
                            yield f"{step.name} checkpoint {checkpoint.name.split('-')[1]}", checkpoint / "manifest.json"
            if (label / "record.json").exists():
                yield f"{step.name} finished", label / "record.json"


def _pieces(place: Path) -> Iterator[Path]:
    for file in _files(place):
        if file.suffix in PIECES and not file.name.endswith(".attempts.json"):
            yield file
    for folder in _folders(place):
        if folder.name != "runs":  # notes of what is in hand, not of what is finished
            yield from _pieces(folder)


def _files(place: Path) -> list[Path]:
    return [entry for entry in _entries(place) if not entry.name.startswith(".") and entry.is_file()]


def _folders(place: Path) -> list[Path]:
    return [entry for entry in _entries(place) if not entry.name.startswith(".") and entry.is_dir()]


def _entries(place: Path) -> list[Path]:
    try:
        return [Path(entry.path) for entry in os.scandir(place)]
    except (FileNotFoundError, NotADirectoryError):
        return []


class Progress:
    """Looks at the store every `LOOK_S` seconds, in a thread, until `close`."""

    def __init__(self, store: Path) -> None:
        self._store = store
        self._files: set[tuple[Path, int]] = set()
        self._first: dict[str, float] = {}
        self._again: list[tuple[str, float]] = []
        self._lock, self._ended = threading.Lock(), threading.Event()
        self.error: Exception | None = None
        self._thread = threading.Thread(target=self._watch, name="progress", daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        try:
            while not self._ended.wait(LOOK_S):
                self.look()
        except Exception as error:  # raised where the figures are asked for
            self.error = error

    def look(self) -> None:
        """Take notice of what is new."""
        with self._lock:
            for mark, file in found_in(self._store):
                try:
                    modified = file.stat().st_mtime_ns
                except FileNotFoundError:  # rows are taken away when they are tracked
                    continue
                if (file, modified) in self._files:
                    continue
                self._files.add((file, modified))
                if mark in self._first:
                    self._again.append((mark, modified / 1e9))
                else:
                    self._first[mark] = modified / 1e9

    def next_after(self, moment: float) -> float | None:
        """Time of the first progress after `moment`, both in epoch seconds; None while there is none."""
        self._raise()
        with self._lock:
            return min((time for time in self._first.values() if time > moment), default=None)

    def repeated_after(self, moment: float) -> int:
        """How many finished pieces of work were made again after `moment`."""
        with self._lock:
            return sum(time > moment for _, time in self._again)

    def finished_in(self, step: str) -> int:
        """How many pieces of work of a step are finished: objects, or updates of a training."""
        with self._lock:
            return sum(mark.startswith((f"{step}/", f"{step} update ")) for mark in self._first)

    def count(self) -> int:
        self._raise()
        with self._lock:
            return len(self._first) + len(self._again)

    def _raise(self) -> None:
        if self.error is not None:
            raise self.error

    def close(self) -> None:
        self._ended.set()
        self._thread.join()
