"""Steps, and the decision what each one needs: nothing, a reuse, a build. Building a `Step` runs nothing."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from infra.errors import UserError
from infra.job import Resources, Summary
from pipelines.artifact import InputRef, Record, Store
from pipelines.fingerprint import canonical, difference, digest

Inputs = dict[str, "str | dict[str, str]"]


@dataclass(frozen=True)
class Step:
    """One node of the graph.

    Attributes:
        name: unique, for example `train.unet1`.
        run: the step function, `run(config, *, <role>=Location, out=Location, job=Job) -> Summary`.
        config: typed configuration; part of the fingerprint.
        inputs: role -> step name, or role -> {key: step name} for a role that takes several.
        outside: role -> digest of something outside the store that the step reads (a folder of source files); a
            change there makes the step stale, as a rebuilt input does.
        version: raised by hand when the step's output changes meaning; part of the fingerprint.
        group: `data`, `train` or `eval`.
        resources: how much to run it with; never part of the fingerprint.
        max_failed_fraction: above this share of failed items the step does not finish.
    """

    name: str
    run: Callable[..., Summary]
    config: Any
    group: str
    inputs: Inputs = field(default_factory=dict)
    outside: dict[str, str] = field(default_factory=dict)
    version: int = 1
    resources: Resources = Resources()
    max_failed_fraction: float = 0.5

    def upstream(self) -> dict[str, str]:
        """Flat role -> step name; several inputs of one role appear as `role.key`."""
        flat: dict[str, str] = {}
        for role, source in self.inputs.items():
            if isinstance(source, str):
                flat[role] = source
            else:
                flat |= {f"{role}.{key}": name for key, name in source.items()}
        return flat


@dataclass(frozen=True)
class Decision:
    """What the store says about a step under a label.

    state is one of
        done     a finished build with this fingerprint exists (`record`), perhaps under another label
        missing  nothing was built under this label
        stale    a finished build exists, but an input was rebuilt since
        changed  a finished build exists, but the recipe or the step's version differs (`reason` says where)
        waiting  an input is not finished, so nothing can be said yet
    """

    step: Step
    state: str
    reason: str
    record: Record | None = None
    fingerprint: str | None = None
    inputs: dict[str, InputRef] = field(default_factory=dict)


def check_order(steps: list[Step]) -> None:
    """Every input names an earlier step. Raises ValueError otherwise (a mistake in the graph's code)."""
    seen: set[str] = set()
    for step in steps:
        for role, name in step.upstream().items():
            if name not in seen:
                raise ValueError(f"step {step.name} reads {role} from {name}, which does not come before it")
        if step.name in seen:
            raise ValueError(f"two steps are called {step.name}")
        seen.add(step.name)


def decide(step: Step, label: str, store: Store, finished: dict[str, Record]) -> Decision:
    """The state of one step, given the finished builds of the steps above it."""
    config = canonical(step.config)
    own = store.record(step.name, label)
    waiting = sorted({name for name in step.upstream().values() if name not in finished})
    if waiting:
        changes = _changes(own, step, config) if own is not None else []
        if changes:
            return Decision(step, "changed", "; ".join(changes), own)
        return Decision(step, "waiting", f"after {', '.join(waiting)}", own)
    inputs = {role: _reference(finished[name]) for role, name in step.upstream().items()}
    inputs |= {role: InputRef("outside", role, state) for role, state in step.outside.items()}
    fingerprint = digest({"config": config, "version": step.version, "inputs": {r: ref.build_id for r, ref in inputs.items()}})
    record = store.find(step.name, fingerprint, label)
    if record is not None:
        reason = "up to date" if record.label == label else f"same build found under label {record.label}"
        return Decision(step, "done", reason, record, fingerprint, inputs)
    if own is None:
        return Decision(step, "missing", "never built under this label", None, fingerprint, inputs)
    changes = _changes(own, step, config)
    if changes:
        return Decision(step, "changed", "; ".join(changes), own, fingerprint, inputs)
    other = [
        role if inputs[role].step == "outside" else f"{role} ({inputs[role].step})"
        for role in inputs
        if own.inputs.get(role) != inputs[role]
    ]
    return Decision(step, "stale", f"changed since: {', '.join(other)}", own, fingerprint, inputs)


def _reference(record: Record) -> InputRef:
    return InputRef(record.step, record.label, record.build_id)


def _changes(own: Record, step: Step, config: Any) -> list[str]:
    lines = difference(own.config, config)
    if own.version != step.version:
        lines.append(f"step version: {own.version} -> {step.version}")
    return lines


def decide_all(steps: list[Step], label: str, store: Store) -> list[Decision]:
    """Decisions for all steps in order; a step that must be built makes those below wait for it."""
    finished: dict[str, Record] = {}
    decisions = []
    for step in steps:
        decision = decide(step, label, store, finished)
        if decision.state == "done" and decision.record is not None:
            finished[step.name] = decision.record
        decisions.append(decision)
    return decisions


def select(steps: list[Step], names: list[str]) -> set[str]:
    """Step names, group names (`data`, `train`, `eval`) or a prefix such as `train.` -> the steps meant.

    Raises:
        UserError: a name that fits nothing, with the nearest valid one.
    """
    from difflib import get_close_matches

    chosen: set[str] = set()
    for name in names:
        hits = {step.name for step in steps if name in (step.name, step.group)}
        if not hits:
            valid = [step.name for step in steps] + sorted({step.group for step in steps})
            near = get_close_matches(name, valid, n=1)
            raise UserError(
                f"there is no step or group '{name}'" + (f"; did you mean '{near[0]}'?" if near else ""), f"choose from {', '.join(valid)}"
            )
        chosen |= hits
    return chosen
