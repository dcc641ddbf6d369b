"""[step] What Ray Train leaves open when nodes are lost: it would wait for new ones without end, and counts failures for ever.

A training that runs for weeks on many nodes loses some of them, again and again. So failures count only as long as they keep it
from getting further, and a cluster that has become too small ends the training with a message, after some patience.
"""

import contextlib
import threading
from collections.abc import Callable, Iterator

from infra.errors import UserError
from infra.hearing import Hearing
from infra.job import Resources
from infra.nodes import LOOK_S, Room
from infra.storage import Location
from training.checkpoint_manifest import MANIFEST

# A training is silent by nature: asked more often, echoes would cost it time.
QUIET_S = 600.0


def furthest(checkpoints: Location) -> str:
    """Name of the newest whole checkpoint, empty before the first; later ones sort higher."""
    names = sorted((entry.name for entry in checkpoints.children() if entry.name.startswith("step-")), reverse=True)
    return next((name.rpartition("-")[0] for name in names if (checkpoints / name / MANIFEST).exists()), "")


@contextlib.contextmanager
def room_watched(step: str, resources: Resources, give_up: Callable[[UserError], None]) -> Iterator[None]:
    """While the block runs, call `give_up` once when the cluster has had no room for the fewest workers allowed for too long, or this
    driver no longer hears of actors: the training's controller is one."""
    room, hearing = Room(step, resources, least=resources.min_workers or resources.workers), Hearing(step, QUIET_S)
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(room.look_s):
            try:
                room.check()
                hearing.check()
            except UserError as error:
                give_up(error)
                return

    thread = threading.Thread(target=watch, name=f"room for {step}", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(timeout=LOOK_S)
