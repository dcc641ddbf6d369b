"""Plans as text for a person, and as plain values for `--json`."""

from typing import Any

from pipelines.planning.estimate import ASSUMPTIONS, RunPlan, StepPlan
from pipelines.planning.units import KNOWN, Units
from pipelines.planning.what_if import as_json


def plan_lines(plans: dict[str, RunPlan]) -> list[str]:
    """The plan; with several, one column each for time and cost after the first one's details."""
    base = next(iter(plans.values()))
    lines = _details(base)
    if len(plans) > 1:
        lines += ["", *_columns(plans)]
    lines += ["", *_memory(base), "", *_footer(base)]
    return lines


def _details(plan: RunPlan) -> list[str]:
    money = plan.cluster.currency
    header = ["step", "items", "workers", "nodes", "GB in", "GB out", "CPU-h", "GPU-h", "wall", f"cost {money}", "bottleneck"]
    rows = [header]
    for step in plan.steps:
        load = step.load
        rows.append(
            [
                load.step,
                f"{load.items:,} {load.unit}",
                str(step.placement.workers),
                str(step.placement.nodes),
                amount(load.bytes_in / 1e9),
                amount(load.bytes_out / 1e9),
                amount(step.cpu_h),
                amount(step.gpu_h) if step.gpu_h else "-",
                duration(step.wall_s),
                spread(step.cost_low, step.cost_high),
                step.bottleneck,
            ]
        )
    total = ["all", "", "", "", "", "", amount(sum(s.cpu_h for s in plan.steps)), amount(sum(s.gpu_h for s in plan.steps))]
    rows.append([*total, duration(plan.wall_s), spread(plan.cost_low, plan.cost_high), ""])
    held = f"all {plan.cluster.nodes} nodes held all the time: {spread(plan.held_low, plan.held_high)} {money}"
    starved = [f"starved: {step.starved}" for step in plan.steps if step.starved]
    return [*table(rows, left={0, 1, 10}), held, *starved]


def _columns(plans: dict[str, RunPlan]) -> list[str]:
    names = [step.load.step for step in next(iter(plans.values())).steps]
    for plan in plans.values():
        names += [step.load.step for step in plan.steps if step.load.step not in names]
    rows = [["step", *(f"{what} {label}" for label in plans for what in ("wall", "cost"))]]
    for name in names:
        found = [next((s for s in plan.steps if s.load.step == name), None) for plan in plans.values()]
        cells = [[duration(s.wall_s), spread(s.cost_low, s.cost_high)] if s else ["-", "-"] for s in found]
        rows.append([name, *(cell for pair in cells for cell in pair)])
    sums = [(duration(plan.wall_s), spread(plan.cost_low, plan.cost_high)) for plan in plans.values()]
    rows.append(["all", *(cell for pair in sums for cell in pair)])
    return table(rows, left={0})


def _memory(plan: RunPlan) -> list[str]:
    rows = [["GB per GPU", "ZeRO", "weights", "gradients", "optimiser", "EMA", "casts", "activations", "in all", "of"]]
    for step in plan.steps:
        memory, training = step.memory, step.load.training
        if memory is None or training is None:
            continue
        room = min((group.gpu_memory_gb if step.placement.gpus else group.memory_gb) for group, _ in step.placement.groups)
        parts = [memory.parameters, memory.gradients, memory.optimiser, memory.ema, memory.cast]
        kept = "-" if memory.activations is None else amount(memory.activations)
        rows.append(
            [
                step.load.step,
                str(training.config.zero_stage),
                *map(amount, parts),
                kept,
                spread(memory.total_low, memory.total_high),
                amount(room),
            ]
        )
    if len(rows) == 1:
        return []
    note = "activations of one micro-batch at the most views: a lower bound on paper; the upper end is 1.6 times that. Not measured"
    return [*table(rows, left={0}), note]


def _footer(plan: RunPlan) -> list[str]:
    lines = ["assumptions:"]
    lines += [f"  {text}" for text in (*plan.cluster.assumptions, *ASSUMPTIONS)]
    for step in plan.steps:
        texts = [*step.notes]
        if step.rate is not None:
            texts.insert(0, f"{step.rate.tflops:.3g} TFLOP/s a worker, {step.rate.source}")
        lines += [f"  {step.load.step}: {text}" for text in texts]
    return [*lines, "", *unit_lines(plan.units, {name for step in plan.steps for name in step.load.units})]


def unit_lines(units: Units, used: set[str] | None = None) -> list[str]:
    """The unit costs with where they were measured; a machine is written once."""
    chosen = {name: unit for name, unit in units.units.items() if used is None or name in used}
    rows = [["unit", "median", "smallest", "largest", "n", "dimension", "on"]]
    for name, unit in sorted(chosen.items()):
        figures = [f"{value:.4g}" for value in (unit.median, unit.low, unit.high)]
        rows.append([name, *figures, str(unit.n), KNOWN[name][0], unit.note])
    lines = [f"unit costs of {units.path}:", *table(rows, left={0, 5, 6})]
    loads: dict[tuple[str, ...], list[float]] = {}
    for unit in chosen.values():
        machine, _, load = unit.machine.partition(", load average ")
        loads.setdefault((unit.when[:10], machine, unit.commit), []).append(float(load or "nan"))
    for (when, machine, commit), found in loads.items():
        lines.append(f"measured on {when}: {machine}, load average {spread(min(found), max(found))}, commit {commit[:12]}")
    return lines


def plan_json(plans: dict[str, RunPlan]) -> dict[str, Any]:
    """Everything that the text says, as JSON."""
    return {label: _run_json(plan) for label, plan in plans.items()}


def _run_json(plan: RunPlan) -> dict[str, Any]:
    return {
        "cluster": as_json(plan.cluster),
        "units": {"path": str(plan.units.path), "values": as_json(plan.units.units)},
        "steps": [_step_json(step) for step in plan.steps],
        "wall_s": plan.wall_s,
        "cost": [plan.cost_low, plan.cost_high],
        "cost_held": [plan.held_low, plan.held_high],
        "assumptions": [*plan.cluster.assumptions, *ASSUMPTIONS],
    }


def _step_json(step: StepPlan) -> dict[str, Any]:
    load = step.load
    return {
        "step": load.step,
        "items": load.items,
        "unit": load.unit,
        "workers": step.placement.workers,
        "nodes": step.placement.nodes,
        "bytes_in": load.bytes_in,
        "bytes_out": load.bytes_out,
        "bytes_internet": load.bytes_internet,
        "cpu_h": step.cpu_h,
        "gpu_h": step.gpu_h,
        "wall_s": step.wall_s,
        "cost": [step.cost_low, step.cost_high],
        "bottleneck": step.bottleneck,
        "limits_s": step.limits,
        "memory_gb": None if step.memory is None else as_json(step.memory) | {"low": step.memory.total_low, "high": step.memory.total_high},
        "rate": None if step.rate is None else as_json(step.rate),
        "units": list(load.units),
        "notes": list(step.notes),
        "starved": step.starved,
    }


def table(rows: list[list[str]], left: set[int]) -> list[str]:
    """Aligned columns; those in `left` to the left, others to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(
            cell.ljust(width) if column in left else cell.rjust(width) for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def amount(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def spread(low: float, high: float) -> str:
    return amount(low) if amount(low) == amount(high) else f"{amount(low)} to {amount(high)}"


def duration(seconds: float) -> str:
    """Seconds, minutes, hours or days with three figures."""
    for unit, size in (("d", 86400.0), ("h", 3600.0), ("min", 60.0)):
        if seconds >= 2 * size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.3g} s"
