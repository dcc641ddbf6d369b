"""The nodes of the cluster as work sees them: which one it runs on, which are lost, whether any is left to run on."""

import logging
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from queue import Empty, Full, Queue
from threading import Event, Thread
from typing import Any, TypeVar

import ray

from infra.errors import UserError
from infra.hearing import PATIENCE, Hearing, patience_s
from infra.job import Resources

LOOK_S, SHORTEST_LOOK_S = 5.0, 0.1

Row = TypeVar("Row")
log = logging.getLogger(__name__)


def here() -> str:
    """Ray's id of the node this process runs on; empty outside of Ray."""
    return ray.get_runtime_context().get_node_id() if ray.is_initialized() else ""


def lost() -> set[str]:
    """Ids of the nodes that this cluster had and has no more, for whatever reason; empty outside of Ray."""
    return {node["NodeID"] for node in ray.nodes() if not node["Alive"]} if ray.is_initialized() else set()


def still_there(places: list[str]) -> int:
    """How many entries of `places` (node ids, repeated at will) name a node that the cluster has not lost.

    Places where an object was begun and not ended count against the object only if its node lived on: what ends with
    its node is not the object's fault. Outside of Ray all count.
    """
    if not places or not ray.is_initialized():
        return len(places)
    alive = {node["NodeID"] for node in ray.nodes() if node["Alive"]}
    return sum(place in alive for place in places)


@dataclass
class Room:
    """Whether the nodes that are left can still place what a step needs; call `check` now and then while waiting.

    Attributes:
        step: for messages.
        least: workers without which the step cannot go on.
        patience_s: for how long a cluster without room is waited for; `$MVFORGE_NODE_PATIENCE_S`, else ten minutes.
    """

    step: str
    resources: Resources
    least: int = 1
    patience_s: float = field(default_factory=patience_s)
    _looked: float = 0.0
    _full_since: float | None = None

    @property
    def look_s(self) -> float:
        """Seconds between two looks at the cluster: no longer than the patience, but never so short that looking is all that is done."""
        return max(SHORTEST_LOOK_S, min(LOOK_S, self.patience_s))

    def check(self) -> None:
        """Look at the cluster, at most every few seconds.

        Raises:
            UserError: for longer than the patience no node was left that can do the work.
        """
        now = time.monotonic()
        if now - self._looked < self.look_s:
            return
        self._looked = now
        fit = self.places()
        if fit >= self.least:
            if self._full_since is not None:
                log.warning("%s: there are nodes again, the work goes on", self.step)
            self._full_since = None
            return
        kinds = f"{self.resources.cpus:g} CPU" + (f" and {self.resources.gpus:g} GPU" if self.resources.gpus else "")
        state = f"{self.step} needs {self.least} workers with {kinds} each; the nodes that are left have room for {fit}"
        if self._full_since is None:
            self._full_since = now
            log.warning("%s; waiting up to %.0f s for nodes (%s)", state, self.patience_s, PATIENCE)
        if now - self._full_since >= self.patience_s:
            fewer = f", or ask for fewer with --set resources.{self.step}.min_workers=N" if self.least > 1 else ""
            raise UserError(
                f"{state}, since {self.patience_s:.0f} s",
                f"add nodes and run the same command again, what is finished is kept{fewer}; {PATIENCE} sets how long nodes are waited for",
            )

    def places(self) -> int:
        """How many such workers all living nodes could hold if they had nothing else to do."""
        wanted = {kind: each for kind, each in (("CPU", self.resources.cpus), ("GPU", self.resources.gpus)) if each > 0}
        have = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        return sum(min((int(node.get(kind, 0.0) / each + 1e-9) for kind, each in wanted.items()), default=self.least) for node in have)


def rows_while_room(rows: Iterable[Row], room: Room, hearing: Hearing | None = None) -> Iterator[Row]:
    """The rows of a Ray Data pipeline, which by itself would wait without end for actors that no node can hold any more, and for
    those of which this driver no longer hears.

    They are pulled by a thread, so that this one can look at the cluster meanwhile.

    Raises:
        UserError: from `Room.check` and `Hearing.check`. What the pipeline raises is raised here.
    """
    hearing = hearing or Hearing(room.step)
    ready: Queue[tuple[str, Any]] = Queue(maxsize=1)
    unwanted = Event()

    def hand_over(kind: str, value: Any) -> None:
        while not unwanted.is_set():
            try:
                ready.put((kind, value), timeout=1.0)
                return
            except Full:
                continue

    def pull() -> None:
        try:
            for row in rows:
                hand_over("row", row)
                if unwanted.is_set():
                    return
            hand_over("end", None)
        except BaseException as error:  # raised again where the rows are read
            hand_over("error", error)

    Thread(target=pull, name=f"{room.step} rows", daemon=True).start()
    try:
        while True:
            try:
                kind, value = ready.get(timeout=1.0)
            except Empty:
                room.check()
                hearing.check()
                continue
            if kind == "row":
                yield value
                hearing.heard()  # after the reader has had its time with the row
            elif kind == "error":
                raise value
            else:
                return
    finally:
        unwanted.set()
