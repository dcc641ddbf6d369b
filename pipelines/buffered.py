"""Where calls to a tracking server wait while it is lost, how many there are, and records that still have the id a run had then."""

import time
from dataclasses import replace
from pathlib import Path

from infra import cluster, tracking
from infra.storage import Location
from pipelines.artifact import Record, Store

FOLDER = "_tracking"
WORTH_A_WORD_S = 5.0
"""Calls that wait for less are on their way."""


def folder(store: Location) -> Path:
    """In a local store, so that any driver on it finds them; for a store behind a URL, which cannot append, in the user's home."""
    return store.local_path() / FOLDER if store.is_local else cluster.home() / FOLDER


def waiting_text(store: Location, uri: str) -> str | None:
    """One line for people; None while nothing waits for this server."""
    if not uri.startswith(("http://", "https://")):
        return None
    found = tracking.waiting(tracking.folder_of(uri, folder(store)))
    parts = []
    if found.since is not None and time.time() - found.since > WORTH_A_WORD_S:
        since = time.strftime("%H:%M:%S", time.localtime(found.since))
        parts.append(f"{found.calls} calls wait for the MLflow server since {since}; they are sent when it answers")
    if found.refused:
        parts.append(f"{found.refused} calls were refused by it and put aside")
    return f"tracking  {'; '.join(parts)} (in {folder(store)})" if parts else None


def name_runs(store: Store, uri: str, records: dict[str, Record]) -> dict[str, Record]:
    """The records with the server's ids of their runs, where a build ended while the server was lost and it has the runs now.

    Other records stay as they are. The records in the store are changed too.
    """
    named = {}
    for name, record in records.items():
        real = tracking.id_on_server(uri, record.run_id) if record.run_id is not None else None
        if real is not None and real != record.run_id:
            record = replace(record, run_id=real)
            store.amend(record)
        named[name] = record
    return named
