"""Waiting for other processes: for something to become true, and for an end."""

import time
from collections.abc import Callable

import psutil

POLL_S = 0.02


def until(found: Callable[[], object], what: str = "the moment has come", patience_s: float = 180.0) -> None:
    """Wait for something to become true."""
    end = time.monotonic() + patience_s
    while not found():
        assert time.monotonic() < end, f"waited {patience_s:g} s in vain: {what}"
        time.sleep(POLL_S)


def is_gone(process: psutil.Process) -> bool:
    """Ended, whether or not its parent has taken notice."""
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
