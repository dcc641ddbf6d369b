"""The results for machines, inside the page: everything as JSON, objects and views as CSV."""

import csv
import io
import json
from typing import Any

from evaluation.report_page.failures import failed_rows
from evaluation.report_page.inputs import ReportInputs
from evaluation.report_page.markup import Markup, download, element

SCHEMA_VERSION = 1
# The figures of every view of a large set would be most of the page; the score folder has them.
MAX_VIEWS_BYTES = 2_000_000
KEPT = ("category", "split", "licence", "attribution")


def downloads(inputs: ReportInputs, about: dict[str, Any]) -> Markup:
    """Links that save the results; `about` is put in front of the JSON (title, command, ...)."""
    results = json.dumps(results_of(inputs, about), indent=1, ensure_ascii=False).encode()
    views = views_csv(inputs).encode()
    small = len(views) <= MAX_VIEWS_BYTES
    return element(
        "p",
        "Results: ",
        download("results.json", "results.json", results, "application/json"),
        ", ",
        download("objects.csv", "objects.csv", objects_csv(inputs).encode(), "text/csv"),
        ", ",
        download("views.csv", "views.csv", views, "text/csv") if small else "the figures of views are in scores.parquet",
        class_="downloads",
    )


def results_of(inputs: ReportInputs, about: dict[str, Any]) -> dict[str, Any]:
    """The score summary as it is, and the figures of every object."""
    objects = {
        uid: {key: inputs.objects[uid].get(key) for key in KEPT if uid in inputs.objects and inputs.objects[uid].get(key)}
        | {"figures": figures}
        for uid, figures in sorted(inputs.figures.items())
    }
    failed = [dict(zip(("step", "uid", "reason", "detail"), row, strict=True)) for row in sorted(failed_rows(inputs))]
    return {"schema_version": SCHEMA_VERSION, **about, "summary": inputs.summary, "objects": objects, "failures": failed}


def objects_csv(inputs: ReportInputs) -> str:
    """One row per object, metrics in columns, baselines too; a missing figure is an empty cell."""
    names = list(dict.fromkeys(name for figures in inputs.figures.values() for name in figures))
    rows = [
        [uid, inputs.objects.get(uid, {}).get("category") or "", *("" if figures.get(n) is None else repr(figures[n]) for n in names)]
        for uid, figures in sorted(inputs.figures.items())
    ]
    return _csv(["uid", "category", *names], rows)


def views_csv(inputs: ReportInputs) -> str:
    """One row per object and generated view, metrics in columns."""
    names = list(dict.fromkeys(name for metrics in inputs.views.values() for name in metrics))
    rows = []
    for uid, metrics in sorted(inputs.views.items()):
        for view in sorted({view for figures in metrics.values() for view in figures}):
            values = [metrics.get(name, {}).get(view) for name in names]
            rows.append([uid, str(view), *("" if value is None else repr(value) for value in values)])
    return _csv(["uid", "view", *names], rows)


def _csv(head: list[str], rows: list[list[str]]) -> str:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(head)
    writer.writerows(rows)
    return buffer.getvalue()
