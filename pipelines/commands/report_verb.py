"""The words of `mvforge report`."""

from pathlib import Path
from typing import Any

from pipelines.commands.verb import add_verb, later

DETAILS = """One file that needs no network and nothing beside it. In a store, everything else that belongs to the scores is found through
the store's records; elsewhere the page says what it lacks. It takes seconds and changes nothing but the page."""


def add_report_verb(verbs: Any) -> None:
    """report."""
    report = add_verb(
        verbs,
        "report",
        later("report_tool", "make_report"),
        "make the HTML page of a folder of scores",
        "mvforge report ~/.mvforge/store/score/tiny/20260101T120000-ab12cd --out report.html",
        DETAILS,
    )
    report.add_argument("scores", type=Path, help="folder with summary.json and scores.parquet, as the score step leaves it")
    report.add_argument("--out", type=Path, default=Path("report.html"), help="the page (default report.html)")
    report.add_argument("--generated", type=Path, help="store of the generated views (default: what the scores were made from)")
    report.add_argument("--reference", type=Path, help="store of the true views (default: the same)")
    report.add_argument("--meshes", type=Path, help="folder of UID.glb and ledger.parquet (default: the same)")
    report.add_argument("--title", help="of the page")
    report.add_argument("--note", help="a caution at its top")
    report.add_argument("--objects", type=int, default=6, help="objects with pictures, from best to worst (default 6)")
    report.add_argument("--by", default="psnr_foreground", help="the metric that orders them (default psnr_foreground)")
    report.add_argument("--embed-mb", type=float, default=5.0, help="megabytes of GLB files inside the page; others are linked (default 5)")
