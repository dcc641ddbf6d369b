"""An unfinished download on disk: owned by one process at a time, kept when its owner dies, continued by the next.

`.<key>.<slot>.part` holds the bytes and `.<key>.<slot>.json` beside it the version of the remote file they belong to.
Ownership is a lock of the kernel on the part file, which ends with its process however that ends.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import time
import uuid
from collections.abc import Collection, Iterator
from itertools import count
from pathlib import Path

_SUFFIX = ".part"
# Longer than any single small file takes to be written and renamed.
_TMP_LIFE_S = 3600.0


def key_of(url: str) -> str:
    return hashlib.sha256(url.encode()).hexdigest()[:32]


class PartFile:
    """A locked part file. `validator` is the ETag or date of the remote file its bytes come from, empty when unknown."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path, self._stream = path, os.fdopen(descriptor, "r+b")
        self._note, self._is_named = path.with_suffix(".json"), True
        self.validator: str = ""
        self.total: int | None = None
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            note = json.loads(self._note.read_text())
            self.validator, self.total = str(note["validator"]), note["total"]
        if not self.validator:
            self.restart()
        self._stream.seek(0, os.SEEK_END)

    @property
    def size(self) -> int:
        return self._stream.tell()

    def restart(self, validator: str = "", total: int | None = None) -> None:
        """Empty the file; what is written from now on belongs to the given version of the remote file."""
        # The old note must not outlive its bytes, nor may bytes of the new version stand under it.
        self._note.unlink(missing_ok=True)
        self._stream.seek(0)
        self._stream.truncate()
        self.validator, self.total = validator, total
        if validator:
            self._note.write_text(json.dumps({"validator": validator, "total": total}))

    def write(self, block: bytes) -> None:
        self._stream.write(block)
        # What a killed process received should be in the file, not in its memory.
        self._stream.flush()

    def finish(self, target: Path) -> None:
        """Make the complete file durable under its final name."""
        os.fsync(self._stream.fileno())
        self._note.unlink(missing_ok=True)
        os.replace(self.path, target)
        self._is_named = False

    def discard(self) -> None:
        """Remove the file. Once: afterwards the name may be another process's."""
        if self._is_named:
            self._note.unlink(missing_ok=True)
            self.path.unlink(missing_ok=True)
            self._is_named = False

    def close(self) -> None:
        """Give the lock back; bytes that no later process could continue are removed first."""
        if not self.validator or not self.size:
            self.discard()
        self._stream.close()


@contextlib.contextmanager
def claimed(folder: Path, url: str) -> Iterator[PartFile]:
    """The part file of this URL in `folder`; a second process (or thread) at the same URL gets another one."""
    folder.mkdir(parents=True, exist_ok=True)
    part = next(found for slot in count() if (found := _claim(folder / f".{key_of(url)}.{slot}{_SUFFIX}")) is not None)
    try:
        yield part
    finally:
        part.close()


def _claim(path: Path, create: bool = True) -> PartFile | None:
    """The part file under this name, locked; None when another owns it."""
    descriptor = os.open(path, os.O_RDWR | (os.O_CREAT if create else 0), 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if path.exists() and os.path.samestat(os.fstat(descriptor), os.stat(path)):
            return PartFile(path, descriptor)
    except FileNotFoundError:
        pass  # Finished or removed between the two looks.
    except BlockingIOError:
        pass
    except OSError:
        # A file system without locks: a name of our own is as good, only that nobody continues it.
        os.close(descriptor)
        own = path.with_name(f".{uuid.uuid4().hex}{_SUFFIX}")
        return PartFile(own, os.open(own, os.O_RDWR | os.O_CREAT, 0o644)) if create else None
    os.close(descriptor)
    return None


def forget(folder: Path, url: str) -> None:
    """Remove the part files of a URL that nobody is writing."""
    for path in folder.glob(f".{key_of(url)}.*{_SUFFIX}"):
        _remove(path)


def clean(folder: Path, wanted: Collection[str] = ()) -> None:
    """Remove what dead processes left in `folder`, but for the part files of the `wanted` URLs.

    A part file is dead when its lock is free, a temporary file when nobody has touched it for an hour.
    """
    keys = {key_of(url) for url in wanted}
    for path in folder.glob(f".*{_SUFFIX}"):
        if path.name.split(".")[1] not in keys:
            _remove(path)
    for path in folder.glob(".*.tmp"):
        with contextlib.suppress(FileNotFoundError):
            if time.time() - path.stat().st_mtime > _TMP_LIFE_S:
                path.unlink()


def _remove(path: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        if (part := _claim(path, create=False)) is not None:
            part.discard()
            part.close()
