"""The data behind the figures: how many objects came through each step, in which split, and under which licences."""

from collections import Counter

from evaluation.report_page.inputs import ReportInputs
from evaluation.report_page.markup import Markup, element, join, number, right, table

MAX_ATTRIBUTIONS = 12
MAX_CATEGORIES = 24
STEPS = (("fetch", "fetched"), ("render", "rendered"), ("generate", "generated"), ("reconstruct", "meshes"))


def data(inputs: ReportInputs) -> Markup:
    """Counts by step and split, categories, licences."""
    return join(_steps(inputs), _splits(inputs), element("h3", "Licences"), licences(inputs))


def _steps(inputs: ReportInputs) -> Markup | None:
    rows: list[list[object]] = []
    for step, name in STEPS:
        ledger = inputs.ledgers.get(step) or []
        if ledger:
            good = sum(row["status"] == "ok" for row in ledger)
            rows.append([name, number(str(good)), number(str(len(ledger) - good))])
        if step == "render" and ledger and inputs.rejected:
            rows.append(["kept by curation", number(str(good - len(inputs.rejected))), number(str(len(inputs.rejected)))])
    return table(["objects", right("good"), right("failed or rejected")], rows) if rows else None


def _splits(inputs: ReportInputs) -> Markup | None:
    objects = list(inputs.objects.values())
    splits = [name for name in ("train", "val", "test") if any(row.get("split") == name for row in objects)]
    if not splits:
        return None
    counts = Counter((row.get("category") or "unknown", row.get("split")) for row in objects)
    categories = sorted({category for category, _ in counts}, key=lambda c: (-sum(counts[c, s] for s in splits), c))
    rows: list[list[object]] = [["all", *(number(str(sum(row.get("split") == s for row in objects))) for s in splits)]]
    rows += [[category, *(number(str(counts[category, s] or "\u2013")) for s in splits)] for category in categories[:MAX_CATEGORIES]]
    note = f"and {len(categories) - MAX_CATEGORIES} more categories" if len(categories) > MAX_CATEGORIES else None
    return element(
        "details",
        element("summary", f"{len(objects)} objects by category and split"),
        table(["category", *(right(s) for s in splits)], rows),
        element("p", note, class_="soft") if note else None,
    )


def licences(inputs: ReportInputs) -> Markup:
    """Objects by licence, and whom to name for them."""
    objects = inputs.objects
    if not objects:
        return element("p", "The licences of the objects are not known.")
    total = Counter(row.get("licence") or "unknown" for row in objects.values())
    scored = Counter(objects[uid].get("licence") or "unknown" for uid in inputs.figures if uid in objects)
    rows: list[list[object]] = []
    for licence, count in sorted(total.items()):
        names = sorted(
            {row["attribution"] for row in objects.values() if (row.get("licence") or "unknown") == licence and row.get("attribution")}
        )
        shown = "; ".join(names[:MAX_ATTRIBUTIONS]) + (
            f"; and {len(names) - MAX_ATTRIBUTIONS} more in the render ledger" if len(names) > MAX_ATTRIBUTIONS else ""
        )
        rows.append([licence, number(str(count)), number(str(scored[licence])), element("td", shown, class_="text")])
    return table(["licence", right("objects in the data set"), right("scored here"), "attribution"], rows)
