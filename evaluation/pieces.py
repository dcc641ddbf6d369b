"""Finished pieces of a step's work, one per object, under a name made of everything that determines the result.

An interrupted step finds its pieces again and goes on; a later build takes over what has not changed.
"""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from infra.job import Job
from infra.storage import Location


@dataclass(frozen=True)
class Pieces:
    """Pieces below `place`: a JSON row with a `status` (`ok` or `failed`), and a file beside it where there is one.

    Older ones than `fresh_since` (epoch seconds), and failures with `retry_failed`, do not count as finished.
    """

    place: Location
    fresh_since: float | None = None
    retry_failed: bool = False

    @classmethod
    def of(cls, job: Job, out: Location) -> "Pieces":
        """In the job's cache; without one below `out`, where `end` removes them."""
        return cls((job.cache or out) / "pieces", job.fresh_since, job.retry_failed)

    def end(self, job: Job) -> None:
        if job.cache is None:
            self.place.delete()

    def row(self, key: str) -> dict[str, Any] | None:
        """The row of a finished piece, or None."""
        file = self.place / f"{key}.json"
        if not file.exists():
            return None
        if self.fresh_since is not None and (file.fs.get_file_info(file.path).mtime_ns or 0) / 1e9 < self.fresh_since:
            return None
        row = file.read_json()
        return None if self.retry_failed and row["status"] == "failed" else row

    def file(self, key: str) -> Location:
        return self.place / f"{key}.bin"

    def write(self, key: str, row: dict[str, Any], data: bytes | None = None) -> None:
        """The file first, the row last: a row says that the piece is whole."""
        if data is not None:
            self.file(key).write_bytes(data)
        (self.place / f"{key}.json").write_json(row)


def key_of(settings: Any, data: Iterable[bytes] = ()) -> str:
    """32 hex digits that stand for JSON-able settings and any number of byte strings."""
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for piece in data:
        digest.update(hashlib.sha256(piece).digest())
    return digest.hexdigest()[:32]
