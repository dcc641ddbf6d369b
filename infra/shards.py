"""Objects in Parquet shards, one row and one row group per object: finding any of them by uid, and packing them."""

import json
from functools import cached_property
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.parquet as pq

from infra.errors import UserError
from infra.storage import Location

UID, UIDS_KEY = "uid", b"mvforge_uids"
FOOTERS = 8


def shard_name(number: int) -> str:
    return f"part-{number:05d}.parquet"


def shard_names(location: Location) -> list[str]:
    """The shards of a folder in order; other files are none of them."""
    return [entry.name for entry in location.children() if entry.name.startswith("part-") and entry.name.endswith(".parquet")]


class DamagedShard(UserError):
    """What lies in a shard is not what was written: the object is no fault of its own, and others may be damaged too."""


class ShardIndex:
    """Where each object of a folder of shards lies. Holds no file open.

    Args:
        location: the folder; only files named `part-*.parquet` count.
        version: key and value that the schema metadata of every shard must hold.
        what, step: what the shards hold and which step writes them, for messages.

    Raises:
        UserError: the folder holds no shard, or one of another format version.
    """

    def __init__(self, location: Location, version: tuple[bytes, int], what: str, step: str) -> None:
        self.location, self._step = location, step
        self.places: dict[str, tuple[str, int]] = {}
        self._footers: dict[str, pq.FileMetaData] = {}
        for name in shard_names(location):
            with pq.ParquetFile((location / name).path, filesystem=location.fs) as shard:
                found = (shard.schema_arrow.metadata or {}).get(version[0])
                if found != str(version[1]).encode():
                    raise _other_format((location / name).shown, found, version[1], what, step)
                for group, uid in enumerate(_uids(shard)):
                    self.places[uid] = (name, group)
        if not self.places:
            raise UserError(f"no {what} in {location.shown}", f"run the {step} step first, or check the path")

    def __contains__(self, uid: str) -> bool:
        return uid in self.places

    def uids(self) -> list[str]:
        return sorted(self.places)

    def row(self, uid: str, columns: list[str] | None = None) -> pa.Table:
        """One object as a one-row table, all columns or some.

        Raises:
            KeyError: an unknown uid.
            DamagedShard: its bytes do not match the checksums that were written with them.
        """
        name, group = self.places[uid]
        place, fs = self.location / name, self.location.fs
        with pq.ParquetFile(place.path, filesystem=fs, metadata=self._footers.get(name), page_checksum_verification=True) as shard:
            self._remember(name, shard.metadata)
            try:
                return shard.read_row_group(group, columns=columns)
            except OSError as error:
                if "checksum" not in str(error) and "page header" not in str(error):
                    raise
                raise DamagedShard(
                    f"{place.shown} is damaged at object {uid}: {error}",
                    f"have the {self._step} step make it again, then run as before: mvforge run RECIPE --rerun {self._step}",
                ) from error

    def _remember(self, name: str, footer: pq.FileMetaData) -> None:
        """Keep the footers used last: neighbours are often read together, and on an object store each costs two requests."""
        self._footers.pop(name, None)
        self._footers[name] = footer
        if len(self._footers) > FOOTERS:
            del self._footers[next(iter(self._footers))]


class ShardStore:
    """Read access by uid to a folder of shards, which is listed at the first question; a copy sent elsewhere lists it anew.

    Raises:
        UserError: the folder holds no shard, or one of another format version.
    """

    VERSION: ClassVar[tuple[bytes, int]]
    HOLDS: ClassVar[tuple[str, str]]  # what the shards hold and which step writes them, for messages

    def __init__(self, location: Location) -> None:
        self.location = location

    def __getstate__(self) -> dict[str, Any]:
        return {"location": self.location}

    @cached_property
    def _index(self) -> ShardIndex:
        return ShardIndex(self.location, self.VERSION, *self.HOLDS)

    def uids(self) -> list[str]:
        return self._index.uids()

    def __contains__(self, uid: str) -> bool:
        return uid in self._index


def uid_note(uids: list[str]) -> dict[bytes, bytes]:
    """Metadata for a shard's footer that names its rows, so that an index needs no row."""
    return {UIDS_KEY: json.dumps(uids).encode()}


def _other_format(place: str, found: bytes | None, format: int, what: str, step: str) -> UserError:
    """What to say of a shard that this version does not read: of an older format, a newer one, or none at all."""
    text = (found or b"").decode(errors="replace")
    mend = f"run the {step} step again with this version: mvforge run RECIPE --rerun {step}"
    if text.isdecimal() and int(text) > format:
        mend = f"read it with the mvforge that wrote it (this one is older), or {mend}"
    return UserError(f"{place} is not a shard of {what} in format {format}" + (f" but in format {text}" if text else ""), mend)


def _uids(shard: pq.ParquetFile) -> list[str]:
    """The uids of a shard by row group: from the note in the footer, else by reading the column."""
    note = (shard.metadata.metadata or {}).get(UIDS_KEY)
    return json.loads(note) if note is not None else shard.read(columns=[UID]).column(UID).to_pylist()
