"""`mvforge status`, and with `--watch` the same again and again in place, with rates, time left, failures by reason and cost so far."""

import argparse
import json
import os
import shutil
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from infra.errors import UserError
from pipelines import buffered, graph
from pipelines.commands import steps
from pipelines.context import Context
from pipelines.cost_so_far import ASSUMPTIONS, Cost, Spent, cost_so_far
from pipelines.dag import Decision, Step, decide_all
from pipelines.lease import read_holder
from pipelines.planning.cluster_file import Cluster, read_cluster
from pipelines.step_progress import Progress, step_progress

COLUMNS = ("step", "state", "done", "failed", "rate", "left", "elapsed", "detail")
# A refresh lists folders; however many files they hold, at most a tenth of the time goes there.
LISTING_SHARE = 0.1
CLUSTER_VARIABLE = "MVFORGE_CLUSTER"
UNKNOWN_COST = "unknown (give --cluster)"


@dataclass(frozen=True)
class Line:
    """One step as it stands.

    Attributes:
        done, total, failed: items of `unit`; None where not known.
        reasons: failures by reason.
        elapsed_s: since the present attempt began, or how long the finished build took.
        last_s: how long the newest earlier build of this step took in this store.
        spent_s: how long it ran under this label: its finished build and the attempt in progress.
    """

    step: str
    state: str
    unit: str
    done: int | None
    total: int | None
    failed: int | None
    reasons: dict[str, int]
    per_s: float | None
    seconds_left: float | None
    elapsed_s: float | None
    last_s: float | None
    spent_s: float
    detail: str


def status(options: argparse.Namespace) -> dict[str, Any]:
    """The `status` verb, with and without `--watch`.

    Raises:
        UserError: `--watch` for one step, or with an interval that is no positive number; or a cluster file that cannot be used.
    """
    if not options.watch and options.cluster is not None:
        raise UserError("--cluster is for the cost that --watch shows", "add --watch, or leave --cluster out")
    if not options.watch:
        return steps.show_status(options)
    if options.recipe == "render" or options.step is not None:
        raise UserError("--watch shows all steps of a recipe", "for example: mvforge status tiny --watch")
    if not options.interval > 0:
        raise UserError(f"--interval {options.interval:g} is no time to wait", "give seconds, for example 2")
    context = Context.open(options.recipe, options.sets, options.label, options.store)
    file = options.cluster or (Path(os.environ[CLUSTER_VARIABLE]) if os.environ.get(CLUSTER_VARIABLE) else None)
    prices = read_cluster(file) if file is not None else None
    as_json, options.json = options.json, False  # one line a refresh, and no result after them
    show = _JsonLines() if as_json else _InPlace() if sys.stdout.isatty() else _Changes()
    try:
        _refresh(context, show, prices, options.interval, options.refreshes)
    except KeyboardInterrupt:
        show.end()
    return {}


def _refresh(context: Context, show: "_Show", prices: Cluster | None, interval: float, refreshes: int | None) -> None:
    nodes, count = graph.build(context.recipe), 0
    resources = {node.name: node.resources for node in nodes}
    while True:
        began = time.monotonic()
        lines = snapshot(context, nodes)
        spent = [Spent(line.step, resources[line.step], line.spent_s) for line in lines]
        show.lines(context, lines, cost_so_far(spent, prices) if prices is not None else None)
        count += 1
        if refreshes is not None and count >= refreshes:
            show.end()
            return
        took = time.monotonic() - began
        time.sleep(max(interval - took, took / LISTING_SHARE - took, 0.0))


def snapshot(context: Context, nodes: list[Step]) -> list[Line]:
    """All steps as the store tells now."""
    for _ in range(3):
        try:
            return [_line(context, each) for each in decide_all(nodes, context.label, context.store)]
        except FileNotFoundError:
            continue  # a note went between two looks, because a step has just ended
    return [_line(context, each) for each in decide_all(nodes, context.label, context.store)]


def _line(context: Context, decision: Decision) -> Line:
    row, name = steps.status_row(context, decision), decision.step.name
    store, label, record = context.store, context.label, decision.record
    building, made = store.building(name, label), None
    holder = read_holder(store.folder(name, label) / "lease.json")
    if holder is not None and holder.is_gone():
        holder = None
    if building is not None:
        made = step_progress(store, name, label, building, holder, getattr(decision.step.config, "steps", None))
    elif record is not None:
        made = _finished(row, record.facts)
    elapsed = time.time() - holder.since if holder is not None else None
    if elapsed is None and building is None and record is not None:
        elapsed = record.seconds
    # A record under another label was paid for there; beside a build in progress an older one may be finished.
    own = record.seconds if record is not None and record.label == label else 0.0
    spent = own + (time.time() - holder.since if holder is not None else 0.0)
    made = made or Progress("", 0)
    known = bool(made.unit)
    return Line(
        step=name,
        state=row["state"],
        unit=made.unit,
        done=made.done if known else None,
        total=made.total,
        failed=made.failed,
        reasons=made.reasons,
        per_s=made.per_s,
        seconds_left=made.seconds_left,
        elapsed_s=None if elapsed is None else round(elapsed, 1),
        last_s=steps.last_seconds(store, name) if holder is not None else None,
        spent_s=round(spent, 3),
        detail=_detail(row, made),
    )


