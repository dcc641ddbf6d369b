"""The processes of a rendering that a test started: found by descent from it, and never mistaken for anyone else's."""

from pathlib import Path

import psutil

from rendering.blender_child import SCRATCH_PREFIX, scratch_root
from tests.waiting import is_gone


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


def end(processes: list[psutil.Process]) -> None:
    """Kill what is left of them."""
    for process in processes:
        if not is_gone(process):
            process.kill()


def scratch_folders(pids: set[int]) -> list[Path]:
    """Scratch folders of Blender workers that lived in these processes."""
    root = Path(scratch_root() or "/tmp")
    return [path for path in root.glob(f"{SCRATCH_PREFIX}*") if int(path.name.removeprefix(SCRATCH_PREFIX).partition("-")[0]) in pids]
