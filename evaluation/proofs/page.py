"""Results of the proofs as a page: every figure comes out of a `result.json`, next to the command that made it."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from evaluation.strips import strip

TITLES = {
    "adapt": "A published VAE learns the mask",
    "memorise": "Eight objects by heart",
    "condition": "The condition picture is used",
    "dropout": "View dropout",
    "compare": "New objects of seen and of unseen families",
    "conditions": "More condition views help",
    "ablate": "What each part is worth",
}
ORDER = list(TITLES)
NEED_A_GPU = ("compare", "conditions", "ablate")
SHOWN_OBJECTS, SHOWN_VIEWS, CELL_PX = 6, (0, 2, 4, 6, 8, 10, 16, 18, 24, 28), 64


def write_page(results: Path, folder: Path) -> list[Path]:
    """`README.md` and pictures in `folder` from all results found below `results`; returns what was written."""
    folder.mkdir(parents=True, exist_ok=True)
    written, parts = [], [_HEAD]
    for name in ORDER:
        path = results / f"{name}.json"
        if not path.is_file():
            parts.append(_not_run(name))
            continue
        result = json.loads(path.read_text())
        parts.append(_section(name, result))
        captions = {"curves": "Figures while training:", "views": "Truth above, samples below:"}
        for picture in (*_curves(name, result, folder), *_strips(results / f"{name}.npz", name, folder)):
            caption = captions[picture.stem.rpartition("-")[2]]
            parts.append(f"{caption}\n\n![{TITLES[name]}]({picture.name})")
            written.append(picture)
    page = folder / "README.md"
    page.write_text("\n\n".join(parts) + "\n")
    return [page, *written]


_HEAD = """# Results

