"""What gloo's threads still have to do when a process is through with its collectives."""

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

TASKS = Path("/proc/self/task")
NAME = "(pt_gloo_runloop)"
LOOK_S = 0.01
PATIENCE_S = 10.0


def wait_until_asleep() -> None:
    """Return when no thread of gloo in this process is running, or after ten seconds; nothing to wait for without gloo or `/proc`.

    After a collective, gloo's thread lets go of the tensors, and has to hold the interpreter's lock for that. A process that
    begins to exit in this moment is aborted (signal 6, "terminate called without an active exception") although its work is done:
    pytorch issue 190489. Destroying the groups would end the threads, but torch and DeepSpeed keep references to them
    (torch.distributed.nn.functional as default arguments, DeepSpeed's engine in hooks). The lock is free while this waits, so a
    thread that sleeps at two looks is not on its way to it.
    """
    deadline = time.monotonic() + PATIENCE_S
    asleep = 0
    while asleep < 2 and time.monotonic() < deadline:
        states = set(_states())
        if not states:
            return
        asleep = asleep + 1 if states == {"S"} else 0
        time.sleep(LOOK_S)


def _states() -> Iterator[str]:
    for task in TASKS.glob("*/stat"):
        with contextlib.suppress(OSError):  # a thread that ended meanwhile
            _, name, rest = task.read_text().partition(NAME)
            if name:
                yield rest.split()[0]
