"""One owner per step and label: a lease file with a heartbeat.

On a local disk taking a lease is atomic (a hard link to a new name fails if the name exists). On an object
store it is last-writer-wins with a read-back, which leaves a window of a second; two drivers then still
cannot corrupt anything, because pieces are atomic and builds have their own folders.
"""

import contextlib
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields

from infra.errors import UserError
from infra.processes import start_time
from infra.storage import Location

HEARTBEAT_S = 5.0
EXPIRES_S = 30.0


@dataclass(frozen=True)
class Holder:
    """Who owns a lease, and when it was last seen alive."""

    token: str
    host: str
    pid: int
    pid_started: str
    since: float
    heartbeat: float

    def __str__(self) -> str:
        age = max(0.0, time.time() - self.heartbeat)
        since = time.strftime("%H:%M:%S", time.localtime(self.since))
        return f"process {self.pid} on {self.host}, running since {since}, seen {age:.0f} s ago"

    def is_gone(self) -> bool:
        """The holder is known dead (same host, process gone) or has not been seen for `EXPIRES_S`."""
        if self.host == socket.gethostname():
            return start_time(self.pid) != self.pid_started
        return time.time() - self.heartbeat > EXPIRES_S


def read_holder(place: Location) -> Holder | None:
    """The current holder of the lease file, alive or not; None when free."""
    try:
        value = place.read_json()
        # Another version may have added entries; a lease that seems free because of them would get two owners.
        return Holder(**{field.name: value[field.name] for field in fields(Holder)})
    except KeyError:
        return None
    except (FileNotFoundError, json.JSONDecodeError, TypeError):
        return None


class Lease:
    """Context manager that owns a lease file while the block runs.

    Raises:
        UserError: someone else holds it and `wait` is off.
    """

    def __init__(self, place: Location, what: str, wait: bool = False, say: Callable[[str], None] = print) -> None:
        self._place, self._what, self._wait, self._say = place, what, wait, say
        now = time.time()
        self._holder = Holder(uuid.uuid4().hex, socket.gethostname(), os.getpid(), start_time(os.getpid()), now, now)
        self._stop = threading.Event()
        self._beat = threading.Thread(target=self._heartbeat, daemon=True)

    def __enter__(self) -> "Lease":
        said = False
        while not self._try_take():
            holder = read_holder(self._place)
            if holder is None:
                continue
            if not self._wait:
                raise UserError(f"{self._what} is being built by {holder}", "wait for it to end, or pass --wait")
            if not said:
                self._say(f"waiting: {self._what} is being built by {holder}")
                said = True
            time.sleep(1.0)
        self._beat.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._beat.join()
        if self.is_held():
            self._place.delete()

    def is_held(self) -> bool:
        """Whether the lease is still ours; a driver that was suspended for long may have lost it."""
        holder = read_holder(self._place)
        return holder is not None and holder.token == self._holder.token

    def _try_take(self) -> bool:
        holder = read_holder(self._place)
        if holder is not None:
            if not holder.is_gone():
                return False
            self._clear(holder)
        if not self._place.is_local:
            self._write()
            time.sleep(1.0)
            return self.is_held()
        candidate = f"{self._place.path}.{self._holder.token}"
        os.makedirs(os.path.dirname(candidate), exist_ok=True)
        with open(candidate, "w") as stream:
            json.dump(asdict(self._holder), stream)
        try:
            os.link(candidate, self._place.path)
            return True
        except FileExistsError:
            return False
        finally:
            os.unlink(candidate)

    def _clear(self, holder: Holder) -> None:
        """Remove a dead holder's file; of several drivers only one wins the rename."""
        if not self._place.is_local:
            self._place.delete()
            return
        grave = f"{self._place.path}.{holder.token}.dead"
        try:
            os.rename(self._place.path, grave)
        except FileNotFoundError:
            return
        os.unlink(grave)

    def _write(self) -> None:
        self._place.write_json(asdict(self._holder))

    def _heartbeat(self) -> None:
        while not self._stop.wait(HEARTBEAT_S):
            # A full disk or a store that does not answer may pass; a heart that stopped beating then would give the lease away.
            with contextlib.suppress(OSError):
                if not self.is_held():
                    return
                self._holder = Holder(**{**asdict(self._holder), "heartbeat": time.time()})
                self._write()
