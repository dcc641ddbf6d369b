"""Rows of the training benchmark: measured one by one, written as they finish, skipped when they are already there."""

import gc
import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from infra.errors import UserError

Figures = dict[str, Any]


class NotRun(Exception):
    """This machine cannot do what the row asks for; the text says why."""


@dataclass(frozen=True)
class Row:
    """One measurement.

    Attributes:
        name: identity in the results file.
        measure: does it and returns figures; may raise NotRun.
        seconds: what it is expected to take, against the budget.
    """

    name: str
    measure: Callable[[], Figures]
    seconds: float = 25.0


class Results:
    """The results file: `{"machine": {...}, "rows": {name: figures}}`, replaced as a whole after every row."""

    def __init__(self, path: Path | None, machine: Figures) -> None:
        """Raises UserError when the file holds figures of another machine."""
        self.path, self.machine = path, machine
        self.rows: dict[str, Figures] = {}
        if path is not None and path.exists():
            held = json.loads(path.read_text())
            changed = [key for key in ("device", "torch", "shapes") if held["machine"][key] != machine[key]]
            if changed:
                raise UserError(f"{path} holds figures of another {changed[0]}: {held['machine'][changed[0]]}", "give another --out")
            self.rows = held["rows"]

    def add(self, name: str, figures: Figures) -> None:
        self.rows[name] = figures
        if self.path is None:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        scratch = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        scratch.write_text(json.dumps({"machine": self.machine, "rows": self.rows}, indent=1) + "\n")
        scratch.replace(self.path)


def measure_all(rows: list[Row], results: Results, budget: float | None, say: Callable[[str], None]) -> list[str]:
    """Measure what is missing, in order; returns the names of rows left for another call because the budget was spent."""
    started = time.perf_counter()
    left: list[str] = []
    for row in rows:
        if row.name in results.rows:
            say(line(row.name, results.rows[row.name]) + "   (measured before)")
            continue
        if left or (budget is not None and time.perf_counter() - started + row.seconds > budget):
            left.append(row.name)
            continue
        figures = attempt(row.measure)
        results.add(row.name, figures)
        say(line(row.name, figures))
    return left


def attempt(measure: Callable[[], Figures]) -> Figures:
    """Figures with `status`: ok, not run, out of memory or failed; a row never ends the benchmark."""
    try:
        figures = {"status": "ok", **measure()}
    except NotRun as reason:
        figures = {"status": "not run", "reason": str(reason)}
    except Exception as error:  # noqa: BLE001  becomes the row's reason and the exit status
        figures = {"status": _status(error), "reason": f"{type(error).__name__}: {first_line(error)}"}
    # Outside the handler: the exception's frames held the tensors until here.
    gc.collect()
    torch._dynamo.reset()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return figures


def _status(error: Exception) -> str:
    if ran_out_of_memory(error):
        return "out of memory"
    # PyTorch's words when the one attention backend that is allowed does not exist for device, type or size.
    missing = "No viable backend" in str(error) or "No available kernel" in str(error)
    return "not run" if missing else "failed"


def first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [""])[0][:300]


def ran_out_of_memory(error: Exception) -> bool:
    """True for CUDA's and the CPU allocator's refusals; the latter is a plain RuntimeError."""
    text = str(error).lower()
    return isinstance(error, (torch.cuda.OutOfMemoryError, MemoryError)) or "out of memory" in text or "can't allocate memory" in text


def median_seconds(step: Callable[[], Any], device: torch.device, warmup: int, least_s: float, most: int) -> tuple[float, int]:
    """Median duration of `step` after `warmup` calls, and how many calls it is the median of.

    Measures at least once, until `least_s` seconds are spent or `most` calls are done.
    """
    for _ in range(warmup):
        step()
    synchronize(device)
    durations: list[float] = []
    while not durations or (sum(durations) < least_s and len(durations) < most):
        started = time.perf_counter()
        step()
        synchronize(device)
        durations.append(time.perf_counter() - started)
    return sorted(durations)[len(durations) // 2], len(durations)


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def line(name: str, figures: Figures) -> str:
    """One row for a person."""
    if figures["status"] != "ok":
        return f"{name:44s} {figures['status']}: {figures['reason']}"
    cells = []
    if "seconds" in figures:
        cells.append(f"{figures['seconds'] * 1e3:10.2f} ms" if figures["seconds"] < 10 else f"{figures['seconds']:10.2f} s ")
    if "tflops" in figures:
        cells.append(f"{figures['tflops']:8.2f} TFLOP/s")
    if figures.get("mfu") is not None:
        cells.append(f"MFU {figures['mfu']:6.1%}")
    if figures.get("peak_gib") is not None:
        cells.append(f"{figures['peak_gib']:6.1f} GiB")
    cells += [str(figures["note"])] if figures.get("note") else []
    return f"{name:44s} " + "  ".join(cells)
