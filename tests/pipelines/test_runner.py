"""The runner against a real store with a toy graph of plain functions."""

import multiprocessing
import os
import signal
import time
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from infra.errors import UserError
from infra.job import Job, Summary
from infra.storage import Location
from pipelines.artifact import Store
from pipelines.dag import Step, decide_all, select
from pipelines.fingerprint import canonical, digest
from pipelines.lease import Lease
from pipelines.runner import NoTracking, Plan, run


@dataclass(frozen=True)
class Count:
    items: int = 3
    note: str = ""


@dataclass(frozen=True)
class Total:
    factor: int = 1


def make_items(config: Count, *, out: Location, job: Job) -> Summary:
    made = 0
    for item in range(config.items):
        piece = job.cache / f"{item}.json"
        if piece.exists() and (job.fresh_since is None or piece.read_json()["at"] >= job.fresh_since):
            continue
        piece.write_json({"at": time.time(), "item": item})
        made += 1
    (out / "items.json").write_json(list(range(config.items)))
    return Summary(config.items, facts={"made": made})


def add_up(config: Total, *, items: Location, out: Location, job: Job) -> Summary:
    (out / "total.json").write_json(sum((items / "items.json").read_json()) * config.factor)
    return Summary(1)


def fail_once(config: Total, *, items: Location, out: Location, job: Job) -> Summary:
    marker = out / "half.json"
    if not marker.exists():
        marker.write_json(job.build_id)
        raise RuntimeError("power cut")
    assert marker.read_json() == job.build_id
    return Summary(1)


def graph(items: int = 3, factor: int = 1) -> list[Step]:
    return [
        Step("items", make_items, Count(items), "data"),
        Step("total", add_up, Total(factor), "eval", {"items": "items"}),
    ]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(Location(str(tmp_path / "store")))


def go(steps, store, label="a", **plan):
    return run(steps, label, store, Plan(**{k: v if v is None else frozenset(v) for k, v in plan.items()}), NoTracking())


def states(steps, store, label="a"):
    return {d.step.name: d.state for d in decide_all(steps, label, store)}


def test_second_run_does_nothing(store):
    assert go(graph(), store).ran == ["items", "total"]
    assert go(graph(), store).ran == []


def test_new_label_reuses_what_is_the_same_and_redoes_what_hangs_below(store):
    first = go(graph(), store)
    second = go(graph(factor=2), store, label="b")
    assert second.ran == ["total"]
    assert second.records["items"] == first.records["items"]
    assert (store.data(second.records["total"]) / "total.json").read_json() == 6


def test_changed_settings_under_a_finished_label_stop_with_the_difference(store):
    go(graph(), store)
    with pytest.raises(UserError, match=r"items: 3 -> 4") as caught:
        go(graph(items=4), store)
    assert "--rerun items" in str(caught.value) and "--label" in str(caught.value)


def test_changed_step_version_stops_too(store):
    go(graph(), store)
    steps = graph()
    steps[1] = replace(steps[1], version=2)
    with pytest.raises(UserError, match="step version: 1 -> 2"):
        go(steps, store)


def test_rerun_touches_only_that_step_and_makes_those_below_stale(store):
    first = go(graph(), store)
    second = go(graph(), store, rerun={"items"})
    assert second.ran == ["items"]
    assert second.records["items"].build_id != first.records["items"].build_id
    assert second.records["items"].facts["made"] == 3, "a rerun must not take old pieces"
    assert states(graph(), store) == {"items": "done", "total": "stale"}
    assert go(graph(), store).ran == ["total"]


def test_growing_uses_finished_pieces(store):
    go(graph(items=3), store)
    grown = go(graph(items=5), store, label="b")
    assert grown.records["items"].facts["made"] == 2


def test_only_skips_what_is_current_and_refuses_missing_inputs(store):
    with pytest.raises(UserError, match="needs items"):
        go(graph(), store, only={"total"})
    go(graph(), store)
    assert go(graph(), store, only={"total"}).ran == []


def test_failed_step_leaves_its_reason_and_is_continued(store):
    steps = [graph()[0], Step("total", fail_once, Total(), "eval", {"items": "items"})]
    with pytest.raises(RuntimeError, match="power cut"):
        go(steps, store)
    assert "power cut" in store.building("total", "a").failure
    assert go(steps, store).ran == ["total"]
    assert store.building("total", "a") is None


def test_too_many_failed_items_do_not_finish(store):
    def mostly_bad(config, *, out, job):
        return Summary(1, failed=3)

    with pytest.raises(UserError, match="3 of 4 items failed"):
        go([Step("bad", mostly_bad, Total(), "data")], store)
    assert store.record("bad", "a") is None


def _hold(place: str, ready) -> None:
    with Lease(Location(place), "work"):
        ready.set()
        time.sleep(60)


def test_a_lease_is_refused_while_its_holder_lives_and_taken_when_it_is_killed(tmp_path):
    place = Location(str(tmp_path / "lease.json"))
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    holder = context.Process(target=_hold, args=(str(place), ready))
    holder.start()
    assert ready.wait(30)
    with pytest.raises(UserError, match=f"process {holder.pid} on"), Lease(place, "work"):
        pass
    os.kill(holder.pid, signal.SIGKILL)
    holder.join()
    with Lease(place, "work") as lease:
        assert lease.is_held()
    assert not place.exists()


def test_unknown_step_names_the_nearest(store):
    with pytest.raises(UserError, match="did you mean 'total'"):
        select(graph(), ["totl"])
    assert select(graph(), ["eval"]) == {"total"}


def test_labels_are_plain_names(store):
    with pytest.raises(UserError, match="not a valid label"):
        go(graph(), store, label="../elsewhere")


def test_fingerprint_refuses_unknown_types_and_follows_content(tmp_path):
    with pytest.raises(TypeError):
        canonical({"x": object()})
    assert digest(Count()) != digest(Count(items=4))
    assert digest(Count()) == digest({"items": 3, "note": ""})
