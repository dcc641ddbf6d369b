"""Prometheus metrics: scraped over HTTP from a real Ray agent while and after steps run, and as a text file without Ray."""

import re
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import ray
import requests
from prometheus_client.parser import text_string_to_metric_families

from infra import metrics, metrics_export
from infra.job import Job, Resources, Summary
from infra.metrics import METRICS, MOST_REASONS, Meter, Tally, measured
from infra.metrics_export import FILE_VARIABLE, REGISTRY
from infra.storage import Location
from pipelines.artifact import Store
from pipelines.dag import Step
from pipelines.runner import NoTracking, Plan, run
from rendering import render
from tests.conftest import ROOT
from tests.rendering.test_render import TINY, manifest, save

Series = dict[tuple[tuple[str, str], ...], float]
ARRIVES_S = 40.0


def parsed(text: str, name: str, **wanted: str) -> Series:
    """The series of a metric with these labels; only the labels that we give are kept, and the runs of a cluster are summed."""
    own = METRICS[name.removeprefix("ray_")].labels
    found: Counter[tuple[tuple[str, str], ...]] = Counter()
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name == name and wanted.items() <= sample.labels.items():
                found[tuple(sorted((key, sample.labels[key]) for key in own))] += sample.value
    return dict(found)


def scraped() -> str:
    """What Prometheus would read of this node."""
    (node,) = [node for node in ray.nodes() if node["Alive"]]
    answer = requests.get(f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics", timeout=10)
    answer.raise_for_status()
    return answer.text


def awaited(found: Callable[[str], Series]) -> Series:
    deadline = time.monotonic() + ARRIVES_S
    while time.monotonic() < deadline:
        if series := found(scraped()):
            return series
        time.sleep(0.5)
    raise AssertionError(f"nothing after {ARRIVES_S} s")


def by(series: Series, *names: str) -> dict[tuple[str, ...], float]:
    return {tuple(dict(labels)[name] for name in names): value for labels, value in series.items()}


@pytest.mark.ray
@pytest.mark.blender
def test_a_rendering_is_counted_as_its_ledger_counts_it(ray_cluster, tmp_path):
    def meshes(config, *, out: Location, job: Job) -> Summary:
        rows = manifest(tmp_path / "files", 2, bad=("broken",))
        lost = {**rows[0], "uid": "lost", "status": "failed", "reason": "http_404", "detail": "not found", "path": None, "sha256": None}
        save([*rows, lost], Path(out.path))
        return Summary(3, failed=1, facts={"reasons": {"http_404": 1}})

    steps = [
        Step("fetch", meshes, {}, "data"),
        Step("render", render.run, TINY, "data", {"meshes": "fetch"}, resources=Resources(workers=1)),
    ]
    store, label = Store(Location(str(tmp_path / "store"))), "counted"
    made = run(steps, label, store, Plan(), NoTracking()).records["render"]
    ended = awaited(lambda text: parsed(text, "ray_mvforge_steps_total", label=label, step="render"))
    assert by(ended, "status") == {("finished",): 1.0}
    text = scraped()
    rows = (store.data(made) / "ledger.parquet").read_table().to_pylist()
    ledger = Counter((row["status"], row["reason"] or "") for row in rows)
    assert ledger == {("ok", ""): 2, ("failed", "truncated"): 1, ("failed", "http_404"): 1}
    assert by(parsed(text, "ray_mvforge_items_total", label=label, step="render"), "status", "reason") == ledger
    assert by(parsed(text, "ray_mvforge_views_total", label=label), "step") == {("render",): sum(row["views"] for row in rows)}
    assert by(parsed(text, "ray_mvforge_items_total", label=label, step="fetch"), "status") == {("ok",): 3, ("failed",): 1}
    # Objects have names of their own, and none of them became a label.
    ours = "\n".join(line for line in text.splitlines() if "mvforge_" in line)
    assert ours and not re.search("toy0|toy1|broken|lost", ours)
    # A second run takes everything over: nothing is counted as made.
    run(steps, label, store, Plan(rerun=frozenset({"fetch"})), NoTracking())
    run(steps, label, store, Plan(), NoTracking())
    kept = awaited(lambda text: parsed(text, "ray_mvforge_items_total", label=label, step="render", status="kept"))
    assert by(kept, "status") == {("kept",): 2.0}
    assert by(parsed(scraped(), "ray_mvforge_items_total", label=label, step="render"), "status")[("ok",)] == 2.0


@pytest.mark.ray
def test_gauges_stay_while_their_step_runs_and_go_with_it(ray_cluster, tmp_path, monkeypatch):
    """Ray's agent forgets a gauge after two reports (here four seconds); a training may log a row every ten minutes."""
    monkeypatch.setattr(metrics_export, "EVERY_S", metrics_export.EVERY_S * 2 / 10)  # as Ray's reports: every 2 s here, 10 s in earnest
    row = {"step": 40, "lr": 0.1, "loss": 0.5, "seconds": 2.5, "mfu": 0.41, "samples_per_s": 12.8, "data_wait_s": 0.25}
    label, seen = "gauges", []

    def train(config, *, out: Location, job: Job) -> Summary:
        job.meter.training({**row, "peak_memory_gb": 2.0, "checkpoint_wait_s": 0.5, "checkpoint_upload_s": 3.0})
        with job.progress("train.toy", 100, unit="step") as progress:
            progress.update(40)
            awaited(lambda text: parsed(text, "ray_mvforge_train_mfu", label=label))
            for _ in range(5):
                time.sleep(1.6)
                seen.append(len(parsed(scraped(), "ray_mvforge_train_mfu", label=label)))
            text = scraped()
        values = {name: parsed(text, f"ray_{name}", label=label) for name in METRICS}
        (out / "seen.json").write_json({name: next(iter(series.values())) for name, series in values.items() if series})
        return Summary(1)

    store = Store(Location(str(tmp_path)))
    made = run([Step("train.toy", train, {}, "train")], label, store, Plan(), NoTracking()).records["train.toy"]
    assert seen == [1] * 5
    values = (store.data(made) / "seen.json").read_json()
    assert values.pop("mvforge_step_seconds") > 8
    assert values == {
        "mvforge_queue_items": 60,
        "mvforge_train_step": 40,
        "mvforge_train_step_seconds": 2.5,
        "mvforge_train_loss": 0.5,
        "mvforge_train_mfu": 0.41,
        "mvforge_train_objects_per_second": 12.8,
        "mvforge_train_memory_bytes": 2 * 2**30,
        "mvforge_loader_stall_seconds": 0.25,
        "mvforge_checkpoint_wait_seconds": 0.5,
        "mvforge_checkpoint_upload_seconds": 3.0,
    }
    _, gauges = REGISTRY.values()
    assert not [key for key in gauges if key[1] == ("train.toy", label)]


def test_without_ray_a_file_holds_the_same_names(tmp_path, monkeypatch):
    place = tmp_path / "mvforge.prom"
    monkeypatch.setenv(FILE_VARIABLE, str(place))
    with pytest.raises(RuntimeError, match="power cut"), measured("fetch", "in-a-file") as meter:
        meter.items("failed", 2, "not_found")
        meter.bytes(1000)
        meter.queue(5)
        REGISTRY.export()
        during = place.read_text()
        raise RuntimeError("power cut")
    after = place.read_text()
    assert by(parsed(during, "ray_mvforge_queue_items", label="in-a-file"), "step") == {("fetch",): 5.0}
    assert not parsed(after, "ray_mvforge_queue_items", label="in-a-file")
    assert by(parsed(after, "ray_mvforge_steps_total", label="in-a-file"), "step", "status") == {("fetch", "failed"): 1.0}
    assert by(parsed(after, "ray_mvforge_bytes_total", label="in-a-file"), "step") == {("fetch",): 1000.0}
    assert by(parsed(after, "ray_mvforge_items_total", label="in-a-file"), "reason") == {("not_found",): 2.0}
    assert list(tmp_path.iterdir()) == [place], "no half-written file is left"


def counted(label: str) -> dict[tuple[str, ...], float]:
    series = parsed(REGISTRY.text(), "ray_mvforge_items_total", label=label)
    return by(series, "status", "reason")


def test_what_was_not_posted_while_a_step_ran_is_posted_when_it_ends():
    meter = Meter("render", "settled")
    meter.kept(4)  # three good ones and a failure of an earlier run
    meter.items("ok", 2)
    meter.items("failed", 1, "no_mesh")
    meter.settle(Tally(completed=5, failed=3, rejected=1, reasons={"no_mesh": 2, "crash": 1}))
    expected = {("ok", ""): 2, ("kept", ""): 3, ("failed", "no_mesh"): 2, ("failed", "crash"): 1, ("rejected", ""): 1}
    assert counted("settled") == expected
    meter.settle(Tally(5, 3, 1, {"no_mesh": 2, "crash": 1}))
    assert counted("settled") == expected


def test_labels_stay_few_whatever_reasons_a_step_gives():
    meter = Meter("score", "few")
    for number in range(3 * MOST_REASONS):
        meter.items("failed", 1, f"reason_{number}")
    meter.items("failed", 1, "the object 4711 has no mesh")
    meter.items("failed", 1, "KeyError: 'uid-0815'")
    series = counted("few")
    assert len(series) <= MOST_REASONS + 1 and sum(series.values()) == 3 * MOST_REASONS + 2
    assert not re.search("4711|0815", str(series))


@dataclass
class Store503:
    """A gauge whose store does not answer."""

    calls: int = 0

    def __call__(self) -> float:
        self.calls += 1
        raise OSError("503 Slow Down")


def test_trouble_with_one_figure_is_said_once_and_costs_the_others_nothing(caplog):
    broken = Store503()
    with measured("train.x", "trouble") as meter:
        meter.gauge("mvforge_checkpoint_age_seconds", broken)
        meter.queue(3)
        REGISTRY.export()
        REGISTRY.export()
        assert by(parsed(REGISTRY.text(), "ray_mvforge_queue_items", label="trouble"), "step") == {("train.x",): 3.0}
    assert broken.calls >= 3
    assert [record.getMessage() for record in caplog.records if "503" in record.getMessage()] == [
        "mvforge_checkpoint_age_seconds cannot be told: OSError: 503 Slow Down"
    ]


def test_every_name_of_the_table_is_posted_somewhere():
    code = "\n".join(path.read_text() for layer in ("infra", "training") for path in (ROOT / layer).glob("*.py"))
    assert {name for name in METRICS if code.count(f'"{name}"') < 2} == set()
    assert {name for name, metric in METRICS.items() if (metric.kind == metrics.COUNTER) != name.endswith("_total")} == set()


def test_the_age_of_a_checkpoint_is_that_of_the_newest_whole_one(tmp_path):
    import os

    from training.checkpoint_age import age_of_newest, whole_checkpoints
    from training.checkpoint_manifest import MANIFEST

    place, now = Location(str(tmp_path)), time.time()
    age = age_of_newest(place)
    assert age() == pytest.approx(0.0, abs=5.0)  # nothing is lost yet, and none is there
    for step, ago in ((100, 500.0), (200, -40.0)):
        manifest = place / f"step-{step:08d}-aa" / MANIFEST
        manifest.write_text("{}")
        os.utime(manifest.path, (now - ago, now - ago))
    (place / "step-00000300-aa" / "share-00000.json").write_text("{}")
    assert [step for step, _ in whole_checkpoints(place)] == [100, 200]
    os.utime((place / "step-00000200-aa" / MANIFEST).path, (now - 50, now - 50))
    assert age() == pytest.approx(0.0, abs=5.0), "a checkpoint of an earlier attempt: this one has only begun"
