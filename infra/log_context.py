"""What a process works on, for its log lines: step, label and build of the whole process, object and attempt of a thread."""

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

_process: dict[str, Any] = {}  # holds for all threads: a process works on one step at a time
_about: ContextVar[dict[str, Any] | None] = ContextVar("mvforge_about", default=None)


def context() -> dict[str, Any]:
    """What is worked on in this thread: `step`, `label`, `build`, `uid`, `attempt`, as far as known."""
    return {**_process, **(_about.get() or {})}


@contextlib.contextmanager
def working_on(**fields: Any) -> Iterator[None]:
    """Lines of this process, whatever the thread, belong to this step, label and build while the block runs."""
    before = dict(_process)
    _process.update(fields)
    try:
        yield
    finally:
        _process.clear()
        _process.update(before)


@contextlib.contextmanager
def about(**fields: Any) -> Iterator[None]:
    """Lines of this thread are about this object and attempt while the block runs."""
    token = _about.set({**(_about.get() or {}), **fields})
    try:
        yield
    finally:
        _about.reset(token)


def now_working_on(fields: dict[str, Any]) -> None:
    """Replace what the whole process works on: for workers, which belong to one step after the other."""
    _process.clear()
    _process.update(fields)
