"""How a rendering stands, while it runs, after it ended and after a crash: from a start note, file names and the ledger.

The driver writes `progress.json` once, when it knows what is to do. What came after that is in the names of the pieces
newer than the note, so one listing tells all counts, however many objects there are and whoever was killed.
"""

import os
import socket
import time
from collections import Counter
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from infra.processes import start_time
from infra.storage import Location
from rendering.pieces import DONE, Piece, list_pieces

NOTE = "progress.json"
LEDGER_NAME = "ledger.parquet"
WINDOW_S = 600.0

State = tuple[str, str | None]


@dataclass(frozen=True)
class Started:
    """What a driver notes before the first object: the content of `progress.json`.

    Attributes:
        config: digest of the render config, which names the folder of pieces.
        objects: inputs in all.
        kept: (state, reason, count) of those that are not rendered now; those that could not be fetched are among them.
        views: pictures an object gets.
        host, pid, pid_started: the driver.
    """

    config: str
    objects: int
    kept: list[tuple[str, str | None, int]]
    views: int
    workers: int
    host: str = field(default_factory=socket.gethostname)
    pid: int = field(default_factory=os.getpid)
    pid_started: str = field(default_factory=lambda: start_time(os.getpid()))

    def write(self, out: Location) -> None:
        (out / NOTE).write_json(asdict(self))

    def is_gone(self) -> bool:
        """The driver is known dead; of another host's nothing is known."""
        return self.host == socket.gethostname() and start_time(self.pid) != self.pid_started


@dataclass(frozen=True)
class RenderStatus:
    """Counts of one rendering; `seconds` since the driver began, rates per `WINDOW_S` while it runs, else over all."""

    state: str
    objects: int
    done: int
    failed: int
    quarantined: int
    waiting: int
    reasons: dict[str, int]
    rendered_now: int
    seconds: float
    objects_per_min: float | None
    views_per_s: float | None
    seconds_left: float | None
    driver: str
    facts: dict[str, Any]


def render_status(out: Location, pieces: list[Location]) -> RenderStatus | None:
    """The rendering whose build folder is `out`; `pieces` are the places that may hold its pieces. None before it began."""
    info = (out / NOTE).fs.get_file_info((out / NOTE).path)
    if not info.is_file:
        return None
    known = {each.name for each in fields(Started)}  # another version may have noted more
    note = Started(**{key: value for key, value in (out / NOTE).read_json().items() if key in known})
    began = info.mtime_ns / 1e9
    ledger = out / LEDGER_NAME
    book = ledger.fs.get_file_info(ledger.path)
    if book.is_file and book.mtime_ns / 1e9 >= began:
        return _finished(note, ledger, began, book.mtime_ns / 1e9)
    fresh = [piece for place in pieces for piece in list_pieces(place / note.config).values() if piece.mtime >= began]
    return _unfinished(note, fresh, began)


def _unfinished(note: Started, fresh: list[Piece], began: float) -> RenderStatus:
    running, now = not note.is_gone(), time.time()
    counts: Counter[State] = Counter({(state, reason): count for state, reason, count in note.kept})
    counts.update((piece.state, piece.reason) for piece in fresh)
    newest = max((piece.mtime for piece in fresh), default=began)
    first, last = (max(began, now - WINDOW_S), now) if running else (began, newest)
    rate = sum(piece.mtime >= first for piece in fresh) / (last - first) if last > first else 0.0
    waiting = max(0, note.objects - counts.total())
    return _status(
        "running" if running else "interrupted",
        note,
        counts,
        waiting,
        len(fresh),
        last - began if not running else now - began,
        rate,
        {},
        waiting / rate if rate and running else None,
    )


def _finished(note: Started, ledger: Location, began: float, ended: float) -> RenderStatus:
    table = ledger.read_table(columns=["state", "reason", "seconds", "peak_rss_mb", "views"])
    counts: Counter[State] = Counter(zip(table.column("state").to_pylist(), table.column("reason").to_pylist(), strict=True))
    rendered = note.objects - sum(count for _, _, count in note.kept)
    facts = {
        "worker_seconds": round(sum(filter(None, table.column("seconds").to_pylist())), 1),
        "peak_rss_mb": max(filter(None, table.column("peak_rss_mb").to_pylist()), default=None),
        "views": sum(table.column("views").to_pylist()),
    }
    rate = rendered / (ended - began) if ended > began else 0.0
    return _status("finished", note, counts, 0, rendered, ended - began, rate, facts, None)


def _status(
    state: str,
    note: Started,
    counts: Counter[State],
    waiting: int,
    rendered: int,
    seconds: float,
    rate: float,
    facts: dict[str, Any],
    left: float | None,
) -> RenderStatus:
    by_state, reasons = Counter[str](), Counter[str]()
    for (each, reason), count in counts.items():
        by_state[each] += count
        if each != DONE and count:
            reasons[str(reason)] += count
    return RenderStatus(
        state=state,
        objects=note.objects,
        done=by_state[DONE],
        failed=by_state["failed"],
        quarantined=by_state["quarantined"],
        waiting=waiting,
        reasons=dict(reasons.most_common()),
        rendered_now=rendered,
        seconds=round(seconds, 1),
        objects_per_min=round(rate * 60, 3) if rate else None,
        views_per_s=round(rate * note.views, 3) if rate else None,
        seconds_left=round(left, 1) if left is not None else None,
        driver=f"process {note.pid} on {note.host} with {note.workers} workers",
        facts=facts,
    )
