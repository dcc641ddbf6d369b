"""Everything that did not make it through a step. Nothing is dropped: a mean over the survivors alone would flatter."""

from collections import Counter

from evaluation.report_page.inputs import ReportInputs
from evaluation.report_page.markup import Markup, element, join, number, right, table

OPEN_ROWS = 12


def failures(inputs: ReportInputs) -> Markup:
    """Counted by reason, then one by one."""
    rows = failed_rows(inputs)
    if not rows:
        return element("p", "Nothing failed and nothing was rejected.")
    counts = Counter((step, reason) for step, _, reason, _ in rows)
    summary = table(["step", "reason", right("objects")], [[step, reason, number(str(n))] for (step, reason), n in sorted(counts.items())])
    listed = [
        [step, element("td", uid), element("td", reason, class_="text"), element("td", detail, class_="text")]
        for step, uid, reason, detail in sorted(rows)
    ]
    return join(
        summary,
        element(
            "details",
            element("summary", f"all {len(rows)}, one by one"),
            table(["step", "object", "reason", "detail"], listed),
            open="" if len(rows) <= OPEN_ROWS else None,
        ),
    )


def failed_rows(inputs: ReportInputs) -> list[tuple[str, str, str, str]]:
    """Step, object, reason and detail of each failure, rejection and missing figure; what is unavailable to all is left out.

    A metric that no object has (weights that are not there, for example) is told once, in the table of figures.
    """
    rows = [
        (step, row["uid"], row.get("reason") or "?", row.get("detail") or "")
        for step, ledger in inputs.ledgers.items()
        for row in ledger
        if row["status"] != "ok"
    ]
    rows += [("curate", row["uid"], row.get("reason") or "?", row.get("detail") or "") for row in inputs.rejected]
    rows += [
        ("reconstruct", row["uid"], "stage failed, mesh made without it", told)
        for row in inputs.ledgers["reconstruct"]
        if row["status"] == "ok"
        for told in row.get("fallbacks") or []
    ]
    not_made = {row["uid"] for row in inputs.ledgers["generate"] if row["status"] != "ok"}
    nobody = {key for key in inputs.metric_names() if inputs.stats(key).get("mean") is None} if len(inputs.figures) > 1 else set()
    for name, gap in (inputs.summary.get("unavailable") or {}).items():
        if name not in nobody:  # some objects lack it, others not
            rows.append(("score", f"{gap['objects']} object(s)", "unavailable", f"{name}: {gap['reason']}"))
    for gap in inputs.summary.get("missing") or []:
        metrics = [name for name in gap.get("metrics", []) if name not in nobody]
        if gap["uid"] not in not_made and metrics:
            rows.append(("score", gap["uid"], "no figure", f"{', '.join(metrics)}: {gap['reason']}"))
    return rows
