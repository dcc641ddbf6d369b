"""What a glTF file refers to by URI: only relative paths that stay in its folder, links followed, and sound data URIs."""

import base64
import binascii
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from rendering.preflight_json import Document, entries, integer, open_regular, refuse, text_of
from rendering.preflight_limits import PreflightLimits

_DATA, _BASE64 = "data:", ";base64,"
_DATA_HEAD = re.compile(r"data:([A-Za-z0-9.+-]{1,80}/[A-Za-z0-9.+-]{1,80})?(;[A-Za-z0-9.+=-]{1,40}){0,4}")
_ODD = re.compile('[\x00-\x1f\x7f\\\\:<>"|\ud800-\udfff]')  # control, drive, stream, wildcard and half characters
_LONGEST_PATH = 512
_LONGEST_NAME = 255
_SHOWN = 120  # URIs may be megabytes


@dataclass(frozen=True)
class Blob:
    """`size` bytes from `offset` of memory or of a file; files are read piece by piece and never kept open."""

    size: int
    data: bytes | None = None
    path: Path | None = None
    offset: int = 0

    def part(self, offset: int, length: int) -> "Blob":
        """A range of it, which must lie inside."""
        return Blob(length, self.data, self.path, self.offset + offset)

    def read(self, start: int, length: int) -> bytes:
        """Bytes from `start`, fewer at the end. Raises FetchError `unreadable`, `truncated`."""
        length = max(0, min(length, self.size - start))
        if self.data is not None:
            return self.data[self.offset + start : self.offset + start + length]
        assert self.path is not None
        try:
            with open_regular(self.path) as stream:
                stream.seek(self.offset + start)
                piece = stream.read(length)
        except OSError as error:
            refuse("unreadable", f"{type(error).__name__}: {error}")
        if len(piece) != length:
            refuse("truncated", f"the file shrank while it was read: {len(piece)} of {length} bytes at {self.offset + start}")
        return piece


def relative_path(uri: Any) -> str:
    """The path that a URI means, decoded. Raises FetchError `unsafe_uri` unless it is relative and goes only downwards."""
    path = unquote(uri) if isinstance(uri, str) else ""
    parts = path.split("/")
    is_plain = bool(path.strip("./")) and _ODD.search(path) is None and not path.startswith("/") and ".." not in parts
    if not is_plain or len(path) > _LONGEST_PATH or max(len(part.encode()) for part in parts) > _LONGEST_NAME:
        refuse("unsafe_uri", f"refers to {str(uri)[:_SHOWN]!r}; only relative paths below the file's folder are followed")
    return path


def is_data(uri: Any) -> bool:
    """Whether a URI holds its data itself."""
    return isinstance(uri, str) and uri.startswith(_DATA)


def resource_paths(document: Document) -> list[str]:
    """Decoded relative paths of the buffers and pictures outside the file, sorted, each once. Raises FetchError."""
    uris = (entry["uri"] for kind in ("buffers", "images") for entry in entries(document, kind) if entry.get("uri") is not None)
    return sorted({relative_path(uri) for uri in uris if not is_data(uri)})


def inside(folder: Path, relative: str) -> Path:
    """The real path of a resource. Raises FetchError `missing_resource`, and `unsafe_uri` when a link leads outside."""
    try:
        root, real = os.path.realpath(folder), os.path.realpath(folder / relative)
        if os.path.commonpath([root, real]) != root:
            refuse("unsafe_uri", f"refers to {relative!r}, a link that leads outside the file's folder")
        if not os.path.isfile(real):
            refuse("missing_resource", f"refers to {relative!r}, which is not there")
    except (OSError, ValueError) as error:
        refuse("missing_resource", f"refers to {relative!r}: {error}")
    return Path(real)


def open_resources(document: Document, path: Path, limits: PreflightLimits) -> dict[str, Path]:
    """Decoded relative path -> real path of every resource, sizes bounded together with the file's own."""
    found = {relative: inside(path.parent, relative) for relative in resource_paths(document)}
    total = path.stat().st_size
    for relative, real in found.items():
        total += real.stat().st_size
        if total > limits.total_bytes:
            refuse("file_too_large", f"with {relative!r} it is {total} bytes, at most {limits.total_bytes} are read")
    return found


def blob_of(uri: str, resources: dict[str, Path], where: str) -> Blob:
    """What a URI holds. Raises FetchError `bad_data_uri`, `unsafe_uri`, `unreadable`."""
    if not is_data(uri):
        real = resources[relative_path(uri)]
        return Blob(real.stat().st_size, path=real)
    head, found, body = uri.partition(_BASE64)
    # Blender takes a data URI without this mark, or with a late one, for the name of a file.
    if not found or not _DATA_HEAD.fullmatch(head):
        refuse("bad_data_uri", f"{where}.uri is no base64 data URI: {uri[:40]!r}")
    try:
        data = base64.b64decode(body, validate=True)
    except (binascii.Error, ValueError) as error:
        refuse("bad_data_uri", f"{where}.uri: {error}")
    return Blob(len(data), data=data)


def buffers(document: Document, path: Path, body: tuple[int, int] | None, resources: dict[str, Path]) -> list[Blob | None]:
    """The bytes of every buffer, `byteLength` of them; None for a buffer without data (a fallback nothing may use).

    Raises FetchError `bad_buffer` when a buffer has fewer bytes than it declares.
    """
    found: list[Blob | None] = []
    for number, entry in enumerate(entries(document, "buffers")):
        where = f"buffers[{number}]"
        declared = integer(entry, "byteLength", where, low=1)
        uri = text_of(entry, "uri", where)
        blob = None
        if uri is not None:
            blob = blob_of(uri, resources, where)
        elif number == 0 and body is not None:
            blob = Blob(body[1], path=path, offset=body[0])
        if blob is not None and blob.size < declared:
            refuse("bad_buffer", f"{where} declares {declared} bytes and has {blob.size}")
        found.append(blob)
    return found