Written by `mvforge prove page` from the `*.json` that the commands below leave; nothing here is typed by hand. PSNR is in dB
on white; foreground means over the true mask. Brackets are bootstrap 95 % intervals over objects."""


def _not_run(name: str) -> str:
    setup = " --setup gpu" if name in NEED_A_GPU else ""
    why = ": it needs a GPU, and none was at hand" if name in NEED_A_GPU else ""
    return f"## {TITLES[name]}\n\n**Not run**{why}. The command is ready: `mvforge prove {name}{setup}`."


def _section(name: str, result: dict[str, Any]) -> str:
    machine = result["machine"]
    share = "" if result["share"] == 1.0 else f", with a share of {result['share']:g} of the steps (a trial, it proves nothing)"
    lines = [
        f"## {TITLES[name]}",
        "",
        f"`mvforge prove {name} --setup {result['setup']}`{share}: {_devices(machine)}, commit {result['git_commit'][:12]}.",
        "",
        "| claim | measured | holds |",
        "|---|---|---|",
    ]
    for claim, facts in result["claims"].items():
        lines.append(f"| {claim} | {_value(facts, 3)} | {'yes' if facts['holds'] else '**no**'} |")
    return "\n".join([*lines, *_tables(result), *_trainings(result)])


def _trainings(result: dict[str, Any]) -> list[str]:
    """How long each training behind the figures was, by its own clock (what else the machine did counts in)."""
    rows = []
    for training, curves in result["curves"].items():
        history = curves["history"]
        if history:
            minutes = history[-1]["step"] * float(np.mean([row["seconds"] for row in history])) / 60
            rows.append(f"| {training} | {history[-1]['step']:.0f} | {minutes:.1f} |")
    return ["", "| training | steps | minutes |", "|---|---|---|", *rows] if rows else []


def _devices(machine: dict[str, Any]) -> str:
    return f"{machine['device']}, {machine['threads']} thread{'s' if machine['threads'] != 1 else ''}, torch {machine['torch']}"


def _value(facts: dict[str, Any], digits: int = 2) -> str:
    key = "value" if "value" in facts else "mean"
    interval = facts.get("ci95")
    return f"{facts[key]:.{digits}f}" + (f" [{interval[0]:.{digits}f}, {interval[1]:.{digits}f}]" if interval else "")


def _tables(result: dict[str, Any]) -> list[str]:
    """Every group of figures with a mean, one table a group; single numbers in one more."""
    lines: list[str] = []
    single: dict[str, Any] = {}
    for group, rows in result.items():
        if group in ("claims", "curves", "machine", "pictures", "equal_time") or not isinstance(rows, dict):
            if isinstance(rows, (int, float)) and group != "share":
                single[group] = rows
            continue
        if "mean" in rows:
            single[group] = rows
        elif all(isinstance(row, dict) and "mean" in row for row in rows.values()):
            lines += ["", f"| {group.replace('_', ' ')} | |", "|---|---|", *(f"| {row} | {_value(facts)} |" for row, facts in rows.items())]
        elif all(isinstance(row, (int, float)) for row in rows.values()):
            lines += ["", f"| {group.replace('_', ' ')} | |", "|---|---|", *(f"| {row} | {number:.4g} |" for row, number in rows.items())]
        elif all(isinstance(row, dict) for row in rows.values()):
            columns = list(next(iter(rows.values())))
            lines += ["", f"| {group.replace('_', ' ')} | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
            lines += [f"| {row} | {' | '.join(f'{values[c]:.4g}' for c in columns)} |" for row, values in rows.items()]
    for arm, facts in result.get("equal_time", {}).items():
        if not lines or "trained on" not in lines[-1]:
            lines += (
                ["", "| trained on | steps | seconds | one step | sampled |", "|---|---|---|---|---|"]
                if arm == next(iter(result["equal_time"]))
                else []
            )
        lines.append(
            f"| {arm} | {facts['steps']} | {facts['training_seconds']:.0f} | {_value(facts['one_step'])} | {_value(facts['sampled'])} |"
        )
    if single:
        lines += ["", "| beside | |", "|---|---|"]
        lines += [f"| {name.replace('_', ' ')} | {_value(f) if isinstance(f, dict) else f'{f:.4g}'} |" for name, f in single.items()]
    return lines


def _curves(name: str, result: dict[str, Any], folder: Path) -> list[Path]:
    """Held-out loss, and PSNR of one-step guesses and of samples where they were watched, over training steps."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    trainings = {training: curves["validation"] for training, curves in result.get("curves", {}).items() if curves["validation"]}
    if not trainings:
        return []
    figure = Figure(figsize=(10, 3.4), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    loss, quality = figure.subplots(1, 2)
    for training, rows in trainings.items():
        steps = [row["step"] for row in rows]
        loss.plot(steps, [row["loss"] for row in rows], "o-", markersize=3, label=training)
        for key in rows[0]:
            if "psnr_foreground" in key:
                label = f"{training}: {key.removesuffix('_psnr_foreground').replace('_', ' ')}" if key != "psnr_foreground" else training
                quality.plot(steps, [row[key] for row in rows], "o-", markersize=3, label=label)
    loss.set(title="held-out loss", xlabel="step", yscale="log")
    quality.set(title="foreground PSNR in dB", xlabel="step")
    for axes in (loss, quality):
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    path = folder / f"{name}-curves.png"
    figure.savefig(path)
    return [path]


def _strips(pictures: Path, name: str, folder: Path) -> list[Path]:
    """Truth above, samples below, for a few objects and views; the condition picture first where there is one."""
    if not pictures.is_file():
        return []
    with np.load(pictures, allow_pickle=False) as archive:
        truth, made = archive["truth"], archive["made"]
        given = archive["condition"] if "condition" in archive.files else None
    rows = []
    picked = np.linspace(0, len(truth) - 1, min(SHOWN_OBJECTS, len(truth))).round().astype(int)
    for n in picked:
        for line in (truth, made):
            cells: list[np.ndarray | None] = [] if given is None else [given[n] if line is truth else None]
            rows.append(strip([*cells, *(line[n][v] for v in SHOWN_VIEWS)], CELL_PX))
    path = folder / f"{name}-views.png"
    Image.fromarray(np.concatenate(rows)).save(path, optimize=True)
    return [path]
