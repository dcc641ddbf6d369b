"""Logs as JSON, one object a line, on request (`--log-format json` or `MVFORGE_LOG_FORMAT=json`); else as people read them.

A line says when, how grave, by which logger and what; and, where known, on which step, label, build, object and attempt, and in
which process. The step is set by the runner, the object by the step, and both travel with the work to Ray's workers (`carried`,
`adopt`), whose lines come back through Ray's log. Whatever else is printed on stderr becomes such a line too.

What a line holds is made in `infra.log_stream`, with the standard library's `logging` alone: packages for JSON lines bring a formatter,
but neither the context nor what others write to stderr.
"""

import atexit
import contextlib
import functools
import logging
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from infra.errors import UserError
from infra.log_context import about, context, now_working_on, working_on
from infra.log_stream import JsonFormatter, JsonStream, NativeLines

__all__ = ["Carried", "about", "adopt", "carried", "carrying", "configured", "context", "failed", "is_json", "say", "working_on"]

FORMAT_VARIABLE = "MVFORGE_LOG_FORMAT"
HUMAN, JSON = "human", "json"
_PACKAGES = ("pipelines", "evaluation", "training", "rendering", "infra")
# Failures of single objects. People see them counted in the progress line and listed in the ledger.
_objects = logging.getLogger("mvforge.objects")
_objects.addHandler(logging.NullHandler())
_objects.propagate = False
_lines = logging.getLogger("mvforge")


def failed(uid: str, reason: str, detail: str | None = "", attempt: int | None = None, error: BaseException | None = None) -> None:
    """An object ended as a failure: a line with its uid, the reason and the attempt (default: the one at work, else the first)."""
    with about(uid=uid, attempt=attempt or context().get("attempt", 1)):
        text = f"{reason}: {detail}" if detail else reason
        _objects.warning("%s", text[:2000], extra={"reason": reason}, exc_info=error)


def say(text: str, level: int = logging.INFO) -> None:
    """A line for the person watching, on stderr; a record of the logger `mvforge` in JSON."""
    if is_json():
        _lines.log(level, "%s", text.strip())
    else:
        print(text, file=sys.stderr, flush=True)


def is_json() -> bool:
    """Whether this process writes JSON now."""
    return isinstance(sys.stderr, JsonStream)


@dataclass(frozen=True)
class Carried:
    """What a worker needs to log as the driver does."""

    format: str
    fields: dict[str, Any]


def carried() -> Carried:
    """To be made in the driver and sent along with the work."""
    return Carried(JSON if is_json() else HUMAN, context())


def adopt(given: Carried) -> None:
    """In a worker process: log as the driver does, about the step that it works on."""
    now_working_on(given.fields)
    if given.format == JSON and not is_json():
        _install()


def carrying(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function(item, ...)` for a worker, as `call(item, attempt, ...)`: its lines are about the item, and what it raises is logged."""
    given = carried()

    @functools.wraps(function)
    def call(item: Any, attempt: int, **constants: Any) -> Any:
        adopt(given)
        uid = {"uid": item} if isinstance(item, str) else {}
        with about(attempt=attempt, **uid):
            try:
                return function(item, **constants)
            except Exception as error:
                _objects.warning("%s: %s", type(error).__name__, error, extra={"reason": type(error).__name__}, exc_info=True)
                raise

    del call.__wrapped__  # type: ignore[attr-defined]  # Ray would check arguments against the signature of what is wrapped
    return call


@contextlib.contextmanager
def configured(given: str | None, until_exit: bool = False) -> Iterator[None]:
    """Log in the given format, or that of the environment, while the block runs, or until the process has ended.

    Raises:
        UserError: the environment names another format.
    """
    chosen = given or os.environ.get(FORMAT_VARIABLE) or HUMAN
    if chosen not in (HUMAN, JSON):
        raise UserError(f"{FORMAT_VARIABLE}={chosen} is no format of logs", f"set it to {HUMAN} or {JSON}")
    if chosen == HUMAN or is_json():
        yield
        return
    # Ray would hold back lines of several workers that look alike, and mark those that it shows.
    os.environ["RAY_DEDUP_LOGS"] = "0"
    uninstall = _install()
    native = NativeLines(sys.stderr) if isinstance(sys.stderr, JsonStream) and sys.stderr.is_of_the_process() else None

    def undo() -> None:
        if native is not None:
            native.end()
        uninstall()

    if until_exit:
        atexit.register(undo)  # after those of Ray, which was imported later and takes its leave in words
        yield
        return
    try:
        yield
    finally:
        undo()


def _install() -> Callable[[], None]:
    """Route logging, warnings and stderr of this process through JSON; returns what undoes it."""
    stream = JsonStream(sys.stderr)
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter())
    root, before = logging.getLogger(), logging.getLogger().level
    levels = {name: logging.getLogger(name).level for name in ("mvforge", *_PACKAGES)}
    root.addHandler(handler)
    for name in levels:
        logging.getLogger(name).setLevel(logging.INFO)
    _objects.propagate = True
    logging.captureWarnings(True)
    sys.stderr = stream

    def uninstall() -> None:
        sys.stderr = stream.stream
        stream.installed = _objects.propagate = False
        logging.captureWarnings(False)
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
        root.removeHandler(handler)
        root.setLevel(before)

    return uninstall
