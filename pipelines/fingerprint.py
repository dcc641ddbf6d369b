"""Identity of a step's configuration: canonical JSON, a hash of it, and the difference of two of them.

Two field markers steer it (`dataclasses.field(metadata=...)`):
`{"identity": False}` leaves a field out (it changes how, not what);
`{"content": True}` replaces a path by the hash of the file or folder it names, so that moving weights
changes nothing and changing them does. `{"content": path_of}` does so for the part of the value that the
function `path_of` finds, None where there is none (`lpips(/weights/vgg.safetensors)`); it must be absolute,
because workers run elsewhere.
"""

import dataclasses
import functools
import hashlib
import json
import math
from pathlib import Path
from typing import Any

from infra.errors import UserError
from infra.storage import sha256_of_tree


def canonical(value: Any) -> Any:
    """A value as plain JSON types.

    Raises:
        TypeError: a type without an obvious stable form; nothing falls back to `str()`.
        UserError: a `content` field that names a missing file.
    """
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise TypeError(f"{value} has no JSON form")
        return value
    if isinstance(value, list | tuple):
        return [canonical(item) for item in value]
    if isinstance(value, dict):
        if not all(isinstance(key, str) for key in value):
            raise TypeError("only text keys have a stable form")
        return {key: canonical(item) for key, item in sorted(value.items())}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _canonical_fields(value)
    raise TypeError(f"{type(value).__name__} has no canonical form for a fingerprint")


def _canonical_fields(value: Any) -> dict[str, Any]:
    result = {}
    for field in dataclasses.fields(value):
        if not field.metadata.get("identity", True):
            continue
        item = getattr(value, field.name)
        path = _path_in(item, field)
        result[field.name] = canonical(item) if path is None else item.replace(path, _content_hash(path, field.name))
    return result


def _path_in(item: Any, field: dataclasses.Field) -> str | None:
    """The path whose content counts, in the value of a field."""
    content = field.metadata.get("content")
    if not content or not isinstance(item, str):
        return None
    if not callable(content):
        return item if item.startswith(("/", "~", ".")) else None
    path = content(item)
    if path is not None and not Path(path).expanduser().is_absolute():
        raise UserError(f"{field.name}: {path} is a relative path, which workers elsewhere would not find", "give the absolute path")
    return path


def _content_hash(path: str, field: str) -> str:
    file = Path(path).expanduser()
    if not file.exists():
        raise UserError(f"{field}: {path} does not exist", "give the path of the weights file or folder, or drop the setting")
    files = [file] if file.is_file() else sorted(child for child in file.rglob("*") if child.is_file())
    return f"sha256:{_hash_of_state(file, tuple((str(f), f.stat().st_size, f.stat().st_mtime_ns) for f in files))}"


@functools.lru_cache(maxsize=256)
def _hash_of_state(file: Path, state: tuple[tuple[str, int, int], ...]) -> str:
    """Read once per process and state: every step of a plan asks again, and weights are gigabytes."""
    return sha256_of_tree(file)


def digest(value: Any) -> str:
    """Hex SHA-256 of the canonical JSON of a value."""
    text = json.dumps(canonical(value), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def difference(before: Any, after: Any, prefix: str = "") -> list[str]:
    """Field-level difference of two canonical values, for example `['num_views: 12 -> 16']`."""
    if isinstance(before, dict) and isinstance(after, dict):
        lines = []
        for key in sorted(before.keys() | after.keys()):
            name = f"{prefix}.{key}" if prefix else key
            if key not in before:
                lines.append(f"{name}: (absent) -> {json.dumps(after[key])}")
            elif key not in after:
                lines.append(f"{name}: {json.dumps(before[key])} -> (absent)")
            else:
                lines += difference(before[key], after[key], name)
        return lines
    return [] if before == after else [f"{prefix}: {json.dumps(before)} -> {json.dumps(after)}"]
