"""`mvforge chaos`: passes under faults until enough were injected, and the table of what they cost."""

import argparse
import dataclasses
import signal
import time
from pathlib import Path
from typing import Any

from infra.errors import UserError
from pipelines import graph, recipes
from pipelines.chaos import one_pass, table
from pipelines.chaos.faults import KINDS, Durations
from pipelines.chaos.ledger import INJECTED, FaultRow, Ledger, PassRow
from pipelines.chaos.one_pass import Course
from pipelines.chaos.schedule import plan
from pipelines.dag import select
from pipelines.runner import say

# About a third of the planned faults find nothing to hit at their time: a pass for the last one alone would be one for nothing.
PLANNED_FOR_ONE = 3


def run_chaos(options: argparse.Namespace) -> dict[str, Any]:
    """The `chaos` verb.

    Raises:
        UserError: an unknown kind or step, or a folder that was begun with other settings.
    """
    # A pass that is stopped takes its processes down with it.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    kinds = _kinds(options.kinds)
    steps = graph.build(recipes.by_name(options.recipe))
    chosen = select(steps, options.only) or {step.name for step in steps}
    names = [step.name for step in steps if step.name in chosen]
    out = options.out.absolute()
    durations = Durations(options.pause, options.disk_full, options.outage)
    settings = {
        "recipe": options.recipe,
        "steps": names,
        "seed": options.seed,
        "kinds": kinds,
        "durations": dataclasses.asdict(durations),
    }
    ledger = Ledger(out, settings)
    only = [word for step in options.only for word in ("--only", step)]
    course = Course(out, options.recipe, only, names, options.seed, durations, say)
    began = time.monotonic()
    reference = options.reference.absolute() if options.reference else _reference(course)
    broken: list[str] = []
    while not broken and len(ledger.counted()) < options.faults and time.monotonic() - began < options.minutes * 60:
        broken = _pass(course, ledger, kinds, options, reference).broken
        table.publish(out, table.summary(ledger, settings))
    figures = table.summary(ledger, settings)
    table.publish(out, figures)
    if not options.json:
        print(table.markdown(figures))
        for sentence in broken:
            print(f"does not hold: {sentence}")
    return figures | {"out": str(out), "broken": broken}


def _kinds(text: str) -> list[str]:
    kinds = [word for word in text.split(",") if word] or list(KINDS)
    if unknown := [kind for kind in kinds if kind not in KINDS]:
        raise UserError(f"there is no kind of fault '{unknown[0]}'", f"choose from {', '.join(KINDS)}")
    return kinds


def _reference(course: Course) -> Path:
    """The store of the undisturbed run, which is made unless it is there.

    Raises:
        UserError: the undisturbed run itself does not hold.
    """
    done = course.out / "reference" / "held"
    store = course.out / "reference" / "store"
    if not done.exists():
        row = one_pass.run_pass(course, 0, [], None, lambda fault: None)
        if row.broken:
            raise UserError(f"the undisturbed run does not hold: {'; '.join(row.broken)}", f"see {course.out / 'reference' / 'logs'}")
        done.write_text(f"{row.seconds}\n")
        course.say(f"undisturbed: {row.seconds:.0f} s with its checks")
    return store


def _pass(course: Course, ledger: Ledger, kinds: list[str], options: argparse.Namespace, reference: Path) -> PassRow:
    number = ledger.next_number()
    count = min(options.per_pass, PLANNED_FOR_ONE * (options.faults - len(ledger.counted())))
    planned = plan(course.seed, number, course.steps, kinds, ledger.by_kind(), count)
    injected = 0

    def report(row: FaultRow) -> None:
        nonlocal injected
        injected += row.state == INJECTED
        ledger.add(row)

    row = one_pass.run_pass(course, number, planned, reference, report)
    row = dataclasses.replace(row, injected=injected)
    ledger.add(row)
    verdict = "holds" if not row.broken else f"does not hold: {'; '.join(row.broken)}"
    course.say(f"pass {number}: {injected} faults in {row.seconds:.0f} s, {verdict}")
    return row
