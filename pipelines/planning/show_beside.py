"""Predictions beside what happened, as text."""

from typing import Any

from pipelines.planning.beside import Pair, summed_up
from pipelines.planning.show import duration, table


def lines(pairs: list[Pair]) -> list[str]:
    """A table of all steps; those that took long are marked, and their ratios stand alone below."""
    summary = summed_up(pairs)
    rows = [["step", "planned", "simulated", "happened", "planned / happened", "of each pair", ""]]
    for row in summary["steps"]:
        each = " ".join(f"{ratio:.2f}" for ratio in row["ratios"])
        long = f"longer than {summary['long_s']:g} s" if row["long"] else ""
        rows.append(
            [row["step"], _time(row["planned"]), _time(row["simulated"]), duration(row["actual"]), _ratio(row["ratio"]), each, long]
        )
    counted = [row for row in summary["steps"] if row["long"] and row["ratio"] is not None]
    text = [f"medians of {len(pairs)} pair(s) of a calibration and a run", *table(rows, left={0, 5, 6}), ""]
    text += [f"longer than {summary['long_s']:g} s: " + (", ".join(_verdict(row) for row in counted) or "no step")]
    text += _spreads(summary)
    return [*text, *(f"pair {pair.number}: {'; '.join(dict.fromkeys(pair.load))}, commit {pair.commit[:12]}" for pair in pairs)]


def _time(seconds: float | None) -> str:
    return "not planned" if seconds is None else duration(seconds)


def _ratio(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _verdict(row: dict[str, Any]) -> str:
    inside = "within" if abs(row["ratio"] - 1) <= 0.2 else "outside"
    return f"{row['step']} {row['ratio']:.2f} ({inside} 20 %)"


def _spreads(summary: dict[str, Any]) -> list[str]:
    """Measured spreads beside those that the simulation assumes."""
    assumed, found = summary["assumed"], summary["spreads"]
    objects = {name: value for name, value in found.items() if not name.startswith("train.")}
    updates = {name: value for name, value in found.items() if name.startswith("train.")}
    parts = [
        f"{what}: " + ", ".join(f"{name} {value:.2f}" for name, value in values.items()) + f" (assumed {assumed[key]:g})"
        for what, key, values in (("spread of an object's task", "objects", objects), ("of logged updates", "updates", updates))
        if values
    ]
    return ["; ".join(parts)] if parts else []
