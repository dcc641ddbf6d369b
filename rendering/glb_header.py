"""What a glTF file says about itself, read without any 3D library: header, JSON part, files it refers to.

Cheap checks before anything else opens a file. They do not prove that the file imports.
"""

import hashlib
import json
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from infra.storage import sha256_of
from rendering.sources.base import FetchError

_HEADER = struct.Struct("<4sII")
_CHUNK = struct.Struct("<I4s")


def read_document(path: Path) -> dict[str, Any]:
    """The JSON part of a .glb or .gltf file, header and chunk lengths checked.

    Raises FetchError: `unreadable`, `bad_header`, `unsupported_version`, `truncated` or `bad_json`.
    """
    try:
        with open(path, "rb") as stream:
            start = stream.read(_HEADER.size)
            if start[:4] == b"glTF":
                text = _json_chunk(stream, start, os.fstat(stream.fileno()).st_size)
            elif path.suffix.lower() == ".glb":
                raise FetchError("bad_header", f"starts with {start[:4]!r}, a GLB starts with b'glTF'")
            else:
                text = start + stream.read()
    except OSError as error:
        raise FetchError("unreadable", str(error)) from error
    return _parse(text)


def _json_chunk(stream: Any, start: bytes, size: int) -> bytes:
    if len(start) < _HEADER.size:
        raise FetchError("truncated", f"{size} bytes, shorter than a GLB header")
    _, version, declared = _HEADER.unpack(start)
    if version != 2:
        raise FetchError("unsupported_version", f"GLB version {version}, only 2 is read")
    if declared != size:
        raise FetchError("truncated" if size < declared else "bad_header", f"header declares {declared} bytes, the file has {size}")
    text = None
    for kind, offset, length in _chunks(stream, size):
        if text is None and kind == b"JSON":
            stream.seek(offset)
            text = stream.read(length)
    if text is None:
        raise FetchError("bad_header", "no JSON chunk")
    return text


def _chunks(stream: Any, size: int) -> Iterator[tuple[bytes, int, int]]:
    """(kind, offset of its data, length) of every chunk; they must fill the file."""
    at = _HEADER.size
    while at < size:
        stream.seek(at)
        head = stream.read(_CHUNK.size)
        length = _CHUNK.unpack(head)[0] if len(head) == _CHUNK.size else size
        if at + _CHUNK.size + length > size:
            raise FetchError("bad_header", f"the chunk at byte {at} reaches past the end of the file")
        yield head[4:], at + _CHUNK.size, length
        at += _CHUNK.size + length


def _parse(text: bytes) -> dict[str, Any]:
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise FetchError("bad_json", f"{type(error).__name__}: {error}"[:300]) from error
    if not isinstance(document, dict) or not isinstance(document.get("asset"), dict):
        raise FetchError("bad_json", "no 'asset' object in the JSON part")
    version = str(document["asset"].get("version", ""))
    if not version.startswith("2."):
        raise FetchError("unsupported_version", f"glTF version {version or 'missing'}, only 2.x is read")
    return document


def external_uris(document: dict[str, Any]) -> list[str]:
    """Relative paths of the buffers and pictures outside the file, decoded, sorted, each once.

    Raises FetchError `unsafe_uri` for anything but a relative path that stays below the file's folder.
    """
    uris = set()
    for kind in ("buffers", "images"):
        entries = document.get(kind, [])
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            raise FetchError("bad_json", f"'{kind}' is not a list of objects")
        uris |= {entry["uri"] for entry in entries if entry.get("uri") is not None}
    return sorted(_safe_path(uri) for uri in uris if not (isinstance(uri, str) and uri.startswith("data:")))


def _safe_path(uri: Any) -> str:
    path = unquote(uri) if isinstance(uri, str) else ""
    parts = path.split("/")
    is_plain = bool(path) and not urlsplit(uri).scheme and not any(character in path for character in ("\\", "\0", ":"))
    if not is_plain or path.startswith("/") or ".." in parts:
        raise FetchError("unsafe_uri", f"refers to {str(uri)[:200]!r}; only relative paths below the file's folder are followed")
    return path


def check_file(path: Path) -> dict[str, Any]:
    """The document of a file whose header, JSON part and external files are in order.

    Raises FetchError as `read_document` and `external_uris` do, and `missing_resource`.
    """
    document = read_document(path)
    for uri in external_uris(document):
        if not (path.parent / uri).is_file():
            raise FetchError("missing_resource", f"refers to '{uri}', which is not there")
    return document


def content_sha256(path: Path) -> str:
    """Hex sha256 of everything a file shows: its bytes, or a digest over it and the external files that exist.

    A file without external parts has its plain sha256, the one that `sha256sum` prints. Raises OSError.
    """
    own = sha256_of(path)
    try:
        uris = external_uris(read_document(path))
    except FetchError:
        return own  # A broken file is identified by its bytes; `check_file` tells what is wrong with it.
    if not uris:
        return own
    lines = [f"{uri}\x1f{sha256_of(path.parent / uri) if (path.parent / uri).is_file() else ''}" for uri in uris]
    return hashlib.sha256("\x1e".join([own, *lines]).encode()).hexdigest()
