"""The container of a glTF file and its JSON part, read so that no file can make the reader fall over.

Every fault is a `FetchError` whose detail names the place in the file.
"""

import json
import math
import os
import stat
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

import numpy as np

from rendering.preflight_limits import DEFAULT, PreflightLimits
from rendering.sources.base import FetchError

_HEADER = struct.Struct("<4sII")
_CHUNK = struct.Struct("<I4s")
_LARGEST_INTEGER = 1 << 53
_OPENING, _CLOSING, _QUOTE = 1, -1, 2
_STRUCTURE = np.zeros(256, np.int8)
_STRUCTURE[list(b"[{")], _STRUCTURE[list(b"]}")], _STRUCTURE[ord('"')] = _OPENING, _CLOSING, _QUOTE

Document = dict[str, Any]


def refuse(reason: str, detail: str) -> NoReturn:
    """Raise FetchError with one printable line of bounded length."""
    raise FetchError(reason, detail.encode("ascii", "backslashreplace").decode().replace("\n", " ").replace("\r", " ")[:300])


def open_regular(path: Path) -> BinaryIO:
    """The file opened for reading; pipes, devices and folders are refused. Raises OSError and FetchError `unreadable`."""
    # O_NONBLOCK: opening a pipe that nobody writes to must not wait.
    stream = os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb")
    if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
        stream.close()
        refuse("unreadable", "not a regular file")
    return stream


def read_container(path: Path, limits: PreflightLimits = DEFAULT) -> tuple[bytes, tuple[int, int] | None]:
    """(JSON text, (offset, length) of the BIN chunk or None) of a .glb or .gltf file, told apart by content.

    Raises FetchError: `unreadable`, `file_too_large`, `json_too_large`, `bad_header`, `truncated`, `unsupported_version`.
    """
    try:
        with open_regular(path) as stream:
            size = os.fstat(stream.fileno()).st_size
            start = stream.read(_HEADER.size)
            if start[:4] == b"glTF":
                return _glb(stream, start, size, limits)
            if path.suffix.lower() == ".glb":
                refuse("bad_header", f"starts with {start[:4]!r}, a GLB starts with b'glTF'")
            if size > limits.json_bytes:
                refuse("json_too_large", f"{size} bytes of JSON, at most {limits.json_bytes} are read")
            return start + stream.read(), None
    except (OSError, ValueError) as error:
        raise FetchError("unreadable", f"{type(error).__name__}: {error}"[:300]) from error


def _glb(stream: BinaryIO, start: bytes, size: int, limits: PreflightLimits) -> tuple[bytes, tuple[int, int] | None]:
    if len(start) < _HEADER.size:
        refuse("truncated", f"{size} bytes, shorter than a GLB header")
    _, version, declared = _HEADER.unpack(start)
    if version != 2:
        refuse("unsupported_version", f"GLB version {version}, only 2 is read")
    if declared != size:
        refuse("truncated" if size < declared else "bad_header", f"header declares {declared} bytes, the file has {size}")
    if size > limits.file_bytes:
        refuse("file_too_large", f"{size} bytes, at most {limits.file_bytes} are read")
    text, body = None, None
    for number, (kind, offset, length) in enumerate(_chunks(stream, size)):
        if (kind == b"JSON") != (number == 0) or (kind == b"BIN\0" and number != 1):
            refuse("bad_header", f"chunk {number} at byte {offset - _CHUNK.size} is of type {kind!r}: JSON comes first, then BIN")
        if kind == b"JSON":
            if length > limits.json_bytes:
                refuse("json_too_large", f"{length} bytes of JSON, at most {limits.json_bytes} are read")
            stream.seek(offset)
            text = stream.read(length)
        elif kind == b"BIN\0":
            body = offset, length
    if text is None:
        refuse("bad_header", "no JSON chunk")
    return text, body


def _chunks(stream: BinaryIO, size: int) -> Iterator[tuple[bytes, int, int]]:
    """(kind, offset of its data, length) of every chunk; they must fill the file in multiples of four bytes."""
    at = _HEADER.size
    while at < size:
        stream.seek(at)
        head = stream.read(_CHUNK.size)
        length = _CHUNK.unpack(head)[0] if len(head) == _CHUNK.size else size
        if at + _CHUNK.size + length > size:
            refuse("bad_header", f"the chunk at byte {at} reaches past the end of the file")
        # Padding of the last chunk is left out by some exporters, and nothing depends on it.
        if length % 4 and at + _CHUNK.size + length != size:
            refuse("bad_header", f"the chunk at byte {at} has {length} bytes, which is no multiple of four")
        yield head[4:], at + _CHUNK.size, length
        at += _CHUNK.size + length


