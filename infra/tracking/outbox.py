"""Calls that change runs on a tracking server leave by way of a journal, so that work never waits for the server nor fails with it.

While an outbox is open for an address, every such call is noted on disk and sent by a thread, in order. A server that is lost only
makes the journal longer; when it is back, or when a later process opens an outbox in the same folder, what waits is sent. A call that
reached the server and whose answer was lost is sent again and changes nothing (`infra.tracking.calls`).
"""

import contextlib
import os
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path

from infra.tracking.sender import OWN, Outbox

__all__ = ["OWN", "Outbox", "folder_of", "opened", "sending", "sent"]

CLOSE_PATIENCE_S = 10.0
ANSWER_TIMEOUT_S = 30
"""For one answer of the server, where `$MLFLOW_HTTP_REQUEST_TIMEOUT` does not say otherwise; MLflow's own default is 120."""

_open: dict[str, Outbox] = {}


def opened(uri: str) -> "Outbox | None":
    """The outbox that is open for this address in this process."""
    return _open.get(uri)


def sent(uri: str) -> bool:
    """Whether the server has all that was tracked in this process and in earlier ones, after a moment for what is under way; True
    where calls are not buffered."""
    box = opened(uri)
    return box is None or box.flush(CLOSE_PATIENCE_S)


def folder_of(uri: str, root: Path) -> Path:
    """Where calls to this address wait, below a folder for those to all addresses."""
    return root / sha256(uri.encode()).hexdigest()[:12]


@contextlib.contextmanager
def sending(uri: str, root: Path, say: Callable[[str], None]) -> "Iterator[Outbox | None]":
    """An outbox for the address while the block runs, with its journal below `root`; None, and nothing changes, for a sqlite file.

    While it is open, MLflow's own client tries every request once: it would otherwise repeat a request silently for minutes, and a
    creation that may have succeeded must be looked for before it is repeated.
    """
    if not uri.startswith(("http://", "https://")):
        yield None
        return
    timeout = os.environ.get("MLFLOW_HTTP_REQUEST_TIMEOUT", str(ANSWER_TIMEOUT_S))
    with _environment(MLFLOW_HTTP_REQUEST_MAX_RETRIES="0", MLFLOW_HTTP_REQUEST_TIMEOUT=timeout):
        box = _open[uri] = Outbox(uri, folder_of(uri, root), say)
        try:
            yield box
        finally:
            box.close(CLOSE_PATIENCE_S)
            del _open[uri]


@contextlib.contextmanager
def _environment(**values: str) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
