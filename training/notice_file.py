"""A notice in the folder of a build, which reaches a training on whatever machines it runs."""

import contextlib
import json
import threading
import time
import uuid
from collections.abc import Iterator
from typing import Any

from infra.storage import Location
from training.notice import LEAVE, NOTHING, SAVE

NOTICE = "notice.json"
POLL_S = 1.0
BETWEEN_SAVES_S = 20.0
"""When many machines go at once, each gives a notice; one checkpoint serves those of so many seconds."""


def give(out: Location, leave: bool) -> None:
    """Leave a notice for the training that writes to `out`, on whatever machines it runs."""
    (out / NOTICE).write_json({"id": uuid.uuid4().hex, "leave": leave})


class FileNotice:
    """The notice in `out`, looked for by a thread, so that no step waits for the store; an `Asked`."""

    def __init__(self, out: Location) -> None:
        self._place, self._stop = out / NOTICE, threading.Event()
        self._found: dict[str, Any] | None = None
        self._told, self._saved_at = "", float("-inf")
        self._thread = threading.Thread(target=self._look, name="notice", daemon=True)

    @contextlib.contextmanager
    def looking(self) -> Iterator["FileNotice"]:
        self._thread.start()
        try:
            yield self
        finally:
            self._stop.set()

    def _look(self) -> None:
        while not self._stop.wait(POLL_S):
            # A store that does not answer for a moment, or a notice that is just being replaced, is looked at again.
            with contextlib.suppress(OSError, json.JSONDecodeError):
                self._found = self._place.read_json()

    def __call__(self) -> int:
        found = self._found
        if found is None:
            return NOTHING
        if found["leave"]:
            return LEAVE
        if found["id"] == self._told or time.monotonic() - self._saved_at < BETWEEN_SAVES_S:
            return NOTHING
        self._told, self._saved_at = found["id"], time.monotonic()
        return SAVE