def parse(text: bytes, limits: PreflightLimits = DEFAULT) -> Document:
    """The JSON part as plain data: UTF-8, no repeated keys, no NaN, no number beyond a double's integers, bounded depth.

    Raises FetchError: `bad_json`, `unsupported_version`.
    """
    depth = nesting(text)
    if depth > limits.json_depth:
        refuse("bad_json", f"nested {depth} deep, at most {limits.json_depth} is read")
    try:
        document = json.loads(
            text.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_no_constant, parse_float=_finite, parse_int=_bounded
        )
    except (ValueError, RecursionError, MemoryError) as error:
        refuse("bad_json", f"{type(error).__name__}: {error}")
    if not isinstance(document, dict) or not isinstance(document.get("asset"), dict):
        refuse("bad_json", "no 'asset' object in the JSON part")
    version = document["asset"].get("version")
    if version != "2.0":
        refuse("unsupported_version", f"glTF version {str(version)[:20] or 'missing'!r}, only '2.0' is read")
    return document


def nesting(text: bytes) -> int:
    """Deepest nesting of `[` and `{` outside strings, found without parsing."""
    plain = text.replace(b"\\\\", b"  ").replace(b'\\"', b"  ")
    marks = _STRUCTURE[np.frombuffer(plain, np.uint8)]
    marks = marks[marks != 0]
    quotes = marks == _QUOTE
    outside = np.cumsum(quotes) % 2 == 0
    steps = np.where(outside & ~quotes, marks, 0)
    return int(np.cumsum(steps, dtype=np.int64).max(initial=0))


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        repeated = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise ValueError(f"the key {repeated[:60]!r} occurs twice in one object")
    return found


def _no_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is no JSON number")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"the number {text[:40]} is too large")
    return value


def _bounded(text: str) -> int:
    if len(text) > 17 or not -_LARGEST_INTEGER <= (value := int(text)) <= _LARGEST_INTEGER:
        raise ValueError(f"the number {text[:40]} is too large")
    return value


def entries(parent: Document, key: str, where: str = "", most: int | None = None) -> list[Document]:
    """The list of objects under `key`, empty when absent. Raises FetchError `bad_json`, and `too_complex` above `most`."""
    found = listed(parent, key, where, most)
    for number, entry in enumerate(found):
        if not isinstance(entry, dict):
            refuse("bad_json", f"{where}{key}[{number}] is {_kind(entry)}, not an object")
    return found


def listed(parent: Document, key: str, where: str = "", most: int | None = None) -> list[Any]:
    """The list under `key`, empty when absent."""
    found = parent.get(key)
    if found is None:
        return []
    if not isinstance(found, list):
        refuse("bad_json", f"{where}{key} is {_kind(found)}, not a list")
    if most is not None and len(found) > most:
        refuse("too_complex", f"{where}{key} has {len(found)} entries, at most {most} are read")
    return found


def table(parent: Document, key: str, where: str = "") -> Document:
    """The object under `key`, empty when absent."""
    found = parent.get(key)
    if found is None:
        return {}
    if not isinstance(found, dict):
        refuse("bad_json", f"{where}{key} is {_kind(found)}, not an object")
    return found


def integer(parent: Document, key: str, where: str, default: int | None = None, low: int = 0) -> int:
    """The integer under `key`. Raises FetchError `bad_json` when it is absent without a default, or below `low`."""
    value = parent.get(key)
    if value is None and default is not None:
        return default
    if type(value) is not int or value < low:
        refuse("bad_json", f"{where}.{key} is {_kind(value)}, not an integer from {low}")
    return value


def numbers(parent: Document, key: str, where: str, length: int) -> list[float] | None:
    """`length` numbers under `key`, or None when absent."""
    value = parent.get(key)
    if value is None:
        return None
    if not isinstance(value, list) or len(value) != length or not all(type(x) in (int, float) for x in value):
        refuse("bad_json", f"{where}.{key} is not a list of {length} numbers")
    return [float(x) for x in value]


def text_of(parent: Document, key: str, where: str) -> str | None:
    """The string under `key`, or None when absent."""
    value = parent.get(key)
    if value is not None and not isinstance(value, str):
        refuse("bad_json", f"{where}.{key} is {_kind(value)}, not text")
    return value


def reference(value: Any, count: int, where: str, of: str) -> int:
    """An index into a list of `count` things. Raises FetchError `bad_reference`."""
    if type(value) is not int or not 0 <= value < count:
        refuse("bad_reference", f"{where} refers to {of}[{_kind(value)}], there are {count}")
    return value


def _kind(value: Any) -> str:
    return "missing" if value is None else f"{type(value).__name__} {str(value)[:40]!r}" if not isinstance(value, int) else str(value)
