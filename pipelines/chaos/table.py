"""The figures of a chaos run by kind of fault, as Markdown and as JSON."""

import json
import statistics
from collections import Counter
from pathlib import Path
from typing import Any

from pipelines.chaos.faults import KINDS
from pipelines.chaos.ledger import Ledger

HEADER = ["Fault", "Injected", "Recovery s, median", "max", "Work repeated, median", "max", "Went on by itself", "Started again"]


def summary(ledger: Ledger, settings: dict[str, Any]) -> dict[str, Any]:
    """Counts and figures by kind, of the passes that held."""
    counted, missed, passes = ledger.counted(), ledger.missed(), ledger.passes()
    kinds = {}
    for name, kind in KINDS.items():
        rows = [row for row in counted if row.kind == name]
        times = [row.recovery_s for row in rows if row.recovery_s is not None]
        repeated = [row.repeated for row in rows]
        kinds[name] = {
            "text": kind.text,
            "injected": len(rows),
            "not_injected": sum(row.kind == name for row in missed),
            "recovery_s": {"median": round(statistics.median(times), 1), "max": round(max(times), 1)} if times else None,
            "repeated": {"median": statistics.median(repeated), "max": max(repeated)} if repeated else None,
            "outcomes": dict(Counter(row.outcome for row in rows)),
        }
    held = [row for row in passes if not row.broken]
    return {
        "settings": settings,
        "faults": len(counted),
        "passes": {"held": len(held), "broken": len(passes) - len(held)},
        "driver_starts": sum(row.starts for row in held),
        "seconds": round(sum(row.seconds for row in passes)),
        "largest_loss_deviation": max((row.facts["deviation"] or 0.0 for row in held), default=None),
        "kinds": kinds,
    }


def markdown(figures: dict[str, Any]) -> str:
    """The table, with a line of totals below."""
    lines = ["| " + " | ".join(HEADER) + " |", "|---" + "|--:" * (len(HEADER) - 1) + "|"]
    for row in figures["kinds"].values():
        itself = row["outcomes"].get("went on by itself", 0) + row["outcomes"].get("not read any more", 0)
        seconds, again = row["recovery_s"], row["repeated"]
        cells = [
            row["text"],
            str(row["injected"]),
            *([f"{seconds['median']:.1f}", f"{seconds['max']:.1f}"] if seconds else ["not run", ""]),
            *([f"{again['median']:g}", f"{again['max']:g}"] if again else ["", ""]),
            *([str(itself), str(row["injected"] - itself)] if row["injected"] else ["", ""]),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    passes, deviation = figures["passes"], figures["largest_loss_deviation"]
    unlike = "none was compared" if deviation is None else format(deviation, ".1g")
    nothing = sum(row["not_injected"] for row in figures["kinds"].values())
    lines += [
        "",
        f"{figures['faults']} faults in {passes['held']} passes that held ({passes['broken']} did not), {figures['driver_starts']} starts "
        f"of `mvforge run`, {figures['seconds'] / 60:.0f} minutes in all, seed {figures['settings']['seed']}; largest relative deviation "
        f"of a loss from the undisturbed run: {unlike}. Not injected, because there was nothing to hit at its time: {nothing}.",
    ]
    return "\n".join(lines) + "\n"


def publish(folder: Path, figures: dict[str, Any]) -> None:
    """`table.json` and `table.md` in the folder."""
    for name, text in (("table.json", json.dumps(figures, indent=2) + "\n"), ("table.md", markdown(figures))):
        temporary = folder / f".{name}.tmp"
        temporary.write_text(text)
        temporary.replace(folder / name)
