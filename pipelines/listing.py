"""Everything that lies below a place, temporary files included: the view of whoever tidies up."""

import re
from dataclasses import dataclass

import pyarrow.fs as pafs

from infra.storage import Location

# The names that `infra.storage` and `training.checkpoint_folder` give to unfinished files, and `pipelines.lease` to unfinished leases.
TEMPORARY = re.compile(r"\.[0-9a-f]{32}\.tmp|lease\.json\.[0-9a-f]{32}(\.dead)?|\.probe-[0-9a-f]{32}")


@dataclass(frozen=True)
class Found:
    """A file or folder: its name relative to the listed place, size in bytes, mtime in epoch seconds."""

    name: str
    is_dir: bool
    size: int
    mtime: float


def everything(place: Location, deep: bool = True) -> list[Found]:
    """Files and folders below, or directly in, a place; empty when it does not exist. What vanishes meanwhile is left out."""
    selector = pafs.FileSelector(place.path, allow_not_found=True, recursive=deep)
    root = place.path.rstrip("/") + "/"
    return [
        Found(info.path.removeprefix(root), info.type == pafs.FileType.Directory, info.size or 0, (info.mtime_ns or 0) / 1e9)
        for info in place.fs.get_file_info(selector)
        if info.type != pafs.FileType.NotFound
    ]


def below(found: list[Found], folder: str) -> list[Found]:
    """Those inside `folder`, with names as they were."""
    return [each for each in found if each.name.startswith(f"{folder}/")]


def is_temporary(name: str) -> bool:
    """Whether the last part of a path is a temporary name of ours."""
    return TEMPORARY.fullmatch(name.rsplit("/", 1)[-1]) is not None
