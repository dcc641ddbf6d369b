"""How the model was trained: losses and held-out figures of each stage over its steps."""

from typing import Any

from evaluation.report_page.inputs import Curve
from evaluation.report_page.markup import Markup, element, join
from evaluation.report_page.plots import Series, curves

NOT_SHOWN = {"step", "loss", "seconds"}


def training(histories: dict[str, Curve]) -> Markup:
    """The loss of each stage; the other held-out figures fold."""
    blocks = []
    for name, curve in histories.items():
        loss = curves("loss", [_series("training", curve.training, "loss"), _series("held-out", curve.validation, "loss", dots=True)])
        others = sorted({key for row in curve.validation for key in row if _is_figure(row, key)} - NOT_SHOWN)
        plots = [curves(f"held-out {key}", [_series("held-out", curve.validation, key, dots=True)]) for key in others]
        fold = element(
            "details", element("summary", f"{len(plots)} more held-out figures of {name}"), element("div", plots, class_="plots")
        )
        blocks.append(
            element("div", element("h3", name), element("p", _story(curve), class_="soft"), loss, fold if plots else None, class_="stage")
        )
    return element("div", blocks, class_="plots") if blocks else element("p", "No training was part of this run.")


def _series(name: str, rows: list[dict[str, Any]], key: str, dots: bool = False) -> Series:
    known = [(float(row["step"]), float(row[key])) for row in rows if _is_figure(row, key) and _is_figure(row, "step")]
    return Series(name, [x for x, _ in known], [y for _, y in known], dots)


def _is_figure(row: dict[str, Any], key: str) -> bool:
    return isinstance(row.get(key), int | float) and not isinstance(row.get(key), bool)


def _story(curve: Curve) -> Markup:
    losses = [row for row in curve.validation if _is_figure(row, "loss")]
    if not losses:
        return join("No held-out figures.")
    first, last = losses[0], losses[-1]
    return join(f"Held-out loss {first['loss']:.4g} before training, {last['loss']:.4g} after {last.get('step', '?')} steps.")
