"""Loss curves as a picture."""

import io
from collections.abc import Sequence

Rows = Sequence[dict[str, float]]


def loss_plot(history: Rows, validation: Rows, title: str) -> bytes:
    """PNG of the training loss (average per logged row) and the held-out loss over steps; rows have `step` and `loss`."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.0), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    if history:
        axes.plot([row["step"] for row in history], [row["loss"] for row in history], label="training", linewidth=1.2)
    if validation:
        steps, losses = [row["step"] for row in validation], [row["loss"] for row in validation]
        axes.plot(steps, losses, "o-", label="held out", linewidth=1.2, markersize=4)
    axes.set(title=title, xlabel="step", ylabel="loss")
    axes.grid(alpha=0.3)
    if history or validation:
        axes.legend()
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()
