"""The figures of the whole evaluation: a few large ones, and the table of all."""

from typing import Any

from evaluation.report_page.figures import (
    BASELINES,
    NEAREST,
    PAPER,
    PAPER_PROTOCOL,
    PAPER_STATEMENT,
    PUBLISHED,
    SAME_PROTOCOL_STATEMENT,
    Metric,
    baseline_of,
    in_order,
    metric,
)
from evaluation.report_page.inputs import ReportInputs
from evaluation.report_page.markup import Markup, element, join, number, right, table

CARDS = ("psnr_foreground", "ssim", "lpips", "mask_iou", "chamfer", "volume_iou", "silhouette_iou", "psnr")
CARDS_SHOWN = 4
# A card of one kind is enough.
ALTERNATIVES = {"psnr": ("psnr_foreground",), "ssim": ("lpips",)}


def cards(inputs: ReportInputs) -> Markup | None:
    """The four most telling figures with their intervals, and the first baseline to hold against each."""
    known = [key for key in CARDS if inputs.stats(key).get("mean") is not None]
    known = [key for key in known if not any(other in known for other in ALTERNATIVES.get(key, ()))]
    beside = _baselines(inputs)
    made = []
    for key in _spread_over_groups(known)[:CARDS_SHOWN]:
        style, stats = metric(key), inputs.stats(key)
        other = next(((suffix, beside[key][suffix]) for suffix in reversed(BASELINES) if suffix in beside.get(key, {})), None)
        made.append(
            element(
                "div",
                element("span", style.head, class_="soft"),
                element("b", style.text(stats["mean"])),
                element("span", _interval(style, stats), class_="soft"),
                element("span", f"{other[0].replace('_', ' ')}: {style.text(other[1].get('mean'))}", class_="soft") if other else None,
                class_="card",
            )
        )
    return element("div", made, class_="cards") if made else None


def _spread_over_groups(keys: list[str]) -> list[str]:
    """Pictures, masks, mesh and consistency before a second one of a kind."""
    first = [key for key in keys if key in ("psnr_foreground", "psnr", "mask_iou", "chamfer", "volume_iou")]
    return first + [key for key in keys if key not in first]


def headline(inputs: ReportInputs, with_paper: bool) -> Markup:
    """Means with their intervals by group, the baselines and the paper's figures beside them.

    A metric without any figure keeps its row and says why.
    """
    beside = _baselines(inputs)
    shown = [suffix for suffix in BASELINES if any(suffix in columns for columns in beside.values())]
    paper, same = paper_column(inputs)
    head: list[object] = ["metric", *(right(name) for name in ("mean", "95 % interval", "median", "std", "objects"))]
    head += [right(suffix.replace("_", " ")) for suffix in shown]
    if with_paper:
        head.append(element("th", "paper", None if same else element("small", "not comparable"), class_="number paper", scope="col"))
    rows: list[object] = []
    group = None
    for key in in_order([*inputs.metric_names(), *inputs.sets]):
        style, stats = metric(key), inputs.stats(key)
        if style.group != group:
            group = style.group
            rows.append(element("tr", element("th", group, colspan=len(head), scope="colgroup"), class_="group"))
        if stats.get("mean") is None:
            why = element("td", _why(inputs, key), class_="text soft", colspan=5 + len(shown))
            row: list[object] = [style.head, why]
        else:
            row = [style.head, element("td", style.text(stats["mean"]), class_="number main"), number(_interval(style, stats))]
            row += [number(style.text(stats.get(name))) for name in ("median", "std")]
            row.append(number(_count(stats)))
            row += [number(style.text((beside.get(key, {}).get(suffix) or {}).get("mean"))) for suffix in shown]
        if with_paper:
            row.append(element("td", style.text(paper.get(key)), class_="number" if same else "number paper"))
        rows.append(row)
    legend = "; ".join(f"{suffix.replace('_', ' ')}: {BASELINES[suffix]}" for suffix in shown)
    notes: list[object] = [_departures(inputs), element("p", "Arrows point to better. ", f"{legend}." if legend else None, class_="soft")]
    if with_paper:
        notes.append(element("p", SAME_PROTOCOL_STATEMENT if same else PAPER_STATEMENT, class_="soft"))
        notes.append(_published(same))
    return join(table(head, rows, class_="headline"), notes)


def paper_column(inputs: ReportInputs) -> tuple[dict[str, float], bool]:
    """Metric -> the paper's figure, and whether it may be compared with ours.

    It may where the evaluation used that table's protocol with its own numbers and kept it: objects, rig, input views.
    """
    base, changed, _ = str(inputs.protocol.get("name", "")).partition("(")
    columns = (inputs.protocol.get("published_columns") or {}) if base == PAPER_PROTOCOL else {}
    kept = (inputs.summary.get("coverage") or {}).get("keeps_protocol")
    figures = {(columns or NEAREST)[column]: value for column, value in PAPER.columns.items() if column in (columns or NEAREST)}
    return figures, bool(columns and not changed and kept)


def _published(same: bool) -> Markup:
    """All rows of the paper's table, folded."""
    style = {column: metric(key) for column, key in NEAREST.items()}
    rows = [[row.method, *(number(style[column].text(row.columns.get(column))) for column in NEAREST)] for row in PUBLISHED]
    title = "the other methods of the paper's table" + ("" if same else " (not comparable with the figures above)")
    return element("details", element("summary", title), table(["method", *(right(column) for column in NEAREST)], rows))


def _departures(inputs: ReportInputs) -> Markup | None:
    """What of the protocol was not kept."""
    told = (inputs.summary.get("coverage") or {}).get("departures")
    return element("p", element("b", "Departures from the protocol: "), "; ".join(told), ".", class_="departures") if told else None


def _baselines(inputs: ReportInputs) -> dict[str, dict[str, dict[str, Any]]]:
    """metric -> baseline -> what the summary says about it."""
    beside: dict[str, dict[str, dict[str, Any]]] = {}
    for key, stats in (inputs.summary.get("baselines") or {}).items():
        if (found := baseline_of(key)) is not None:
            beside.setdefault(found[0], {})[found[1]] = stats or {}
    return beside


def _interval(style: Metric, stats: dict[str, Any]) -> str:
    interval = stats.get("ci95")
    return f"{style.text(interval[0])} \u2013 {style.text(interval[1])}" if interval else "\u2013"


def _count(stats: dict[str, Any]) -> str:
    return f"{stats['pictures']} pictures" if "pictures" in stats else str(stats.get("objects", "\u2013"))


def _why(inputs: ReportInputs, key: str) -> str:
    """Why a metric has no figure at all: what the summary says, else the commonest reason of the objects."""
    told = inputs.stats(key).get("note") or (inputs.summary.get("unavailable") or {}).get(key, {}).get("reason")
    if told:
        return f"\u2013 {told}"
    reasons = inputs.reasons.get(key)
    return f"\u2013 {reasons.most_common(1)[0][0]}" if reasons else "\u2013 no object has a figure"
