"""Batches of a training run, made ahead in threads and handed out in order; and how quickly they could be made."""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

Batch = dict[str, Any]


@dataclass(frozen=True)
class Loaded:
    """The micro-batches of one step on this rank.

    Attributes:
        batches: in order.
        wait_s: seconds the caller stood still for them.
    """

    batches: list[Batch]
    wait_s: float


class Loader:
    """Up to `ahead` steps are prepared by `readers` threads while the caller computes.

    What is handed out depends on the step alone, never on the threads: `make` is a function of its arguments.
    """

    def __init__(self, make: Callable[[int, int], Batch], steps: range, count: int, ahead: int = 2, readers: int = 2) -> None:
        """`make(step, k)` gives micro-batch k of `count` of a step."""
        self._make, self._steps, self._count, self._ahead = make, iter(steps), count, ahead
        self._pool = ThreadPoolExecutor(readers, thread_name_prefix="batches")
        self._waiting: deque[list[Future[Batch]]] = deque()
        self._clock = _BusyClock()
        self._reported = (0, 0.0)

    @contextmanager
    def running(self) -> Iterator["Loader"]:
        """Reading ends with the block; what was made ahead and not taken is dropped."""
        for _ in range(self._ahead):
            self._begin_next()
        try:
            yield self
        finally:
            self._pool.shutdown(cancel_futures=True)

    def next(self) -> Loaded:
        """The next step's batches. Raises what `make` raised, and IndexError after the last step."""
        self._begin_next()  # also when nothing is read ahead
        began = time.perf_counter()
        batches = [future.result() for future in self._waiting.popleft()]
        return Loaded(batches, time.perf_counter() - began)

    def take_speed(self) -> float | None:
        """Micro-batches made per second in which at least one reader worked, since the last call; None when none was made."""
        made, busy = self._clock.pieces, self._clock.seconds()
        (made_before, busy_before), self._reported = self._reported, (made, busy)
        return (made - made_before) / max(busy - busy_before, 1e-9) if made > made_before else None

    def _begin_next(self) -> None:
        step = next(self._steps, None)
        if step is not None:
            self._waiting.append([self._pool.submit(self._timed, step, k) for k in range(self._count)])

    def _timed(self, step: int, k: int) -> Batch:
        with self._clock.working():
            return self._make(step, k)


class _BusyClock:
    """Adds up the time in which any thread is inside `working`, and counts the pieces of work done."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside, self._since, self._total, self.pieces = 0, 0.0, 0.0, 0

    @contextmanager
    def working(self) -> Iterator[None]:
        with self._lock:
            if self._inside == 0:
                self._since = time.perf_counter()
            self._inside += 1
        try:
            yield
        finally:
            with self._lock:
                self._inside -= 1
                self.pieces += 1
                if self._inside == 0:
                    self._total += time.perf_counter() - self._since

    def seconds(self) -> float:
        with self._lock:
            return self._total + (time.perf_counter() - self._since if self._inside else 0.0)


def pinned(value: Any) -> Any:
    """Tensors in page-locked memory, from which a copy to a GPU runs beside its work."""
    if isinstance(value, Tensor):
        return value.pin_memory()
    if isinstance(value, dict):
        return {key: pinned(item) for key, item in value.items()}
    return type(value)(pinned(item) for item in value) if isinstance(value, (list, tuple)) else value


def to_device(value: Any, device: torch.device) -> Any:
    """Tensors inside dictionaries, lists and tuples moved to `device`; everything else as it is."""
    if isinstance(value, Tensor):
        return value.to(device, non_blocking=True)
    if isinstance(value, dict):
        return {key: to_device(item, device) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(to_device(item, device) for item in value)
    return value
