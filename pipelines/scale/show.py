"""Measured growth as text and as a plot."""

from collections.abc import Sequence
from pathlib import Path

from infra.errors import UserError
from pipelines.planning.show import amount, table
from pipelines.scale.growth import figures, growth
from pipelines.scale.point import Point


def lines(points: Sequence[Point]) -> list[str]:
    """A table a probe with the exponent from the size above, and a list of what grows faster than linear."""
    text: list[str] = []
    for probe in dict.fromkeys(point.probe for point in points):
        own = sorted((point for point in points if point.probe == probe), key=lambda point: point.size)
        names = [name for name in figures(own[0]) if any(figures(point)[name] for point in own)]
        rows = [[probe, *names]]
        exponents = {(step.large[0], step.what): step.exponent for step in growth(own)}
        for point in own:
            found = figures(point)
            cells = [f"{amount(found[name])}{_power(exponents.get((point.size, name)))}" for name in names]
            rows.append([f"{point.size:,}", *cells])
        text += [*table(rows, left=set()), ""]
    faster = [
        f"{probe}: {step.what} grew as size^{step.exponent:.2f} from {step.small[0]:,} to {step.large[0]:,}"
        for probe in dict.fromkeys(point.probe for point in points)
        for step in growth(point for point in points if point.probe == probe)
        if step.faster
    ]
    return [*text, "in parentheses: p of size^p from the row above", *(faster or ["nothing grows faster than linear"])]


def _power(exponent: float | None) -> str:
    return "" if exponent is None else f" ({exponent:.2f})"


def write_plot(points: Sequence[Point], path: Path) -> None:
    """Time, memory and metadata against size with the line of slope one, and memory over time of the largest runs.

    Raises:
        UserError: the name ends neither in .svg nor in .png.
    """
    if path.suffix not in (".svg", ".png"):
        raise UserError(f"--plot {path}", "a name that ends in .svg or .png")
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context({"svg.hashsalt": "mvforge"}):  # the same figures give the same file
        figure = Figure(figsize=(11, 7.2), layout="constrained")
        time, memory, metadata, curve = figure.subplots(2, 2).ravel()
        by_probe = {name: sorted((p for p in points if p.probe == name), key=lambda p: p.size) for name in dict.fromkeys(_probes(points))}
        for name, own in by_probe.items():
            sizes = [point.size for point in own]
            time.loglog(sizes, [point.cpu_s for point in own], marker="o", label=name)
            memory.loglog(sizes, [max(point.driver_mb, 0.1) for point in own], marker="o", label=f"{name}: driver")
            if any(point.gcs_mb > 0 for point in own):
                memory.loglog(sizes, [max(point.gcs_mb, 0.1) for point in own], marker="s", linestyle="--", label=f"{name}: GCS")
            for kind in own[0].bytes:
                metadata.loglog(sizes, [point.bytes[kind] / 1e6 for point in own], marker="o", label=f"{name}: {kind}, MB")
                metadata.loglog(sizes, [point.files[kind] for point in own], marker=".", linestyle=":", label=f"{name}: {kind}, files")
            last = own[-1].curve
            curve.plot([at / max(last[-1][0], 1e-9) for at, _ in last], [mb for _, mb in last], label=f"{name}, {own[-1].size:,}")
        for axes, label in ((time, "driver's processor time, s"), (memory, "growth of memory, MB"), (metadata, "metadata")):
            axes.set_xlabel("objects")
            axes.set_ylabel(label)
            _slope_one(axes)
        curve.set_xlabel("share of the run")
        curve.set_ylabel("driver, resident MB")
        for axes in (time, memory, metadata, curve):
            axes.grid(alpha=0.3)
            axes.legend(fontsize=7, loc="upper left")
        low, high = metadata.get_ylim()
        metadata.set_ylim(low, high**2 / low)  # its legend is as high as its curves
        temporary = path.with_name(f".{path.name}.tmp{path.suffix}")
        figure.savefig(temporary, metadata={"Date": None} if path.suffix == ".svg" else None)
        temporary.rename(path)


def _probes(points: Sequence[Point]) -> list[str]:
    return [point.probe for point in points]


def _slope_one(axes: object) -> None:
    """A grey line of slope one through the lower left corner, for the eye."""
    low, high = axes.get_xlim()  # type: ignore[attr-defined]
    start, end = axes.get_ylim()  # type: ignore[attr-defined]
    axes.plot([low, high], [start, start * high / low], color="0.6", linewidth=1, linestyle="-.", zorder=0)  # type: ignore[attr-defined]
    axes.set_xlim(low, high)  # type: ignore[attr-defined]
    axes.set_ylim(start, end)  # type: ignore[attr-defined]
