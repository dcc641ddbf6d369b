"""How much training a failure now would lose: whole checkpoints of a build, by the times of their manifests."""

import time
from collections.abc import Callable

from infra.storage import Location
from training.checkpoint_manifest import MANIFEST


def whole_checkpoints(place: Location) -> list[tuple[int, float]]:
    """(updates done, epoch seconds at which it was whole) of every complete checkpoint below `place`, oldest first."""
    found = []
    for entry in place.children():
        if entry.name.startswith("step-"):
            manifest = place / entry.name / MANIFEST
            info = manifest.fs.get_file_info(manifest.path)
            if info.is_file:
                found.append((int(entry.name.split("-")[1]), (info.mtime_ns or 0) / 1e9))
    return sorted(found)


def age_of_newest(place: Location) -> Callable[[], float]:
    """A clock: seconds since the newest whole checkpoint below `place`, or since now where it is newer."""
    began = time.time()

    def age() -> float:
        return max(0.0, time.time() - max([began, *(at for _, at in whole_checkpoints(place))]))

    return age