def _finished(row: dict[str, Any], facts: dict[str, Any]) -> Progress:
    reasons = facts.get("reasons")
    counted = {str(k): int(v) for k, v in reasons.items() if isinstance(v, int)} if isinstance(reasons, dict) else {}
    return Progress("items", row["completed"] or 0, None, row["failed"], counted)


def _detail(row: dict[str, Any], made: Progress) -> str:
    reasons = ", ".join(f"{reason} {count}" for reason, count in made.reasons.items())
    if row["state"] == "done":
        return reasons
    return "; ".join(part for part in (reasons, row["detail"], made.note) if part)


class _Show:
    """Where refreshes go."""

    def lines(self, context: Context, lines: list[Line], cost: Cost | None) -> None:
        raise NotImplementedError

    def end(self) -> None:
        """Nothing more comes."""


class _JsonLines(_Show):
    """One JSON object a refresh and line."""

    def lines(self, context: Context, lines: list[Line], cost: Cost | None) -> None:
        told = {"assumptions": ASSUMPTIONS, **asdict(cost)} if cost is not None else None
        body = {"time": round(time.time(), 3), "recipe": context.recipe.name, "label": context.label, "cost": told}
        body["steps"] = [asdict(line) for line in lines]
        print(json.dumps(body, sort_keys=True), flush=True)


class _Changes(_Show):
    """For logs: a line for every step that is not as it was."""

    def __init__(self) -> None:
        self.before: dict[str, tuple[Any, ...]] = {}

    def lines(self, context: Context, lines: list[Line], cost: Cost | None) -> None:
        changed = False
        for line in lines:
            now = (line.state, line.done, line.total, line.failed, line.reasons)
            if self.before.get(line.step) != now:
                self.before[line.step], changed = now, True
                text = "  ".join(cell for cell in _cells(line) if cell)
                print(f"{time.strftime('%H:%M:%S')}  {text}", flush=True)
        if changed and cost is not None:
            print(f"{time.strftime('%H:%M:%S')}  cost so far: {cost}", flush=True)


class _InPlace(_Show):
    """For terminals: the table again at the same place, cut to the window."""

    def __init__(self) -> None:
        self.height = 0

    def lines(self, context: Context, lines: list[Line], cost: Cost | None) -> None:
        size = shutil.get_terminal_size()
        counts = {state: sum(line.state == state for line in lines) for state in dict.fromkeys(line.state for line in lines)}
        head = f"recipe {context.recipe.name}, label {context.label}, store {context.store.root.shown}   {time.strftime('%H:%M:%S')}"
        text = [
            head,
            ", ".join(f"{count} {state}" for state, count in counts.items()),
            "",
            *table(lines),
            *filter(None, [buffered.waiting_text(context.store.root, context.tracking_uri)]),
            "",
            f"cost so far: {cost or UNKNOWN_COST}",
            "Ctrl-C ends the view, no run",
        ]
        text = [line[: max(size.columns - 1, 1)] for line in text[: max(size.lines - 1, 1)]]
        up = f"\x1b[{self.height}F" if self.height else ""
        sys.stdout.write(up + "".join(f"{line}\x1b[K\n" for line in text) + "\x1b[J")
        sys.stdout.flush()
        self.height = len(text)

    def end(self) -> None:
        # The cursor stands below the table, also after the terminal's own ^C.
        sys.stdout.write("\r\x1b[K")
        sys.stdout.flush()


def table(lines: list[Line]) -> list[str]:
    """The steps in columns, with their names above."""
    cells = [COLUMNS, *(_cells(line) for line in lines)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(COLUMNS))]
    return ["  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in cells]


def _cells(line: Line) -> tuple[str, ...]:
    done = "" if line.done is None else f"{line.done:,}" + (f" of {line.total:,}" if line.total is not None else "") + f" {line.unit}"
    failed = f"{line.failed:,} failed" if line.failed else ""
    left = _duration(line.seconds_left)
    return (
        line.step,
        line.state,
        done,
        failed,
        rate(line.per_s),
        f"{left} left" if left else f"last time {_duration(line.last_s)}" if line.last_s is not None else "",
        _duration(line.elapsed_s),
        line.detail,
    )


def rate(per_s: float | None) -> str:
    """A speed in the unit that gives a readable number."""
    if per_s is None:
        return ""
    for count, unit in ((1.0, "s"), (60.0, "min"), (3600.0, "h")):
        if per_s * count >= 1:
            return f"{per_s * count:.1f}/{unit}"
    return f"{per_s * 86400:.2g}/day"


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return ""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, hours = int(seconds // 60), int(seconds // 3600)
    if minutes < 60:
        return f"{minutes} min {int(seconds % 60):02d} s"
    return f"{hours} h {minutes % 60:02d} min"
