"""Being told to end soon: SIGTERM, which schedulers and clouds send some 30 seconds before they take a machine away.

In the main thread it becomes `Preempted`, which ends what can be ended at any moment. Work that has something to save runs inside
`heeding`, learns of the notice there, and raises `Preempted` itself when it has saved it. A second SIGTERM changes nothing.
"""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType

STATUS = 75
"""Exit status of a command that ended on a notice and goes on when it is given again: EX_TEMPFAIL of sysexits.h."""
WITHIN_S = 25.0


class Preempted(KeyboardInterrupt):
    """The process was told to end, and has saved what it could; the same command goes on there."""


def within_s() -> float:
    """How long work may take to save after a notice: `$MVFORGE_NOTICE_S`, default 25 of the usual 30 seconds."""
    return float(os.environ.get("MVFORGE_NOTICE_S", WITHIN_S))


class _Listener:
    """What the handler knows; one a process, as there is one main thread that signals reach."""

    def __init__(self) -> None:
        self.since: float | None = None
        self.raised = False
        self.heeders: list[Callable[[], None]] = []
        self.limited = False
        self.timer: threading.Timer | None = None

    def handle(self, number: int, frame: FrameType | None) -> None:
        if self.since is None:
            self.since = time.monotonic()
            for heed in self.heeders:
                heed()
            if self.heeders:
                if self.limited:
                    self.timer = threading.Timer(within_s(), signal.pthread_kill, (threading.main_thread().ident, signal.SIGTERM))
                    self.timer.daemon = True
                    self.timer.start()
                return
        elif not self.limited or time.monotonic() - self.since < within_s():
            return
        self.end()

    def end(self) -> None:
        if not self.raised:
            self.raised = True
            raise Preempted("told to end by SIGTERM")


_listener: _Listener | None = None


@contextlib.contextmanager
def listening() -> Iterator[None]:
    """While the block runs, SIGTERM means what this module says. Elsewhere than in the main thread, and inside another such block,
    this changes nothing."""
    global _listener
    if _listener is not None or threading.current_thread() is not threading.main_thread():
        yield
        return
    _listener = _Listener()
    before = signal.signal(signal.SIGTERM, _listener.handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
        _listener = None


def listen_again() -> None:
    """To be called after Ray was started in this process: its own handler, which prints a stack and aborts, has taken our place."""
    if _listener is not None and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _listener.handle)


@contextlib.contextmanager
def heeding(heed: Callable[[], None] = lambda: None, limited: bool = False) -> Iterator[Callable[[], bool]]:
    """While the block runs, a notice ends nothing: it calls `heed`, which must return at once, and is told by what this yields.

    Args:
        limited: `Preempted` is raised all the same when the block has not ended `within_s()` after the notice.

    Raises:
        Preempted: when the block has ended after a notice, and it was part of a `listening` block.
    """
    is_part = _listener is not None
    with listening():
        listener = _listener if threading.current_thread() is threading.main_thread() else None
        if listener is None:
            yield lambda: False
            return
        listener.heeders.append(heed)
        listener.limited, before = limited, listener.limited
        try:
            yield lambda: listener.since is not None
        finally:
            listener.heeders.remove(heed)
            listener.limited = before
            if listener.timer is not None:
                listener.timer.cancel()
        if is_part and listener.since is not None:
            listener.end()  # the block was through in spite of the notice; what follows it is not begun
