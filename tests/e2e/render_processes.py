"""The processes of a rendering that a test started: found by descent from it, and never mistaken for anyone else's."""

import time
from collections.abc import Callable
from pathlib import Path

import psutil

from rendering.blender_child import SCRATCH_PREFIX, scratch_root

POLL_S = 0.02


def until(found: Callable[[], object], what: str, patience_s: float = 120.0) -> None:
    """Wait for something to become true."""
    end = time.monotonic() + patience_s
    while not found():
        assert time.monotonic() < end, f"waited {patience_s:g} s in vain: {what}"
        time.sleep(POLL_S)


def descendants(pid: int) -> list[psutil.Process]:
    """All processes below one; psutil compares start times, so a reused pid is another process."""
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def blenders(pid: int) -> list[psutil.Process]:
    """The Blender children below a process."""
    found = []
    for process in descendants(pid):
        try:
            if any(word.endswith("/blender_script.py") for word in process.cmdline()):
                found.append(process)
        except psutil.Error:
            continue
    return found


def is_gone(process: psutil.Process) -> bool:
    """Ended, whether or not its parent has taken notice."""
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def end(processes: list[psutil.Process]) -> None:
    """Kill what is left of them."""
    for process in processes:
        if not is_gone(process):
            process.kill()


def scratch_folders(pids: set[int]) -> list[Path]:
    """Scratch folders of Blender workers that lived in these processes."""
    root = Path(scratch_root() or "/tmp")
    return [path for path in root.glob(f"{SCRATCH_PREFIX}*") if int(path.name.removeprefix(SCRATCH_PREFIX).partition("-")[0]) in pids]
