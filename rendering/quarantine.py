"""What is remembered of objects that could not be had, so that the next run asks only for what may have changed."""

import hashlib
import json
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from infra.storage import Location
from rendering.download import WrongBytes
from rendering.sources.base import FetchError
from rendering.transfer import Passing


@dataclass(frozen=True)
class Failures:
    """One small JSON file per object below `failures/`, and the wrong bytes themselves (at most 256 KiB) below `quarantine/`.

    Remembered is what the same question would bring again: not found, refused, wrong bytes. Passing trouble is not.
    A record holds for the addresses and checksum that it was made with.

    Attributes:
        cache: the folder of both.
        recorded: uid -> whether its record counts in this run, for every uid that has one.
    """

    cache: Location
    recorded: Mapping[str, bool]

    @classmethod
    def listed(cls, cache: Location, fresh_since: float | None = None, retry_failed: bool = False) -> "Failures":
        entries = (cache / "failures").children()
        counts = {entry.name.removesuffix(".json"): not retry_failed and entry.mtime >= (fresh_since or 0.0) for entry in entries}
        return cls(cache, counts)

    def of(self, uids: Iterable[str]) -> "Failures":
        """Only what concerns these objects, to be handed to one worker."""
        return Failures(self.cache, {uid: self.recorded[uid] for uid in uids if uid in self.recorded})

    def _record(self, uid: str) -> Location:
        return self.cache / "failures" / f"{uid}.json"

    def _evidence(self, uid: str) -> tuple[Location, Location]:
        return self.cache / "quarantine" / f"{uid}.json", self.cache / "quarantine" / f"{uid}.bytes"

    def recall(self, uid: str, addresses: Sequence[str], sha256: str | None) -> FetchError | None:
        """The remembered failure, when the same was asked for."""
        if not self.recorded.get(uid):
            return None
        try:
            record = self._record(uid).read_json()
            matches = record["asked"] == _question(addresses, sha256)
            return FetchError(record["reason"], f"{record['detail']}; tried {record['when']}") if matches else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def remember(self, uid: str, addresses: Sequence[str], sha256: str | None, error: FetchError) -> None:
        """Record a lasting failure, with what was sent instead of the file; passing trouble leaves no trace."""
        if isinstance(error, Passing):
            return
        record: dict[str, Any] = {
            "uid": uid,
            "reason": error.reason,
            "detail": error.detail[:1000],
            "asked": _question(addresses, sha256),
            "addresses": list(addresses),
            "when": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        }
        if isinstance(error, WrongBytes):
            record |= {"sha256": error.sha256, "expected_sha256": sha256, "bytes": error.size, "kept_bytes": len(error.sample)}
            note, sample = self._evidence(uid)
            sample.write_bytes(error.sample)
            note.write_json(record)
        self._record(uid).write_json(record)

    def forget(self, uid: str) -> None:
        """The object was had after all."""
        for place in (self._record(uid), *self._evidence(uid)) if uid in self.recorded else ():
            place.delete()


def _question(addresses: Sequence[str], sha256: str | None) -> str:
    return hashlib.sha256(json.dumps([list(addresses), sha256]).encode()).hexdigest()[:16]
