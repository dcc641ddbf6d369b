"""The run loop: for each step in order decide, lease, run, record. Steps themselves know nothing of this."""

import contextlib
import logging
import time
import traceback
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from infra import logs, nodes
from infra.errors import UserError
from infra.job import Job, Run, SilentRun, Summary
from infra.metrics import measured
from infra.notice import Preempted
from pipelines.artifact import Record, Store
from pipelines.dag import Decision, Step, check_order, decide, decide_all
from pipelines.fingerprint import canonical
from pipelines.lease import Lease

log = logging.getLogger(__name__)

WAYS_ON = "build it again in place with --rerun {step}, keep both with --label NEW_LABEL, or undo the change to go on with what is there"


class Tracking(Protocol):
    """Opens tracking runs; `pipelines.track` provides the MLflow one."""

    def step_run(self, step: Step, label: str, build_id: str) -> Run: ...
    def end_step(self, run: Run, status: str) -> None: ...
    def reused(self, record: Record) -> None: ...


class NoTracking:
    """For tests of the runner alone."""

    def step_run(self, step: Step, label: str, build_id: str) -> Run:
        return SilentRun()

    def end_step(self, run: Run, status: str) -> None:
        pass

    def reused(self, record: Record) -> None:
        pass


@dataclass(frozen=True)
class Plan:
    """Which steps a command may touch, and how.

    Attributes:
        only: run these, skipping what is current; None means all steps.
        rerun: build these again, current or not.
        retry_failed: build these again, keeping everything but their failed items.
    """

    only: frozenset[str] | None = None
    rerun: frozenset[str] = frozenset()
    retry_failed: frozenset[str] = frozenset()

    def touches(self, name: str) -> bool:
        forced = self.rerun | self.retry_failed
        if self.only is None:
            return not forced or name in forced
        return name in self.only or name in forced

    def kind(self, name: str) -> str:
        if name in self.rerun:
            return "rerun"
        return "retry-failed" if name in self.retry_failed else "build"


@dataclass
class Outcome:
    """What `run` did: records of all steps that are finished now, by name, and which of them ran in this call."""

    records: dict[str, Record] = field(default_factory=dict)
    ran: list[str] = field(default_factory=list)


def refuse_changes(decisions: list[Decision], plan: Plan, label: str) -> None:
    """Stop before any work when a finished label no longer fits the recipe. Raises UserError with the difference."""
    for decision in decisions:
        name = decision.step.name
        if decision.state == "changed" and plan.touches(name) and plan.kind(name) == "build":
            raise UserError(
                f"step {name} was finished under label '{label}' with other settings: {decision.reason}", WAYS_ON.format(step=name)
            )


def run(steps: list[Step], label: str, store: Store, plan: Plan, tracking: Tracking, wait: bool = False) -> Outcome:
    """Bring the touched steps up to date, in order.

    Raises:
        UserError: settings changed under a finished label, a needed input is missing, a lease is held by
            someone else, or a step refused its input. Whatever finished before stays finished.
    """
    check_order(steps)
    refuse_changes(decide_all(steps, label, store), plan, label)
    outcome = Outcome()
    for step in steps:
        decision = decide(step, label, store, outcome.records)
        kind = plan.kind(step.name)
        if not plan.touches(step.name):
            # An untouched step is used as it stands, current or not: the user asked for the touched ones alone.
            if decision.record is not None:
                outcome.records[step.name] = decision.record
            continue
        if decision.state == "done" and kind == "build" and decision.record is not None:
            outcome.records[step.name] = decision.record
            tracking.reused(decision.record)
            say(f"[{step.name}] {decision.reason}: {store.data(decision.record).shown}")
            continue
        if decision.state == "waiting":
            raise UserError(
                f"step {step.name} needs {decision.reason.removeprefix('after ')}, which is not built",
                "run those steps first, or run without --only",
            )
        if decision.fingerprint is None or (decision.state == "changed" and kind == "build"):
            raise UserError(f"step {step.name}: {decision.reason}", WAYS_ON.format(step=step.name))
        outcome.records[step.name] = _build(decision, kind, label, store, tracking, outcome.records, wait)
        outcome.ran.append(step.name)
    return outcome


