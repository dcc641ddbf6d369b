"""Calls that wait for the tracking server, on disk: one append-only file a process, which outlives it.

A line is a call, or the number of one that the server has got, or the id that the server gave a run. Lines are written whole and
synced; what a killed process left half-written at the end is passed over. Bytes of artifacts lie in files of their own beside it.
"""

import contextlib
import fcntl
import json
import logging
import os
import secrets
import shutil
import socket
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

SUFFIX = ".calls"
REFUSED = "refused.jsonl"

log = logging.getLogger(__name__)


@dataclass
class Call:
    """One call to the tracking server.

    Attributes:
        number: its place in the journal, from 0.
        at: epoch seconds when it was made, which is when the server shall think that it happened.
        kind: a name in `infra.tracking.calls.KINDS`.
        run: id of the run it is for: the server's, or one of ours where the run is yet to be made there.
        given: its arguments, JSON.
        file: name of the file with its bytes, below the journal's folder of files.
        tries: how often it was tried in this process.
        refusals: how often in a row it failed while the server answered other calls.
    """

    number: int
    at: float
    kind: str
    run: str
    given: dict[str, Any]
    file: str | None = None
    tries: int = field(default=0, compare=False)
    refusals: int = field(default=0, compare=False)


class Journal:
    """The calls of one process that still have to be made.

    Opening an existing journal takes it over: its lock tells whether the process that wrote it lives.

    Raises:
        BlockingIOError: another process, which lives, owns it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._descriptor)
            raise
        self._torn = path.stat().st_size > 0  # what a killed process wrote last may lack its end
        self.calls, self.ids = read_journal(path)

    @classmethod
    def new(cls, folder: Path) -> "Journal":
        """An empty one, named so that those of one folder sort by age."""
        name = f"{time.strftime('%Y%m%dT%H%M%S')}-{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}{SUFFIX}"
        return cls(folder / name)

    @property
    def files(self) -> Path:
        return self.path.with_suffix(".files")

    def add(self, call: Call, data: bytes | None = None) -> None:
        """Note a call durably. Raises OSError when the disk does not take it."""
        if data is not None:
            self.files.mkdir(exist_ok=True)
            call.file = str(call.number)
            with open(self.files / call.file, "wb") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
        noted = {name: value for name, value in asdict(call).items() if name not in ("tries", "refusals")}
        self._write({"call": noted})

    def done(self, call: Call, remaining: int) -> None:
        """The server has `call`. With nothing remaining the file becomes empty: it would grow with the length of the run."""
        if remaining:
            self._write({"done": call.number})
        else:
            os.ftruncate(self._descriptor, 0)
            self._torn = False
        if call.file is not None:
            (self.files / call.file).unlink(missing_ok=True)

    def named(self, own: str, given: str) -> None:
        """The server calls the run `own` `given`."""
        self.ids[own] = given
        self._write({"run": own, "is": given})

    def _write(self, line: dict[str, Any]) -> None:
        text = ("\n" if self._torn else "") + json.dumps(line) + "\n"
        data = text.encode()
        self._torn = True
        while data:
            data = data[os.write(self._descriptor, data) :]
        self._torn = False
        os.fsync(self._descriptor)

    def remove(self) -> None:
        """Delete it, with its files, and let go of it."""
        self.path.unlink(missing_ok=True)
        shutil.rmtree(self.files, ignore_errors=True)
        self.close()

    def close(self) -> None:
        """Let go of it; what it holds stays for the next process."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def read_journal(path: Path) -> tuple[list[Call], dict[str, str]]:
    """Calls that the server has not got, in order, and the server's ids of runs by ours; empty for a file that is gone."""
    calls: dict[int, Call] = {}
    ids: dict[str, str] = {}
    with contextlib.suppress(FileNotFoundError):
        for line in path.read_bytes().splitlines():
            if not line:
                continue
            try:
                entry = json.loads(line)
            except ValueError:
                log.warning("%s: a line that was not written to its end is passed over", path)
                continue
            if "call" in entry:
                call = Call(**entry["call"])
                calls[call.number] = call
            elif "done" in entry:
                calls.pop(entry["done"], None)
            elif "is" in entry:
                ids[entry["run"]] = entry["is"]
    return [calls[number] for number in sorted(calls)], ids


def journals(folder: Path) -> list[Path]:
    """All journals in a folder, oldest first."""
    return sorted(folder.glob(f"*{SUFFIX}"))


def abandoned(folder: Path) -> Iterator[Journal]:
    """Journals of processes that are gone, taken over one after the other, oldest first."""
    for path in journals(folder):
        try:
            journal = Journal(path)
        except BlockingIOError:
            continue
        if not path.exists() or not os.path.samestat(os.fstat(journal._descriptor), path.stat()):
            journal.close()  # another process was quicker and is through with it
            continue
        yield journal


@dataclass(frozen=True)
class Waiting:
    """Calls that wait in one folder: how many, since when (epoch seconds), and how many the server has refused for good."""

    calls: int
    since: float | None
    refused: int


def waiting(folder: Path) -> Waiting:
    """What waits, of living processes too."""
    calls = [call for path in journals(folder) for call in read_journal(path)[0]]
    refused = 0
    with contextlib.suppress(FileNotFoundError):
        refused = len((folder / REFUSED).read_text().splitlines())
    return Waiting(len(calls), min((call.at for call in calls), default=None), refused)
