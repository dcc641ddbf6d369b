"""Pieces: one file per object that was tried, named so that a listing alone tells how a rendering stands.

    <object>.arrow                       done: a view table of one row (Arrow IPC), the outcome in its metadata
    <object>.failed.<reason>.json        failed: the outcome
    <object>.quarantined.<reason>.json   failed too often to be tried again

where <object> is uid, content hash and whether the mesh is kept. A piece appears whole or not at all. An object has
one piece; where an interruption left two, the newer one counts.
"""

import contextlib
import hashlib
import json
import time
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, unquote

import pyarrow as pa

from infra.storage import Entry, Location
from rendering.views import SCHEMA

DONE, FAILED, QUARANTINED = "done", "failed", "quarantined"
OUTCOME = b"mvforge_outcome"
# File systems allow 255 bytes; the rest is for hash, state and reason.
LONGEST_UID = 120
# A file is written in seconds.
ABANDONED_S = 3600.0


@dataclass(frozen=True, slots=True)
class Piece:
    """What a listing tells of one object: file name, `DONE`, `FAILED` or `QUARANTINED`, reason class, epoch seconds."""

    name: str
    state: str
    reason: str | None
    mtime: float


def object_name(uid: str, sha256: str, with_mesh: bool) -> str:
    """What all pieces of an object begin with; an object that comes with its mesh is another one than without."""
    name = quote(uid, safe="")
    if name.startswith("."):  # no hidden file
        name = "%2E" + name[1:]
    if len(name) > LONGEST_UID:
        name = f"{name[: LONGEST_UID - 17]}-{hashlib.sha256(uid.encode()).hexdigest()[:16]}"
    return f"{name}-{sha256[:12]}{'-mesh' if with_mesh else ''}"


def file_name(name: str, outcome: dict[str, Any]) -> str:
    """The piece of the object `name` with this outcome."""
    if outcome["state"] == DONE:
        return f"{name}.arrow"
    return f"{name}.{outcome['state']}.{quote(outcome['reason'], safe='').replace('.', '%2E')[:80]}.json"


def parsed(entry: Entry) -> tuple[str, Piece] | None:
    """Object name and piece of a listed file; None for what is no piece."""
    if entry.is_dir:
        return None
    if entry.name.endswith(".arrow"):
        return entry.name.removesuffix(".arrow"), Piece(entry.name, DONE, None, entry.mtime)
    parts = entry.name.rsplit(".", 3)
    if len(parts) != 4 or parts[1] not in (FAILED, QUARANTINED) or parts[3] != "json":
        return None
    return parts[0], Piece(entry.name, parts[1], unquote(parts[2]), entry.mtime)


def list_pieces(place: Location) -> dict[str, Piece]:
    """Object name -> piece, from one listing; no file is opened."""
    found: dict[str, Piece] = {}
    for entry in place.children():
        if (pair := parsed(entry)) is None:
            continue
        name, piece = pair
        if name not in found or piece.mtime >= found[name].mtime:
            found[name] = piece
    return found


def remove_abandoned(*places: Location) -> None:
    """Remove temporary files that killed processes left in local places; those of the last hour may be in use by others."""
    for place in places:
        for path in place.local_path().glob(".*.tmp") if place.is_local else ():
            with contextlib.suppress(FileNotFoundError):
                if time.time() - path.stat().st_mtime > ABANDONED_S:
                    path.unlink()


def write_piece(place: Location, name: str, outcome: dict[str, Any], views: pa.Table | None, previous: str | None) -> str:
    """Put an object's piece in place of its `previous` one, if any; returns the file name."""
    target = file_name(name, outcome)
    if views is None:
        (place / target).write_json(outcome)
    else:
        metadata = {**(SCHEMA.metadata or {}), OUTCOME: json.dumps(outcome).encode()}
        sink, table = pa.BufferOutputStream(), views.replace_schema_metadata(metadata)
        with pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table)
        (place / target).write_bytes(sink.getvalue())
    if previous is not None and previous != target:
        (place / previous).delete()
    return target


def read_outcome(piece: Location) -> dict[str, Any]:
    """How the rendering of one object ended; the pictures are not read."""
    return _read(piece, pictures=False)[0]


def read_piece(piece: Location) -> tuple[dict[str, Any], pa.Table | None]:
    """Outcome and, of a finished object, its view table; the file is opened once."""
    return _read(piece, pictures=True)


def _read(piece: Location, pictures: bool) -> tuple[dict[str, Any], pa.Table | None]:
    if piece.name.endswith(".json"):
        return piece.read_json(), None
    with piece.fs.open_input_file(piece.path) as file, pa.ipc.open_file(file) as reader:
        return json.loads(reader.schema.metadata[OUTCOME]), reader.read_all() if pictures else None
