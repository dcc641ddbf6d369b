"""What a glTF file says about itself, read without any 3D library: its JSON part, the files it refers to, its digest.

Cheap enough for a catalog of everything. Whether a file is fit to be opened, `rendering.preflight` tells.
"""

import hashlib
from pathlib import Path
from typing import Any

from infra.storage import sha256_of
from rendering import preflight
from rendering.preflight_files import inside, resource_paths
from rendering.preflight_json import parse, read_container
from rendering.sources.base import FetchError


def read_document(path: Path) -> dict[str, Any]:
    """The JSON part of a .glb or .gltf file, header and chunk lengths checked.

    Raises FetchError: `unreadable`, `bad_header`, `unsupported_version`, `truncated`, `bad_json`, `file_too_large` or
    `json_too_large`.
    """
    text, _ = read_container(path)
    return parse(text)


def external_uris(document: dict[str, Any]) -> list[str]:
    """Relative paths of the buffers and pictures outside the file, decoded, sorted, each once.

    Raises FetchError `unsafe_uri` for anything but a relative path that stays below the file's folder.
    """
    return resource_paths(document)


def check_file(path: Path) -> dict[str, Any]:
    """The document of a file that may be rendered. Raises FetchError as `rendering.preflight.check` does."""
    return preflight.check(path)


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
    lines = [f"{uri}\x1f{_sha256_inside(path.parent, uri)}" for uri in uris]
    return hashlib.sha256("\x1e".join([own, *lines]).encode()).hexdigest()


def _sha256_inside(folder: Path, relative: str) -> str:
    try:
        return sha256_of(inside(folder, relative))
    except FetchError:
        return ""
