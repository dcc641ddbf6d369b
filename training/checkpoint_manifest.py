"""What tells a whole checkpoint from a damaged one: sizes and SHA-256 of all files, written last."""

import hashlib
import json
from pathlib import Path
from typing import Any

from training.checkpoint_folder import Folder

MANIFEST = "manifest.json"


class Fault(Exception):
    """A checkpoint is not what was written."""


def share_name(rank: int) -> str:
    return f"share-{rank:05d}.json"


def read_manifest(place: Folder) -> dict[str, Any]:
    try:
        content = json.loads((place / MANIFEST).read_bytes())
        body, digest = content["body"], content["sha256"]
    except (ValueError, KeyError, TypeError, FileNotFoundError) as error:
        raise Fault(f"{MANIFEST} cannot be read ({type(error).__name__})") from error
    if digest_of(body) != digest:
        raise Fault(f"{MANIFEST} does not match its own SHA-256")
    return body


def check_file(path: Path, name: str, facts: dict[str, Any]) -> None:
    if not path.is_file():
        raise Fault(f"{name} is missing")
    if path.stat().st_size != facts["size"]:
        raise Fault(f"{name} has {path.stat().st_size} bytes instead of {facts['size']}")
    if sha256_of(path) != facts["sha256"]:
        raise Fault(f"{name} does not match its SHA-256")


def sha256_of(path: Path) -> str:
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def digest_of(body: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
