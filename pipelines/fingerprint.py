"""Identity of a step's configuration: canonical JSON, a hash of it, and the difference of two of them.

Two field markers steer it (`dataclasses.field(metadata=...)`):
`{"identity": False}` leaves a field out (it changes how, not what);
`{"content": True}` replaces a path by the hash of the file or folder it names, so that moving weights
changes nothing and changing them does.
"""

import dataclasses
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
        if field.metadata.get("content") and isinstance(item, str) and item.startswith(("/", "~", ".")):
            result[field.name] = _content_hash(item, field.name)
        else:
            result[field.name] = canonical(item)
    return result


def _content_hash(path: str, field: str) -> str:
    file = Path(path).expanduser()
    if not file.exists():
        raise UserError(f"{field}: {path} does not exist", "give the path of the weights file or folder, or drop the setting")
    return f"sha256:{sha256_of_tree(file)}"


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
