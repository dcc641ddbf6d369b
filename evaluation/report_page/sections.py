"""The sections of the page that are text and tables."""

import json
from collections import Counter
from typing import Any

from evaluation.report_page.figures import BASELINES, PAPER, PAPER_STATEMENT, baseline_of, in_order, metric
from evaluation.report_page.inputs import Curve, ReportInputs
from evaluation.report_page.markup import Markup, element, join, number, table
from evaluation.report_page.plots import Series, curves, spread

MAX_ATTRIBUTIONS = 12


def section(identity: str, title: str, *children: object) -> Markup:
    return element("section", element("h2", title), children, id=identity)


def definitions(pairs: list[tuple[str, object]]) -> Markup:
    """A list of terms; pairs whose value is empty are left out."""
    return element("dl", [join(element("dt", key), element("dd", value)) for key, value in pairs if value not in (None, "", [])])


def headline(inputs: ReportInputs, with_paper: bool) -> Markup:
    """Means with their intervals, the paper's figures and the baselines beside them."""
    metrics, baselines = inputs.summary["metrics"], inputs.summary.get("baselines", {})
    beside: dict[str, dict[str, Any]] = {}
    for key, stats in baselines.items():
        if (found := baseline_of(key)) is not None:
            beside.setdefault(found[0], {})[found[1]] = stats
    shown = [suffix for suffix in BASELINES if any(suffix in columns for columns in beside.values())]
    head: list[object] = ["metric", *(_right(name) for name in ("mean", "95 % interval", "median", "objects"))]
    head += [_right(name) for name in (*(s.replace("_", " ") for s in shown), *(["paper"] if with_paper else []))]
    rows = []
    for key in in_order(list(metrics)):
        style, stats = metric(key), metrics[key] or {}
        interval = stats.get("ci95")
        row: list[object] = [style.head, element("td", style.text(stats.get("mean")), class_="number main")]
        row += [
            number(f"{style.text(interval[0])} \u2013 {style.text(interval[1])}" if interval else "\u2013"),
            number(style.text(stats.get("median"))),
        ]
        row.append(number(str(stats.get("objects", "\u2013"))))
        row += [number(style.text((beside.get(key, {}).get(suffix) or {}).get("mean"))) for suffix in shown]
        rows.append(row + ([number(style.text(PAPER.get(key)))] if with_paper else []))
    legend = "; ".join(f"{suffix.replace('_', ' ')}: {BASELINES[suffix]}" for suffix in shown)
    notes = [element("p", f"Arrows point to better. {legend}.", class_="soft")] if legend else []
    notes += [element("p", PAPER_STATEMENT, class_="soft")] if with_paper else []
    return join(table(head, rows), notes)


def _right(text: str) -> Markup:
    return element("th", text, class_="number", scope="col")


def protocol(inputs: ReportInputs) -> Markup:
    """Every convention behind the figures, in full."""
    described = inputs.summary["protocol"]
    rows = {"name": described["name"], **described} if isinstance(described, dict) else {"name": described}
    return join(
        definitions([(key.replace("_", " "), _value(value)) for key, value in rows.items()]),
        definitions([("evaluation set", element("code", inputs.summary["evaluation_set"]))]),
    )


def _value(value: Any) -> object:
    if isinstance(value, dict):
        return element("div", [element("div", element("b", key.replace("_", " ")), ": ", _value(v)) for key, v in value.items()])
    return value if isinstance(value, str) else json.dumps(value)


def per_object(inputs: ReportInputs, shown: list[str]) -> Markup:
    """All scored objects; a click on a head sorts."""
    keys = [key for key in in_order(list(inputs.summary["metrics"])) if any(f.get(key) is not None for f in inputs.figures.values())]
    head = [
        element("th", element("button", "object", type="button"), scope="col"),
        element("th", element("button", "category", type="button"), scope="col"),
    ]
    head += [element("th", element("button", metric(key).head, type="button"), class_="number", scope="col") for key in keys]
    rows: list[list[object]] = []
    for uid in sorted(inputs.figures):
        name = element("a", uid, href=f"#object-{uid}") if uid in shown else uid
        figures = inputs.figures[uid]
        category = inputs.objects.get(uid, {}).get("category") or ""
        rows.append(
            [element("td", name, title=uid), category, *(number(metric(key).text(figures.get(key)), figures.get(key)) for key in keys)]
        )
    hint = element("p", "Click a column head to sort; the dash marks a figure that does not exist.", class_="soft")
    return join(hint, table(head, rows, class_="sortable"))


