"""Log records and everything else that is written to stderr, as one JSON object a line."""

import io
import json
import logging
import os
import re
import select
import socket
import sys
import threading
from datetime import UTC, datetime
from typing import Any, TextIO

from infra.log_context import context

# What Ray puts before the lines of its workers: `(RenderActor pid=123, ip=10.0.0.1) `, in colour on a terminal.
WORKER = re.compile(r"\((?P<source>[^{}\"\n]{0,200}?(?:pid=\d+|raylet|autoscaler)[^()]*)\)\s(?P<text>.*)", re.DOTALL)
# What Ray's native code writes: `[2026-01-01 12:00:00,000 E 14415 15262] core_worker.cc:2465: ...`.
NATIVE = re.compile(r"\[\d{4}-\d\d-\d\d [\d:,.]+ (?P<level>[IWEF]) ")
LEVELS = {"I": "info", "W": "warning", "E": "error", "F": "critical"}
COLOUR = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


class JsonFormatter(logging.Formatter):
    """A record as one line of JSON."""

    def format(self, record: logging.LogRecord) -> str:
        entry = _entry(record.levelname.lower(), record.name, record.getMessage(), record.created)
        if reason := getattr(record, "reason", None):
            entry["reason"] = reason
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return json.dumps(entry, default=str)


def _entry(level: str, logger: str, message: str, at: float | None = None) -> dict[str, Any]:
    moment = datetime.now(UTC) if at is None else datetime.fromtimestamp(at, UTC)
    here = {"node": socket.gethostname(), "pid": os.getpid()}
    return {"time": moment.isoformat(timespec="milliseconds"), "level": level, "logger": logger, "message": message, **context(), **here}


class JsonStream(io.TextIOBase):
    """Stands in for stderr: JSON lines pass, and every other line becomes one."""

    encoding = "utf-8"

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self.installed = True
        self._lock, self._mine = threading.Lock(), threading.local()

    def write(self, text: str) -> int:
        if not self.installed:  # a handler made meanwhile still holds it
            return sys.stderr.write(text)
        *whole, rest = re.split(r"[\r\n]", getattr(self._mine, "rest", "") + text)
        self._mine.rest = rest
        for line in whole:
            self.line(line)
        return len(text)

    def line(self, line: str) -> None:
        """One line, whoever wrote it."""
        text = COLOUR.sub("", line).rstrip()
        if not text:
            return
        worker = WORKER.fullmatch(text)
        inner = worker["text"] if worker else text
        if not _is_object(inner):
            native = NATIVE.match(inner)
            level = LEVELS[native["level"]] if native else "info"
            inner = json.dumps(_entry(level, "stderr", inner) | ({"source": worker["source"]} if worker else {}))
        with self._lock:
            self.stream.write(inner + "\n")
            self.stream.flush()

    def flush(self) -> None:
        if self.installed:
            self.stream.flush()

    def isatty(self) -> bool:
        return False

    def fileno(self) -> int:
        return self.stream.fileno()

    def is_of_the_process(self) -> bool:
        """Whether lines go to descriptor 2, as those of native code do."""
        try:
            return self.stream.fileno() == 2
        except (OSError, ValueError):
            return False

    def writable(self) -> bool:
        return True


class NativeLines:
    """Lines that native code and child processes write straight to descriptor 2, sent through the stream until `end`.

    What is written in the instant in which the interpreter itself crashes may be lost; Ray keeps its own log files.
    """

    def __init__(self, stream: JsonStream) -> None:
        self._stream, self._before = stream, stream.stream
        self._saved = os.dup(2)
        stream.stream = os.fdopen(os.dup(2), "w", buffering=1, errors="backslashreplace")
        self._read, write = os.pipe()
        os.dup2(write, 2)
        os.close(write)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._forward, name="native lines", daemon=True)
        self._thread.start()

    def _forward(self) -> None:
        rest = b""
        while True:
            if select.select([self._read], [], [], 0.1)[0]:
                data = os.read(self._read, 1 << 16)
                *whole, rest = re.split(rb"[\r\n]", rest + data)
                for line in whole:
                    self._stream.line(line.decode(errors="backslashreplace"))
                if data:
                    continue
            elif not self._ended.is_set():
                continue
            if rest:
                self._stream.line(rest.decode(errors="backslashreplace"))
            return

    def end(self) -> None:
        """Native lines go where they went before; those on their way are written first."""
        os.dup2(self._saved, 2)
        self._ended.set()
        self._thread.join(timeout=5)
        os.close(self._saved)
        self._stream.stream.close()
        self._stream.stream = self._before


def _is_object(text: str) -> bool:
    try:
        return text.startswith("{") and isinstance(json.loads(text), dict)
    except ValueError:
        return False