def _build(decision: Decision, kind: str, label: str, store: Store, tracking: Tracking, finished: dict[str, Record], wait: bool) -> Record:
    """Run one step under its lease and commit its record."""
    step = decision.step
    assert decision.fingerprint is not None
    folder = store.folder(step.name, label)
    with Lease(folder / "lease.json", f"{step.name} under label '{label}'", wait, say) as lease, contextlib.ExitStack() as told:
        if kind == "build":
            # Another driver may have finished it while we waited.
            ready = store.find(step.name, decision.fingerprint, label)
            if ready is not None:
                return ready
        building = store.open_build(step.name, label, decision.fingerprint, kind)
        told.enter_context(logs.working_on(step=step.name, label=label, build=building.build_id))
        meter = told.enter_context(measured(step.name, label))
        say(f"[{step.name}] {decision.reason if kind == 'build' else kind} -> {(folder / building.build_id).shown}")
        run_ = tracking.step_run(step, label, building.build_id)
        started, gone = time.time(), nodes.lost()
        job = Job(
            resources=step.resources,
            cache=store.cache(step.name),
            build_id=building.build_id,
            run=run_,
            fresh_since=building.started_at if kind == "rerun" else None,
            retry_failed=kind == "retry-failed",
            meter=meter,
        )
        try:
            summary = step.run(step.config, **_locations(step, store, finished), out=folder / building.build_id, job=job)
            _check_failures(step, summary)
            if not lease.is_held():
                raise UserError(f"the lease of {step.name} was taken over while this process was suspended", "let the other driver finish")
        except BaseException as error:
            text = str(error) if isinstance(error, UserError) else "".join(traceback.format_exception_only(error)).strip()
            # Nothing failed in a step that was told to end: it is interrupted, and `status` says so.
            failure = None if isinstance(error, Preempted) else text[-2000:] or type(error).__name__
            with contextlib.suppress(OSError):  # a full disk takes no note either; what went wrong is raised below
                store.note_building(step.name, label, replace(building, failure=failure))
            if logs.is_json():  # people see the traceback, or what there is to mend
                log.error("%s failed: %s", step.name, text, exc_info=error)
            tracking.end_step(run_, "KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED")
            raise
        lost = {"lost_nodes": count} if (count := len(nodes.lost() - gone)) else {}
        record = Record(
            step=step.name,
            label=label,
            build_id=building.build_id,
            fingerprint=decision.fingerprint,
            version=step.version,
            config=canonical(step.config),
            inputs=decision.inputs,
            completed=summary.completed,
            failed=summary.failed,
            rejected=summary.rejected,
            facts=summary.facts | lost,
            started_at=started,
            seconds=round(time.time() - started, 3),
            run_id=run_.run_id,
        )
        old = store.record(step.name, label)
        store.commit(record)
        meter.settle(summary.tally)
        tracking.end_step(run_, "FINISHED")
        if old is not None and old.build_id != record.build_id:
            # Readers of the replaced build are steps below, which are stale now; nothing else refers to it.
            (folder / old.build_id).delete()
        failed = f", {summary.failed} failed" if summary.failed else ""
        rejected = f", {summary.rejected} rejected" if summary.rejected else ""
        say(f"[{step.name}] {summary.completed} completed{failed}{rejected} in {record.seconds:.1f} s")
        return record


def _locations(step: Step, store: Store, finished: dict[str, Record]) -> dict[str, Any]:
    """Role -> Location, or role -> {key: Location}."""
    places: dict[str, Any] = {}
    for role, source in step.inputs.items():
        if isinstance(source, str):
            places[role] = store.data(finished[source])
        else:
            places[role] = {key: store.data(finished[name]) for key, name in source.items()}
    return places


def _check_failures(step: Step, summary: Summary) -> None:
    tried = summary.completed + summary.failed
    if tried and summary.failed / tried > step.max_failed_fraction:
        raise UserError(
            f"{summary.failed} of {tried} items failed in {step.name}, more than the allowed share of {step.max_failed_fraction:g}",
            f"see the reasons in its ledger, then --retry-failed {step.name}, or raise max_failed_fraction",
        )


def say(text: str) -> None:
    """One line for the person watching; stdout is kept for results."""
    logs.say(text)
