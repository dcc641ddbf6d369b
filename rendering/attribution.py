"""Whom to name for the objects in a set: a table to publish beside it, as most licences demand.

`attribution.json` holds the texts exactly as they were found, `attribution.csv` the same for people and spreadsheets.
"""

import csv
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from infra.storage import Location
from rendering.sources.base import UNKNOWN_LICENCE

CSV, JSON = "attribution.csv", "attribution.json"
COLUMNS = ("uid", "title", "author", "licence", "source_page", "attribution", "licence_in_file")


def write_attribution(rows: Iterable[Mapping[str, Any]], out: Location) -> dict[str, int]:
    """Write both files into `out`, one entry per row in the order given; returns the number of objects under each licence.

    Args:
        rows: of a meshes table or a ledger, read one after the other: a set may have a million. Rows of failed objects are
            left out, absent columns stay empty.
    """
    counts: Counter[str] = Counter()
    with (
        (out / JSON).writing() as json_file,
        (out / CSV).writing() as csv_file,
        open(json_file, "w") as described,
        open(csv_file, "w", newline="") as table,
    ):
        writer = csv.writer(table, lineterminator="\n")
        writer.writerow(COLUMNS)
        described.write('{"objects": [')
        for row in rows:
            if row.get("status", "ok") != "ok":
                continue
            entry = {name: str(row.get(name) or "") for name in COLUMNS}
            entry["licence"] = entry["licence"] or UNKNOWN_LICENCE
            described.write((",\n" if counts else "\n") + json.dumps(entry))
            writer.writerow([_cell(entry[name]) for name in COLUMNS])
            counts[entry["licence"]] += 1
        licences = dict(sorted(counts.items()))
        described.write(f'\n], "licences": {json.dumps(licences)}}}\n')
    return licences


def _cell(text: str) -> str:
    """Titles come from strangers: a spreadsheet would run one that begins like a formula."""
    return f"'{text}" if text[:1] in ("=", "+", "-", "@", "\t", "\r") else text
