"""Whom to name for the objects in a set: a table to publish beside it, as most licences demand.

`attribution.json` holds the texts exactly as they were found, `attribution.csv` the same for people and spreadsheets.
"""

import csv
import io
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from infra.storage import Location
from rendering.sources.base import UNKNOWN_LICENCE

CSV, JSON = "attribution.csv", "attribution.json"
COLUMNS = ("uid", "title", "author", "licence", "source_page", "attribution", "licence_in_file")


def write_attribution(rows: Iterable[Mapping[str, Any]], out: Location) -> dict[str, int]:
    """Write both files into `out`, one entry per row, sorted by uid; returns the number of objects under each licence.

    Args:
        rows: of a meshes table or a ledger. Rows of failed objects are left out, absent columns stay empty.
    """
    used = sorted((row for row in rows if row.get("status", "ok") == "ok"), key=lambda row: row["uid"])
    objects = [{name: str(row.get(name) or "") for name in COLUMNS} for row in used]
    for entry in objects:
        entry["licence"] = entry["licence"] or UNKNOWN_LICENCE
    counts = dict(sorted(Counter(entry["licence"] for entry in objects).items()))
    (out / JSON).write_json({"licences": counts, "objects": objects})
    (out / CSV).write_text(_as_csv(objects))
    return counts


def _as_csv(objects: list[dict[str, str]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows([_cell(entry[name]) for name in COLUMNS] for entry in objects)
    return text.getvalue()


def _cell(text: str) -> str:
    """Titles come from strangers: a spreadsheet would run one that begins like a formula."""
    return f"'{text}" if text[:1] in ("=", "+", "-", "@", "\t", "\r") else text
