"""A cap on bytes a second, shared by the threads of one process."""

import threading
import time
from collections.abc import Callable


class Pace:
    """Lets through at most `bytes_per_s` on average; 0 means no cap.

    Every thread books its bytes on one time line and sleeps until its booking is due, so that together they keep the cap.
    """

    def __init__(
        self, bytes_per_s: float = 0.0, clock: Callable[[], float] = time.monotonic, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        self.bytes_per_s, self._clock, self._sleep = bytes_per_s, clock, sleep
        self._lock, self._free_at = threading.Lock(), 0.0

    def block(self, largest: int) -> int:
        """How much to read at once: about a quarter of a second's worth, so that a slow pace is not a stuttering one."""
        return largest if not self.bytes_per_s else max(1, min(largest, int(self.bytes_per_s / 4)))

    def spend(self, size: int) -> None:
        """Account for `size` bytes that arrived, and wait as long as they are worth."""
        if not self.bytes_per_s:
            return
        with self._lock:
            now = self._clock()
            self._free_at = max(self._free_at, now) + size / self.bytes_per_s
            wait = self._free_at - now
        self._sleep(wait)
