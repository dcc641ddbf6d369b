"""The smaller sections of the page: the spread of each figure, the gate's verdict, the protocol, and what else was recorded."""

import json
from typing import Any

from evaluation.report_page.figures import in_order, metric
from evaluation.report_page.inputs import ReportInputs
from evaluation.report_page.markup import Markup, definitions, element, join
from evaluation.report_page.plots import spread

# Parts of the score summary that have a place of their own on the page; what else there is stands under Protocol.
PLACED = {"protocol", "evaluation_set", "counts", "metrics", "baselines", "missing", "overlap", "model", "sets", "unavailable", "coverage"}

FIRST = ("name", "summary", "source", "objects", "views", "condition_views", "pictures", "images", "learned", "geometry", "consistency")


def section(identity: str, title: str, *children: object) -> Markup:
    return element("section", element("h2", title), children, id=identity)


def distributions(inputs: ReportInputs) -> Markup:
    """One dot per object for each metric."""
    plots = []
    for key in in_order(inputs.metric_names()):
        style, stats = metric(key), inputs.stats(key)
        values = {uid: float(value) for uid, figures in inputs.figures.items() if (value := figures.get(key)) is not None}
        if values:
            names = [f"{uid}: {style.text(value)}" for uid, value in values.items()]
            plots.append(spread(style.head, list(values.values()), stats.get("mean"), stats.get("ci95"), names))
    if not plots:
        return element("p", "No object has a figure.")
    caption = element("p", "A dot is an object (point at it for its name), the line the mean, the band its 95 % interval.", class_="soft")
    return join(caption, element("div", plots, class_="plots"))


def protocol(inputs: ReportInputs) -> Markup:
    """Every convention behind the figures, in full, and whatever else the score step recorded."""
    described = inputs.protocol
    rows = {key: described.get(key) for key in FIRST} | described
    kept = {key: value for key, value in (inputs.summary.get("coverage") or {}).items() if value not in (None, [], {})}
    extra = {key: value for key, value in inputs.summary.items() if key not in PLACED}
    return join(
        definitions([(key.replace("_", " "), _value(value)) for key, value in rows.items() if value not in (None, "", [], {})]),
        definitions(
            [("evaluation set", element("code", inputs.summary["evaluation_set"])), ("kept of it", _value(kept) if kept else None)]
        ),
        join(element("h3", "Also recorded"), definitions([(key.replace("_", " "), _value(value)) for key, value in extra.items()]))
        if extra
        else None,
    )


def _value(value: Any) -> object:
    if isinstance(value, dict):
        return element("div", [element("div", element("b", key.replace("_", " ")), ": ", _value(v)) for key, v in value.items()])
    if isinstance(value, list) and value:
        if any(isinstance(one, dict | list) for one in value):
            return element("div", [element("div", _value(one)) for one in value])
        return (", " if all(isinstance(one, int | float) for one in value) else "; ").join(str(_value(one)) for one in value)
    if isinstance(value, float):
        return f"{value:.6g}"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def decision(inputs: ReportInputs) -> Markup:
    """What the gate decided, and why."""
    verdict = inputs.decision
    if verdict is None:
        return element("p", "No gate was part of this run.")
    after = verdict.get("champion_after") or "none"
    floor = f", floor {verdict['minimum']:g}" if verdict.get("minimum") is not None else ", no floor"
    alias = verdict.get("alias", "champion")
    return element(
        "div",
        element("b", str(verdict["decision"]).capitalize()),
        ": ",
        verdict["reason"],
        ".",
        definitions(
            [
                ("rule", f"mean {verdict['metric']}{floor}"),
                (f"{alias} before", verdict.get("champion_before") or "none"),
                (f"{alias} now", after),
                ("compared with it", _difference(verdict.get("paired"), str(verdict["metric"]))),
                ("note", "the champion was scored again on this evaluation set" if verdict.get("champion_scored_again") else ""),
            ]
        ),
        class_=f"verdict {verdict['decision']}",
    )


def _difference(paired: dict[str, Any] | None, key: str) -> str:
    """The paired difference to the champion in a line; empty where the gate measured none."""
    if not paired or paired.get("mean_difference") is None:
        return ""
    style, interval = metric(key), paired.get("ci95")
    signed = f"{paired['mean_difference']:+.{style.digits}f}"
    within = f", 95 % interval {interval[0]:+.{style.digits}f} to {interval[1]:+.{style.digits}f}" if interval else ""
    chance = f", p = {paired['p_value']:.3g}" if paired.get("p_value") is not None else ""
    counted = f"; higher on {paired['higher']}, lower on {paired['lower']} of {paired['objects']} objects"
    left_out = f", {len(paired['left_out'])} left out" if paired.get("left_out") else ""
    return f"{style.label} {signed}{within}{chance}{counted}{left_out}"
