"""Every object that was to be scored in one table that sorts and filters, the failed ones among them."""

from evaluation.report_page.figures import in_order, metric
from evaluation.report_page.inputs import ReportInputs
from evaluation.report_page.markup import Markup, element, join, number, table


def per_object(inputs: ReportInputs, shown: list[str]) -> Markup:
    """One row per object. Objects on this page with pictures are links to them."""
    keys = [key for key in in_order(inputs.metric_names()) if any(f.get(key) is not None for f in inputs.figures.values())]
    head = [element("th", element("button", name, type="button"), scope="col") for name in ("object", "category", "status")]
    head += [element("th", element("button", metric(key).head, type="button"), class_="number", scope="col") for key in keys]
    rows: list[list[object]] = []
    for uid in sorted(inputs.figures):
        figures = inputs.figures[uid]
        name = element("a", uid, href=f"#object-{uid}") if uid in shown else uid
        status = "scored" if all(figures.get(key) is not None for key in keys) else "in part"
        status = status if any(value is not None for value in figures.values()) else "failed"
        category = inputs.objects.get(uid, {}).get("category") or ""
        cells = [number(metric(key).text(figures.get(key)), figures.get(key)) for key in keys]
        rows.append([element("td", name, title=uid), category, element("td", status, class_=f"is-{status.replace(' ', '-')}"), *cells])
    tools = element(
        "p",
        element(
            "label",
            "filter ",
            element("input", type="search", placeholder="name, category, failed \u2026", aria_label="filter the objects"),
        ),
        element("output"),
        class_="tools",
        hidden="",
    )
    hint = element("p", "Click a column head to sort; a dash is a figure that does not exist, for reasons under Failures.", class_="soft")
    return join(hint, tools, table(head, rows, class_="sortable"))
