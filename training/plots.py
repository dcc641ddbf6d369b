"""Training curves as a picture."""

import io
from collections.abc import Sequence
from typing import Any

Rows = Sequence[dict[str, float]]


def loss_plot(history: Rows, validation: Rows, title: str, previews: Rows = ()) -> bytes:
    """PNG of the training loss (average per logged row) and the held-out loss over steps; rows have `step` and `loss`.

    Where `previews` hold PSNR (names that begin with `psnr`), a second panel shows those curves.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    names = [name for name in {name: None for row in previews for name in row} if name.startswith("psnr")]
    figure = Figure(figsize=(12.8 if names else 6.4, 4.0), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, 2 if names else 1, squeeze=False)[0]
    _losses(panels[0], history, validation)
    panels[0].set(title=title, xlabel="step", ylabel="loss")
    if names:
        for name in names:
            rows = [row for row in previews if name in row]
            panels[1].plot([row["step"] for row in rows], [row[name] for row in rows], "o-", label=name, linewidth=1.2, markersize=4)
        panels[1].set(title="fixed held-out objects", xlabel="step", ylabel="PSNR [dB]")
        panels[1].legend()
    for panel in panels:
        panel.grid(alpha=0.3)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def _losses(axes: Any, history: Rows, validation: Rows) -> None:
    if history:
        axes.plot([row["step"] for row in history], [row["loss"] for row in history], label="training", linewidth=1.2)
    if validation:
        axes.plot(
            [row["step"] for row in validation], [row["loss"] for row in validation], "o-", label="held out", linewidth=1.2, markersize=4
        )
    if history or validation:
        axes.legend()
