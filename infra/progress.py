"""Progress of long work: a live bar on a terminal, a plain line every few seconds in a log."""

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

T = TypeVar("T")

LOG_EVERY_S = 5.0


class Progress:
    """Counts finished items and shows rate and time left.

    On a terminal this is a tqdm bar. Elsewhere (a job log) it prints one complete line at most every
    `LOG_EVERY_S` seconds and one at the end, because carriage returns make logs unreadable.
    """

    def __init__(
        self, description: str, total: int, unit: str = "it", done: int = 0, left: Callable[[int], None] = lambda count: None
    ) -> None:
        """`left` is told how many items are still to do, whenever that changes."""
        self.description, self.total, self.unit = description, total, unit
        self.done, self._initial, self._left = done, done, left
        left(max(0, total - done))
        self._started = self._last_line = time.monotonic()
        self._note = ""
        self._bar = tqdm(total=total, initial=done, desc=description, unit=unit) if sys.stderr.isatty() else None

    def update(self, count: int = 1, note: str = "") -> None:
        """Add finished items; `note` (for example `failed 2`) stays visible until replaced."""
        self.done += count
        self._left(max(0, self.total - self.done))
        self._note = note or self._note
        if self._bar is not None:
            self._bar.set_postfix_str(self._note, refresh=False)
            self._bar.update(count)
        elif time.monotonic() - self._last_line >= LOG_EVERY_S:
            self._print_line()

    def _print_line(self) -> None:
        self._last_line = time.monotonic()
        line = tqdm.format_meter(
            self.done,
            self.total,
            self._last_line - self._started,
            prefix=self.description,
            unit=self.unit,
            initial=self._initial,
            postfix=self._note or None,
            ncols=100,
            ascii=True,
        )
        print(line, file=sys.stderr, flush=True)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
        else:
            self._print_line()

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def track(items: Iterable[T], description: str, total: int, unit: str = "it") -> Iterator[T]:
    """Yield the items while showing progress."""
    with Progress(description, total, unit) as progress:
        for item in items:
            yield item
            progress.update()
