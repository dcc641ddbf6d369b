"""Where checkpoints lie: a folder that all ranks see, on this machine or in an object store."""

import contextlib
import os
import shutil
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol


class Folder(Protocol):
    """A place that all ranks see: `LocalFolder`, or `infra.storage.Location` for object stores too."""

    @property
    def is_local(self) -> bool: ...
    def local_path(self) -> Path: ...
    def __truediv__(self, name: str) -> "Folder": ...
    def children(self) -> Sequence[Any]: ...
    def exists(self) -> bool: ...
    def read_bytes(self) -> bytes: ...
    def write_bytes(self, data: bytes) -> None: ...
    def upload(self, source: Path) -> None: ...
    def download(self, target: Path) -> None: ...
    def delete(self) -> None: ...


@dataclass(frozen=True)
class LocalFolder:
    """`Folder` on a plain path, with the standard library alone."""

    path: Path
    is_local = True

    def local_path(self) -> Path:
        return self.path

    def __truediv__(self, name: str) -> "LocalFolder":
        return LocalFolder(self.path / name)

    def __str__(self) -> str:
        return str(self.path)

    def children(self) -> list[Path]:
        return sorted(self.path.iterdir()) if self.path.is_dir() else []

    def exists(self) -> bool:
        return self.path.exists()

    def read_bytes(self) -> bytes:
        return self.path.read_bytes()

    def write_bytes(self, data: bytes) -> None:
        with self._appearing() as stream:
            stream.write(data)

    def upload(self, source: Path) -> None:
        with self._appearing() as target, open(source, "rb") as stream:
            shutil.copyfileobj(stream, target, 1 << 24)

    def download(self, target: Path) -> None:
        LocalFolder(target).upload(self.path)

    @contextlib.contextmanager
    def _appearing(self) -> Iterator[Any]:
        """A file that has its name only when it is whole and on disk."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.path.with_name(f".{uuid.uuid4().hex}.tmp")
        try:
            with open(temporary, "wb") as stream:
                yield stream
                stream.flush()
                os.fsync(stream.fileno())
            temporary.replace(self.path)
        finally:
            temporary.unlink(missing_ok=True)

    def delete(self) -> None:
        if self.path.is_dir():
            shutil.rmtree(self.path)
        else:
            self.path.unlink(missing_ok=True)
