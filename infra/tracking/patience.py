"""Waiting for a tracking server that is lost, where work cannot go on without it: the model registry, and reading what it keeps."""

import functools
import os
import time
from collections.abc import Callable
from typing import Concatenate, ParamSpec, TypeVar

from infra.errors import UserError
from infra.tracking import outbox
from infra.tracking.faults import is_lost
from infra.tracking.stores import answers, first_line, shown

PATIENCE_S = 600.0
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 15.0
TRIES_OF_A_SERVER_THAT_ANSWERS = 8
"""A call that fails so often while the server answers others fails for a reason of its own."""

P = ParamSpec("P")
R = TypeVar("R")


def patience_s() -> float:
    """How long to wait for a lost server: `$MVFORGE_TRACKING_PATIENCE_S`, default 600 seconds."""
    return float(os.environ.get("MVFORGE_TRACKING_PATIENCE_S", PATIENCE_S))


def patiently(function: Callable[Concatenate[str, P], R]) -> Callable[Concatenate[str, P], R]:
    """The function, whose first argument is the address and which may be called again after it failed half-way, waits while the
    server is lost.

    It does so only while an outbox is open for the address (`infra.tracking.outbox`), which says that long work hangs on it; without
    one it fails at once.

    Raises:
        UserError: the server stayed lost for `patience_s()`.
    """

    @functools.wraps(function)
    def waiting(uri: str, *args: P.args, **kwargs: P.kwargs) -> R:
        box = outbox.opened(uri)
        if box is None:
            return function(uri, *args, **kwargs)
        return until_it_answers(uri, lambda: function(uri, *args, **kwargs), function.__name__.replace("_", " "), box.say)

    return waiting


def until_it_answers(uri: str, call: Callable[[], R], what: str, say: Callable[[str], None]) -> R:
    """What `call` returns, made again after growing pauses while the server is lost; says so when it begins and ends to wait."""
    limit, began, pause, failures = patience_s(), None, FIRST_PAUSE_S, 0
    while True:
        try:
            result = call()
        except Exception as error:
            failures = failures + 1 if is_lost(error) and answers(uri) else 0
            if not is_lost(error) or failures >= TRIES_OF_A_SERVER_THAT_ANSWERS:
                raise
            if began is None:
                began = time.monotonic()
                say(f"'{what}' waits up to {limit:.0f} s for the MLflow server {shown(uri)}: {first_line(error)}")
            if time.monotonic() - began + pause > limit:
                raise UserError(
                    f"MLflow server {shown(uri)} has not answered for {time.monotonic() - began:.0f} s, and '{what}' needs it "
                    f"({first_line(error)})",
                    "start it, then run the same command again: it goes on where it was; MVFORGE_TRACKING_PATIENCE_S sets how long to wait",
                ) from error
            time.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE_S)
            continue
        if began is not None:
            say(f"the MLflow server {shown(uri)} answers again after {time.monotonic() - began:.0f} s: '{what}' is done")
        return result
