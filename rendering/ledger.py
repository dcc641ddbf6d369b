"""The ledger of a rendering: one row per input object, keyed on uid and config, sorted by uid.

`status` is ok or failed; `state` tells finished, failed and quarantined objects apart. `reason` is a short class and
`detail` the text behind it: for crashes and time-outs the tail of Blender's log. `attempts` counts over all runs.
"""

import contextlib
import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from infra.storage import Location
from rendering.pieces import DONE, FAILED

CATALOG_COLUMNS = ("uid", "sha256", "split", "group", "category", "licence", "attribution")
# Carried from the catalog and the fetch step to the end of the row.
CARRIED = pa.schema(
    [(name, pa.string()) for name in ("source", "caption", "tags", "title", "author", "source_page", "licence_in_file")]
    + [("licence_conflict", pa.bool_()), ("score", pa.float64())]
)
PHASES = ("import", "sync", "sample", "denoise", "encode")
LEDGER = pa.schema(
    [(name, pa.string()) for name in CATALOG_COLUMNS]
    + [
        ("status", pa.string()),
        ("reason", pa.string()),
        ("detail", pa.string()),
        ("attempts", pa.int32()),
        ("seconds", pa.float64()),
        ("worker", pa.string()),
        ("views", pa.int32()),
        ("peak_rss_mb", pa.float64()),
        ("phases", pa.string()),
        ("config", pa.string()),
        ("state", pa.string()),
    ]
    + [(f"seconds_{phase}", pa.float64()) for phase in PHASES]
    + list(CARRIED)
)
ROWS_AT_ONCE = 1000


def ledger_row(row: dict[str, Any], outcome: dict[str, Any] | None, config: str) -> dict[str, Any]:
    """Catalog facts plus the outcome; an object that was not fetched (no outcome) keeps the fetch step's reason."""
    if outcome is None:
        outcome = {"state": FAILED, "reason": row["reason"], "detail": row["detail"], "attempts": 0, "seconds": 0.0, "views": 0}
    phases = outcome.get("phases", {})
    return {
        **{name: row.get(name) for name in CATALOG_COLUMNS},
        **{name: outcome.get(name) for name in ("state", "reason", "detail", "attempts", "seconds", "worker", "views", "peak_rss_mb")},
        "status": "ok" if outcome["state"] == DONE else "failed",
        "phases": json.dumps(phases, sort_keys=True),
        "config": config,
        **{f"seconds_{phase}": phases.get(phase) for phase in PHASES},
        **{name: row.get(name) for name in CARRIED.names},
    }


class Ledger:
    """Collects rows for a file that appears when the `writing` block ends well; holds `ROWS_AT_ONCE` of them at a time."""

    def __init__(self, writer: pq.ParquetWriter) -> None:
        self._writer, self._rows = writer, list[dict[str, Any]]()
        self.reasons: Counter[str] = Counter()
        self.objects = self.views = 0

    def add(self, row: dict[str, Any]) -> None:
        self._rows.append(row)
        self.objects += 1
        self.views += row["views"]
        if row["status"] != "ok":
            self.reasons[row["reason"]] += 1
        if len(self._rows) == ROWS_AT_ONCE:
            self.flush()

    def flush(self) -> None:
        if self._rows:
            self._writer.write_table(pa.Table.from_pylist(self._rows, schema=LEDGER))
            self._rows.clear()

    @classmethod
    @contextlib.contextmanager
    def writing(cls, place: Location) -> Iterator["Ledger"]:
        with place.writing() as file, pq.ParquetWriter(file, LEDGER, compression="zstd") as writer:
            ledger = cls(writer)
            yield ledger
            ledger.flush()
