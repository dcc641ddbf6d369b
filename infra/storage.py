"""Places where data lie: a local path or an object-store URL, with the same few verbs for both.

Every write is atomic: on a local disk a temporary file is synced and renamed, on an object store a single
put becomes visible when it is complete. A half-written file is therefore never seen under its final name.
"""

import contextlib
import hashlib
import json
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from infra.errors import UserError
from infra.scratch import scratch_folder

COPY_BYTES = 8 << 20


@dataclass(frozen=True)
class Entry:
    """One child of a `Location`: its name (relative to the listed place), size in bytes, mtime in epoch seconds."""

    name: str
    is_dir: bool
    size: int
    mtime: float


@dataclass(frozen=True)
class Location:
    """A file or folder, by absolute local path or by any URL that `pyarrow.fs` opens (s3://, gs://, hdfs://).

    Pickles as its text, so it may be handed to workers on other nodes.

    Raises:
        UserError: the text is a relative path; callers at the border make paths absolute first.
    """

    uri: str

    def __post_init__(self) -> None:
        text = self.uri.removeprefix("file://")
        if "://" not in text:
            if not os.path.isabs(text):
                raise UserError(f"'{self.uri}' is a relative path", "give an absolute path or a URL such as s3://bucket/prefix")
            text = os.path.normpath(text)
        object.__setattr__(self, "uri", text)

    @property
    def is_local(self) -> bool:
        return "://" not in self.uri

    @property
    def name(self) -> str:
        path = self.uri if self.is_local else self.uri.partition("?")[0]
        return path.rstrip("/").rsplit("/", 1)[-1]

    def __str__(self) -> str:
        return self.uri

    @property
    def shown(self) -> str:
        """The text for logs, tables and tracking tags: keys inside a URL are hidden."""
        return re.sub(r"//[^/@]+@", "//***@", self.uri)

    def __truediv__(self, name: str) -> "Location":
        # A local name may hold a question mark; in a URL it begins the options.
        base, mark, query = (self.uri, "", "") if self.is_local else self.uri.partition("?")
        return Location(f"{base.rstrip('/')}/{name}{mark}{query}")

    @cached_property
    def _filesystem(self) -> tuple[pafs.FileSystem, str]:
        if self.is_local:
            return pafs.LocalFileSystem(), self.uri
        return pafs.FileSystem.from_uri(self.uri)

    def __getstate__(self) -> dict[str, str]:
        return {"uri": self.uri}

    def __setstate__(self, state: dict[str, str]) -> None:
        object.__setattr__(self, "uri", state["uri"])

    @property
    def fs(self) -> pafs.FileSystem:
        return self._filesystem[0]

    @property
    def path(self) -> str:
        """The path inside `fs`; for a local place, the plain path."""
        return self._filesystem[1]

    def local_path(self) -> Path:
        """The local path. Raises ValueError for a URL: use `as_local` or `download` there."""
        if not self.is_local:
            raise ValueError(f"{self.uri} is not a local path")
        return Path(self.uri)

    def exists(self) -> bool:
        return self.fs.get_file_info(self.path).type != pafs.FileType.NotFound

    def children(self) -> list[Entry]:
        """Children, sorted by name; empty when the place does not exist. Temporary files are left out."""
        return self._select(recursive=False)

    def walk(self) -> list[Entry]:
        """All files below, sorted, with names relative to this place."""
        return [entry for entry in self._select(recursive=True) if not entry.is_dir]

    def _select(self, recursive: bool) -> list[Entry]:
        selector = pafs.FileSelector(self.path, allow_not_found=True, recursive=recursive)
        root = self.path.rstrip("/") + "/"
        entries = [
            Entry(info.path.removeprefix(root), info.type == pafs.FileType.Directory, info.size or 0, (info.mtime_ns or 0) / 1e9)
            for info in self.fs.get_file_info(selector)
        ]
        return sorted((e for e in entries if not _is_temporary(e.name)), key=lambda e: e.name)

    def read_bytes(self) -> bytes:
        with self.fs.open_input_file(self.path) as stream:
            return stream.read()

    def read_text(self) -> str:
        return self.read_bytes().decode()

    def read_json(self) -> Any:
        return json.loads(self.read_bytes())

    def write_bytes(self, data: bytes | pa.Buffer, sync: bool = True) -> None:
        """Write the whole file; without `sync` it survives the death of the process at once, that of the machine later."""
        if not self.is_local:
            with self.fs.open_output_stream(self.path) as stream:
                stream.write(data)
            return
        with self._temporary() as temporary:
            with open(temporary, "wb") as stream:
                stream.write(data)
                stream.flush()
                if sync:
                    os.fsync(stream.fileno())

    @contextlib.contextmanager
    def _temporary(self) -> Iterator[str]:
        """A unique sibling name that becomes the final name when the block ends well."""
        os.makedirs(os.path.dirname(self.path), exist_ok=True)
        temporary = os.path.join(os.path.dirname(self.path), f".{uuid.uuid4().hex}.tmp")
        try:
            yield temporary
            os.replace(temporary, self.path)
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)

    @contextlib.contextmanager
    def writing(self) -> Iterator[Path]:
        """A local path to fill, for files too big for memory; what it holds becomes this place when the block ends well."""
        if self.is_local:
            with self._temporary() as temporary:
                yield Path(temporary)
                with open(temporary, "rb") as stream:
                    os.fsync(stream.fileno())
            return
        with scratch_folder("copy") as folder:
            local = Path(folder) / "data"
            yield local
            with open(local, "rb") as source, self.fs.open_output_stream(self.path) as target:
                shutil.copyfileobj(source, target, COPY_BYTES)

    def write_text(self, text: str) -> None:
        self.write_bytes(text.encode())

    def write_json(self, value: Any) -> None:
        """Readable and stable JSON: sorted keys, two spaces, a final newline. NaN is refused."""
        self.write_text(json.dumps(value, indent=2, sort_keys=True, allow_nan=False) + "\n")

    def read_table(self, columns: list[str] | None = None, filters: Any = None) -> pa.Table:
        """A Parquet file as a table. Raises OSError when its content does not match the checksums written with it."""
        return pq.read_table(self.path, columns=columns, filters=filters, filesystem=self.fs, page_checksum_verification=True)

    def write_table(self, table: pa.Table, **options: Any) -> None:
        """Write a table as Parquet with checksums, atomically; `options` go to `pyarrow.parquet.write_table`."""
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, write_page_checksum=True, **options)
        self.write_bytes(sink.getvalue().to_pybytes())

    def upload(self, source: Path) -> None:
        """Copy a local file or tree to this place, file by file."""
        if source.is_file():
            with self.writing() as file:
                shutil.copyfile(source, file)
            return
        for path in sorted(p for p in source.rglob("*") if p.is_file()):
            (self / path.relative_to(source).as_posix()).upload(path)

    def download(self, target: Path) -> None:
        """Copy this file or tree to a local path."""
        if self.fs.get_file_info(self.path).type == pafs.FileType.File:
            # In portions: a share of a checkpoint may be larger than memory.
            with Location(str(target.absolute())).writing() as file, self.fs.open_input_stream(self.path) as source:
                with open(file, "wb") as copy:
                    shutil.copyfileobj(source, copy, COPY_BYTES)
            return
        for entry in self.walk():
            (self / entry.name).download(target / entry.name)

    @contextlib.contextmanager
    def as_local(self) -> Iterator[Path]:
        """A readable local path of this place: itself when local, else a temporary download."""
        if self.is_local:
            yield self.local_path()
            return
        with scratch_folder("copy") as folder:
            target = Path(folder) / (self.name or "data")
            self.download(target)
            yield target

    def delete(self) -> None:
        """Remove the file or tree; nothing happens when it is absent."""
        if self.is_local:
            if os.path.isdir(self.uri):
                shutil.rmtree(self.uri)
            else:
                Path(self.uri).unlink(missing_ok=True)
            return
        info = self.fs.get_file_info(self.path)
        if info.type == pafs.FileType.File:
            self.fs.delete_file(self.path)
        elif info.type == pafs.FileType.Directory:
            self.fs.delete_dir(self.path)


def _is_temporary(name: str) -> bool:
    last = name.rsplit("/", 1)[-1]
    return last.startswith(".") and last.endswith(".tmp")


def sha256_of(path: Path) -> str:
    """Hex SHA-256 of a local file, read in pieces."""
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        while piece := stream.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def sha256_of_tree(path: Path) -> str:
    """Hex SHA-256 of a file, or of every file name and content below a folder."""
    if path.is_file():
        return sha256_of(path)
    digest = hashlib.sha256()
    for child in sorted(p for p in path.rglob("*") if p.is_file()):
        digest.update(f"{child.relative_to(path).as_posix()}\0{sha256_of(child)}\n".encode())
    return digest.hexdigest()
