"""A private copy of one object, checked: the only files that a Blender child is given."""

import os
import shutil
from pathlib import Path

from rendering import preflight
from rendering.preflight_files import inside, resource_paths
from rendering.preflight_json import open_regular, parse, read_container, refuse
from rendering.preflight_limits import DEFAULT, PreflightLimits

SUFFIXES = (".glb", ".gltf")


def stage(mesh: Path, folder: Path, limits: PreflightLimits = DEFAULT) -> Path:
    """Copy a .glb or .gltf file and what it refers to into an empty folder, and check the copy; returns its path.

    What was checked is therefore what will be opened, whatever happens to the original meanwhile, and a path that
    escaped every check would still lead nowhere. Raises FetchError as `preflight.check` does.
    """
    copy = copy_object(mesh, folder, limits)
    preflight.check(copy, limits)
    return copy


def copy_object(mesh: Path, folder: Path, limits: PreflightLimits = DEFAULT) -> Path:
    """`stage` without the check. Raises FetchError: `unreadable`, `file_too_large`, `unsafe_uri`, `missing_resource`, ..."""
    # The folder's own name is random, so no resource can be called like this.
    copy = folder / f"{folder.name}{mesh.suffix.lower() if mesh.suffix.lower() in SUFFIXES else SUFFIXES[0]}"
    room = _copy(mesh, copy, limits.total_bytes)
    text, _ = read_container(copy, limits)
    if b'"uri"' not in text:
        return copy
    for relative in resource_paths(parse(text, limits)):
        target = Path(os.path.normpath(folder / relative))
        source = inside(mesh.parent, relative)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
        except OSError:
            refuse("unsafe_uri", f"refers to {relative!r}, below something that is no folder")
        if target.is_dir():
            refuse("unsafe_uri", f"refers to {relative!r}, which is a folder elsewhere in the file")
        room = _copy(source, target, room)
    return copy


def _copy(source: Path, target: Path, room: int) -> int:
    """Copy a regular file of at most `room` bytes; returns what room is left."""
    try:
        with open_regular(source) as stream, open(target, "wb") as copy:
            size = os.fstat(stream.fileno()).st_size
            if size > room:
                refuse("file_too_large", f"{source.name!r} has {size} bytes, {room} are left of what one object may have")
            shutil.copyfileobj(stream, copy, 1 << 20)
            written = copy.tell()
    except (OSError, ValueError) as error:
        refuse("unreadable", f"{type(error).__name__}: {error}")
    return room - written
