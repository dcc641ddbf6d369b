"""The attribution manifest names every object that was used, and no spreadsheet runs what is in it."""

import csv
import io

from infra.storage import Location
from rendering.attribution import COLUMNS, write_attribution

ROWS = [
    {
        "uid": "b",
        "title": "Cup, blue\nand white",
        "author": '=HYPERLINK("http://x")',
        "licence": "CC-BY-4.0",
        "source_page": "https://e.org/b",
    },
    {"uid": "a", "licence": None, "status": "ok"},
    {"uid": "c", "licence": "CC0-1.0", "status": "failed"},
]


def test_both_files_hold_the_used_objects(tmp_path):
    out = Location(str(tmp_path))
    assert write_attribution(iter(sorted(ROWS, key=lambda row: row["uid"])), out) == {"CC-BY-4.0": 1, "unknown": 1}
    manifest = (out / "attribution.json").read_json()
    assert [entry["uid"] for entry in manifest["objects"]] == ["a", "b"]
    assert manifest["objects"][1]["author"] == ROWS[0]["author"] and manifest["licences"] == {"CC-BY-4.0": 1, "unknown": 1}
    table = list(csv.DictReader(io.StringIO((out / "attribution.csv").read_text())))
    assert [row["uid"] for row in table] == ["a", "b"] and tuple(table[0]) == COLUMNS
    assert table[1]["title"] == ROWS[0]["title"] and table[1]["source_page"] == "https://e.org/b"
    assert table[1]["author"] == "'" + ROWS[0]["author"]
