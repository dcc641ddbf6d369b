"""One small file per generated object: what makes batch inference resumable.

A piece holds the views (or why there are none) and its ledger row; it appears whole or not at all. Its name is the
key of everything that determines the result, so pieces are shared between builds.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from infra.attempts import Attempts
from infra.storage import Location
from rendering.view_set import ViewSet
from rendering.views import SCHEMA, to_table

_ENDING = ".parquet"
LEDGER = pa.schema(
    [
        ("uid", pa.string()),
        ("status", pa.string()),
        ("reason", pa.string()),
        ("detail", pa.string()),
        ("attempts", pa.int64()),
        ("seconds", pa.float64()),
        ("worker", pa.string()),
        ("views", pa.int64()),
        ("seed", pa.int64()),
    ]
)


def digest(data: bytes) -> str:
    """32 hex digits that stand for `data`."""
    return hashlib.sha256(data).hexdigest()[:32]


def views_sha256(row: dict[str, Any]) -> str:
    """Hex SHA-256 of one object's views as they are stored: the pictures' bytes, and every other column as JSON. The same
    wherever the row lies and however it is packed."""
    found = hashlib.sha256()
    for name in SCHEMA.names:
        value = row.get(name)
        files = (
            [value] if isinstance(value, bytes) else value if isinstance(value, list) and value and isinstance(value[0], bytes) else None
        )
        if files is None:
            found.update(json.dumps([name, value]).encode())
        for data in files or ():
            found.update(f"{name}:{len(data)}:".encode() + data)
    return found.hexdigest()


@dataclass(frozen=True)
class Pieces:
    """The pieces below `place`; those older than `fresh_since` (epoch seconds), and with `retry_failed` the failures of
    earlier runs, do not count as done. `columns` are those of a ledger row; with `views_sha256` among them it is filled in."""

    place: Location
    fresh_since: float | None = None
    retry_failed: bool = False
    columns: pa.Schema = LEDGER

    def _file(self, key: str) -> Location:
        return self.place / f"{key}{_ENDING}"

    def done(self, key: str) -> bool:
        file = self._file(key)
        if not file.exists():
            return False
        return self._counts(key, (file.fs.get_file_info(file.path).mtime_ns or 0) / 1e9)

    def missing(self, tasks: list[dict[str, str]]) -> list[dict[str, str]]:
        """The tasks (each with its `key`) whose piece does not count as done, from one listing: asking for each costs a
        request an object on an object store."""
        written = {entry.name.removesuffix(_ENDING): entry.mtime for entry in self.place.children() if entry.name.endswith(_ENDING)}
        return [task for task in tasks if not self._counts(task["key"], written.get(task["key"]))]

    def _counts(self, key: str, written: float | None) -> bool:
        if written is None or (self.fresh_since is not None and written < self.fresh_since):
            return False
        return not self.retry_failed or self.entry(key)["status"] == "ok"

    def attempt(self, key: str, session: str) -> int:
        """Count one more try of this object in this session (one call of the step); 1 at first. Tries that ended with their whole
        node are left out."""
        return Attempts(self.place, session).begin(key) + 1

    def write(self, key: str, entry: dict[str, Any], views: ViewSet | None) -> None:
        made = None if views is None else to_table(views)
        if made is not None and "views_sha256" in self.columns.names:
            entry = entry | {"views_sha256": views_sha256(made.to_pylist()[0])}
        row = pa.Table.from_pylist([{name: entry.get(name) for name in self.columns.names}], schema=self.columns)
        row = row.rename_columns([f"ledger_{name}" for name in self.columns.names])
        if made is not None:
            for column in made.schema:
                row = row.append_column(column, made.column(column.name))
        self._file(key).write_table(row)
        (self.place / f"{key}.attempts.json").delete()

    def entry(self, key: str) -> dict[str, Any]:
        row = self._file(key).read_table(columns=[f"ledger_{name}" for name in self.columns.names]).to_pylist()[0]
        return {name.removeprefix("ledger_"): value for name, value in row.items()}

    def ledger(self, keys: dict[str, str]) -> pa.Table:
        """The ledger rows of the given uid -> key, in that order."""
        return pa.Table.from_pylist([self.entry(key) for key in keys.values()], schema=self.columns)

    def names(self) -> set[str]:
        """Keys of all pieces there are, from one listing."""
        return {entry.name.removesuffix(_ENDING) for entry in self.place.children() if entry.name.endswith(_ENDING)}

    def remove(self, key: str) -> None:
        self._file(key).delete()
        (self.place / f"{key}.attempts.json").delete()

    def tables(self, keys: dict[str, str]) -> Iterator[pa.Table]:
        """View tables of those that succeeded, one at a time."""
        for key in keys.values():
            table = self._file(key).read_table()
            if table.column("ledger_status")[0].as_py() == "ok":
                yield table.select([name for name in SCHEMA.names if name in table.column_names])
