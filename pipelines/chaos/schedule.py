"""Which faults a pass gets, in which step and how late: drawn by the seed, evenly over the kinds."""

from collections import Counter
from dataclasses import dataclass
from random import Random

from infra.seeds import seed_for
from pipelines.chaos.faults import KINDS

# Steps by how long they last: at most so many faults in one, and whether they may come in the middle of its work.
LONG, MIDDLE = ("train",), ("render", "encode", "generate")
MOST_IN_LONG, MOST_IN_MIDDLE, MOST_IN_SHORT = 6, 4, 2
BRIEF = ("catalog", "gate")
AT_THE_START = 0.4  # share of faults in longer steps that come while these start, which is most of the time of a small one
DELAY_S = 1.0
AT_ONCE = 0.3  # share of faults that do not wait for the recovery from the one before


@dataclass(frozen=True)
class Planned:
    """A fault to come.

    Attributes:
        kind, step: names.
        work: share of the step's work, 0..1, that is finished before it comes.
        delay: 0..1 of `DELAY_S`, counted from when so much is finished and there is something to hit.
        at_once: it does not wait until the work has got over the fault before.
    """

    kind: str
    step: str
    work: float
    delay: float
    at_once: bool


def most_in(step: str) -> int:
    """How many faults a step may get."""
    family = step.partition(".")[0]
    return MOST_IN_LONG if family in LONG else MOST_IN_MIDDLE if family in MIDDLE else MOST_IN_SHORT


def _fits(kind: str, step: str) -> bool:
    return KINDS[kind].fits(step) and step not in BRIEF


def plan(seed: int, number: int, steps: list[str], kinds: list[str], done: Counter[str], count: int) -> list[Planned]:
    """At most `count` faults for pass `number`, in the order of the steps. Kinds with the fewest faults so far come first.

    Args:
        steps: of the run, in order; `BRIEF` ones are over before anything could hit them.
        done: how often each kind was injected by now.
    """
    random = Random(seed_for(seed, "chaos", number))
    had, per_step, chosen = Counter(done), Counter[str](), list[Planned]()
    while len(chosen) < count:
        open_to = {kind: [step for step in steps if _fits(kind, step) and per_step[step] < most_in(step)] for kind in kinds}
        possible = [kind for kind in kinds if open_to[kind]]
        if not possible:
            break
        fewest = min(had[kind] for kind in possible)
        kind = random.choice(sorted(each for each in possible if had[each] == fewest))
        step = random.choice(open_to[kind])
        had[kind] += 1
        per_step[step] += 1
        work = random.uniform(0, KINDS[kind].until) * (random.random() >= AT_THE_START) * (most_in(step) > MOST_IN_SHORT)
        chosen.append(Planned(kind, step, work, random.random(), random.random() < AT_ONCE))
    return sorted(chosen, key=lambda each: (steps.index(each.step), each.work))