def distributions(inputs: ReportInputs) -> Markup:
    """One dot per object for each metric."""
    plots = []
    for key in in_order(list(inputs.summary["metrics"])):
        values = [figures[key] for figures in inputs.figures.values() if figures.get(key) is not None]
        stats = inputs.summary["metrics"][key] or {}
        if values:
            plots.append(spread(metric(key).head, [float(v) for v in values if v is not None], stats.get("mean"), stats.get("ci95")))
    if not plots:
        return element("p", "No object has a figure.")
    caption = element("p", "A dot is an object, the line the mean, the band its 95 % interval.", class_="soft")
    return join(caption, element("div", plots, class_="plots"))


def training(histories: dict[str, Curve]) -> Markup:
    """Loss curves and held-out figures of each stage."""
    blocks = []
    for name, curve in histories.items():
        plots = [_loss_plot(curve)]
        others = sorted({key for row in curve.validation for key in row if _is_figure(row, key)} - {"step", "loss", "seconds"})
        plots += [curves(f"held-out {key}", [_series("held-out", curve.validation, key, dots=True)]) for key in others]
        blocks += [element("h3", name), element("p", _story(curve), class_="soft"), element("div", plots, class_="plots")]
    return join(blocks) if blocks else element("p", "No training was part of this run.")


def _loss_plot(curve: Curve) -> Markup:
    return curves("loss", [_series("training", curve.training, "loss"), _series("held-out", curve.validation, "loss", dots=True)])


def _series(name: str, rows: list[dict[str, Any]], key: str, dots: bool = False) -> Series:
    known = [(float(row["step"]), float(row[key])) for row in rows if _is_figure(row, key) and _is_figure(row, "step")]
    return Series(name, [x for x, _ in known], [y for _, y in known], dots)


def _is_figure(row: dict[str, Any], key: str) -> bool:
    return isinstance(row.get(key), int | float) and not isinstance(row.get(key), bool)


def _story(curve: Curve) -> str:
    losses = [row for row in curve.validation if _is_figure(row, "loss")]
    if not losses:
        return "No held-out figures."
    first, last = losses[0], losses[-1]
    return f"Held-out loss {first['loss']:.4g} before training, {last['loss']:.4g} after {last.get('step', '?')} steps."


def failures(inputs: ReportInputs) -> Markup:
    """Everything that did not make it through a step: counted by reason, then one by one."""
    rows = [
        (step, row["uid"], row.get("reason") or "?", row.get("detail") or "")
        for step, ledger in inputs.ledgers.items()
        for row in ledger
        if row["status"] != "ok"
    ]
    rows += [("curate", row["uid"], row.get("reason") or "?", row.get("detail") or "") for row in inputs.rejected]
    made = {row["uid"] for row in inputs.ledgers["generate"] if row["status"] == "ok"}
    for gap in inputs.summary.get("missing", []):
        if gap["uid"] in made:
            rows.append(("score", gap["uid"], "no figure", f"{', '.join(gap['metrics'])}: {gap['reason']}"))
    if not rows:
        return element("p", "Nothing failed and nothing was rejected.")
    counts = Counter((step, reason) for step, _, reason, _ in rows)
    summary = table(["step", "reason", _right("objects")], [[step, reason, number(str(n))] for (step, reason), n in sorted(counts.items())])
    listed = [[step, element("td", uid), reason, element("td", detail, class_="text")] for step, uid, reason, detail in sorted(rows)]
    return join(
        summary,
        element(
            "details",
            element("summary", f"all {len(rows)}, one by one"),
            table(["step", "object", "reason", "detail"], listed),
            open="" if len(rows) <= 12 else None,
        ),
    )


def licences(inputs: ReportInputs) -> Markup:
    """Objects by licence, and whom to name for those on this page."""
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
    return table(["licence", _right("objects in the data set"), _right("scored here"), "attribution"], rows)


def decision(inputs: ReportInputs) -> Markup:
    """What the gate decided, and why."""
    verdict = inputs.decision
    if verdict is None:
        return element("p", "No gate was part of this run.")
    after = verdict.get("champion_after") or "none"
    return element(
        "div",
        element("b", str(verdict["decision"]).capitalize()),
        ": ",
        verdict["reason"],
        ".",
        definitions(
            [
                (
                    "rule",
                    f"mean {verdict['metric']}"
                    + (f", floor {verdict['minimum']:g}" if verdict.get("minimum") is not None else ", no floor"),
                ),
                (f"{verdict['alias']} before", verdict.get("champion_before") or "none"),
                (f"{verdict['alias']} now", after),
            ]
        ),
        class_=f"verdict {verdict['decision']}",
    )
