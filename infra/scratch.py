"""Temporary folders that do not outlive their process for good: what a killed one left is removed by the next one.

`mvforge-<what>-XXXX` in the system's temporary folder has a file `mvforge-<what>-XXXX.lock` beside it, on which its process holds
a lock of the kernel. The lock ends with the process, however that ends, and whatever container it ran in.
"""

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

PREFIX, LOCK = "mvforge-", ".lock"
_swept: set[str] = set()


def make_scratch(what: str) -> "Scratch":
    """A new, empty folder that is ours until `Scratch.remove`, or until this process ends. `what` names its use."""
    root = tempfile.gettempdir()
    if root not in _swept:
        _swept.add(root)
        remove_abandoned(Path(root))
    while True:
        descriptor, name = tempfile.mkstemp(prefix=f"{PREFIX}{what}-", suffix=LOCK, dir=root)
        lock = os.fdopen(descriptor, "wb")
        # One who sweeps may have been quicker: then the name is given up.
        if _is_ours(lock, Path(name)):
            folder = Path(name.removesuffix(LOCK))
            folder.mkdir(mode=0o700)
            return Scratch(folder, lock)
        lock.close()


class Scratch:
    """A temporary folder and the lock that says whose it is."""

    def __init__(self, folder: Path, lock: IO[bytes]) -> None:
        self.folder, self._lock = folder, lock

    def remove(self) -> None:
        """Remove the folder with all that is in it."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.with_name(self.folder.name + LOCK).unlink(missing_ok=True)
        self._lock.close()


@contextlib.contextmanager
def scratch_folder(what: str) -> Iterator[Path]:
    """A temporary folder for the block."""
    scratch = make_scratch(what)
    try:
        yield scratch.folder
    finally:
        scratch.remove()


def remove_abandoned(root: Path | None = None) -> None:
    """Remove the folders of processes that have ended."""
    for place in (root or Path(tempfile.gettempdir())).glob(f"{PREFIX}*{LOCK}"):
        with contextlib.suppress(OSError), open(place, "rb") as lock:  # finished meanwhile, or another user's
            if _is_ours(lock, place):
                shutil.rmtree(place.with_name(place.name.removesuffix(LOCK)), ignore_errors=True)
                place.unlink()


def _is_ours(lock: IO[bytes], place: Path) -> bool:
    """Whether the lock could be had, and is still the one of that name."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return os.path.samestat(os.fstat(lock.fileno()), os.stat(place))
    except (BlockingIOError, FileNotFoundError):
        return False
