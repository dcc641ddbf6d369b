"""`mvforge train`: a stage from the store without Ray, by torchrun, through a kill; and trials that leave nothing behind."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import training.memory as memory_module
from infra.errors import UserError
from infra.job import Resources
from infra.storage import Location
from pipelines import graph, recipes
from pipelines.__main__ import main
from pipelines.artifact import Record, Store, new_build_id
from pipelines.dag import decide
from pipelines.fingerprint import canonical
from pipelines.recipe import Recipe
from tests.conftest import ROOT
from tests.training.test_loop import CONFIG, untimed
from tests.training.toy import ToyConfig, write_objects
from training.data import DataLocations
from training.flops import unet_parameters
from training.memory import within_memory
from training.methods import METHODS
from training.stage import StageInputs, fit_local

RECIPE = f"{__name__}:toy"


def toy() -> Recipe:
    """The toy method with the data settings of `smoke`; where accidents wait is told by the environment."""
    model = ToyConfig(crash=os.environ.get("TOY_ACCIDENTS", ""))
    train = {stage: replace(CONFIG, stage=stage, steps=20) for stage in ("first", "second")}
    resources = {"train": Resources(workers=2)}
    base = recipes.by_name("smoke")
    return replace(base, name="toy", method=CONFIG.method, model=model, train=train, resources=resources)


def finished(root: Location) -> Location:
    """A store in which the data steps of the toy recipe are finished, by records like the runner's; the views are the toy's."""
    store, records = Store(root / "store"), {}
    views, kept = write_objects(root / "made", train=10, val=4)
    data = {"render": views, "curate": kept}
    for step in graph.build(toy())[:4]:
        decision = decide(step, "toy", store, records)
        record = Record(
            step=step.name,
            label="toy",
            build_id=new_build_id(),
            fingerprint=decision.fingerprint or "",
            version=step.version,
            config=canonical(step.config),
            inputs=decision.inputs,
        )
        if step.name in data:
            store.data(record).upload(data[step.name].local_path())
        store.commit(record)
        records[step.name] = record
    return store.root


def call(*arguments: str, status: int = 0) -> None:
    assert main(["train", *arguments]) == status


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Location:
    return finished(Location(str(tmp_path_factory.mktemp("home"))))


def data_of(store: Location) -> DataLocations:
    places = Store(store)
    return DataLocations(*(places.data(record) for name in ("render", "curate") if (record := places.record(name, "toy"))))


def test_a_stage_is_trained_on_the_stores_data_and_once(store: Location, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "out")
    call(RECIPE, "first", "--store", str(store), "--out", out, "--json")
    printed = capsys.readouterr()
    expected = fit_local(toy().train["first"], StageInputs(data_of(store)), Location(str(tmp_path / "expected")))
    rows = [json.loads(line) for line in (tmp_path / "out" / "history.jsonl").read_text().splitlines()]
    assert untimed(rows) == untimed(expected.history)
    result = json.loads(printed.out)
    assert result["last_loss"] == rows[-1]["loss"] and result["out"] == out
    assert "step 20/20  train  loss" in printed.err
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        *("checkpoint", "history.jsonl", "validation.jsonl", "uids.json", "loss.png", "training.json")
    }
    call(RECIPE, "train.first", "--store", str(store), "--out", out)
    assert "is trained already" in capsys.readouterr().err
    call(RECIPE, "first", "--store", str(store), "--out", out, "--set", "train.first.lr=0.5", "--label", "toy", status=2)
    assert "holds another training: config.lr: 0.01 -> 0.5" in capsys.readouterr().err


def test_torchrun_is_killed_and_one_process_goes_on(store: Location, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    accidents = tmp_path / "accidents"
    accidents.mkdir()
    (accidents / "kill-14").touch()
    monkeypatch.setenv("TOY_ACCIDENTS", str(accidents))
    arguments = [RECIPE, "first", "--store", str(store), "--out", str(tmp_path / "out")]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "pipelines", "train"]
    run = subprocess.run([*command, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=200)
    assert run.returncode != 0 and run.stderr.count("step 12/20  train") == 1, run.stderr[-3000:]  # rank 0 alone speaks
    assert str(-signal.SIGKILL) in run.stderr and not (tmp_path / "out" / "history.jsonl").exists()
    call(*arguments)
    expected = fit_local(toy().train["first"], StageInputs(data_of(store)), Location(str(tmp_path / "expected")))
    rows = [json.loads(line) for line in (tmp_path / "out" / "history.jsonl").read_text().splitlines()]
    for row, other in zip(untimed(rows), untimed(expected.history), strict=True):
        assert row == pytest.approx(other, rel=2e-5)
    steps = [int(line) for line in (accidents / "steps.log").read_text().split()]
    assert steps.count(12) == 2 * 2 + 4 and steps.count(3) == 2 * 2  # 12 was done by two processes, then again by one


def test_what_is_missing_is_named(store: Location, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, said in (
        (["second", "--out", str(tmp_path / "o")], "train.second reads train.first, encode: not built under label 'toy'"),
        (["third", "--out", str(tmp_path / "o")], "its stages are first, second"),
        (["first"], "--try-run"),
    ):
        call(RECIPE, arguments[0], "--store", str(store), *arguments[1:], status=2)
        assert said in capsys.readouterr().err
    assert not (tmp_path / "o").exists()


def test_a_trial_at_full_size_leaves_nothing_behind(tmp_path: Path) -> None:
    """In a process of its own, with every place that it may write to in one folder; `smoke` trains with ZeRO 2."""
    places = {name: str(tmp_path) for name in ("HOME", "TMPDIR", "MVFORGE_HOME", "MVFORGE_STORE", "XDG_CACHE_HOME")}
    environment = {**os.environ, **places, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pipelines", "train", "smoke", "unet2", "--try-run", "--json"]
    run = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr[-3000:]
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    trial = json.loads(run.stdout)
    model = METHODS["mvdiffusionpp"].smoke()
    assert trial["parameters"] == unet_parameters(model.unet, model.vae.latent_channels, model.num_slots)
    assert (trial["workers"], trial["processes"], trial["objects"], trial["micro_batches"]) == (2, 1, 2, 1)
    assert trial["projected_h"] == pytest.approx(trial["steps"] * trial["step_s"] / 3600)
    assert trial["samples_per_s"] == pytest.approx(2 / trial["step_s"])
    assert 0.1 < trial["peak_memory_gb"] < 8 and trial["tflops_per_device"] > 0 and trial["mfu"] is None


def test_a_trial_says_what_it_measured(capsys: pytest.CaptureFixture[str]) -> None:
    call(RECIPE, "second", "--try-run")
    said = capsys.readouterr().out
    assert "train.second: two updates on made-up data, on cpu" in said
    assert "weights     0.00 M" in said and "the recipe asks for 2 processes" in said and "20 updates" in said


def test_what_cannot_fit_is_refused_before_it_is_tried(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    import training.tryout

    monkeypatch.setattr(training.tryout, "free_bytes", lambda device: 1000)
    call(RECIPE, "first", "--try-run", status=2)
    assert "needs at least" in capsys.readouterr().err


def test_an_allocation_beyond_what_is_free_fails_instead_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_module, "free_bytes", lambda device: 1 << 28)
    cpu = torch.device("cpu")
    with pytest.raises(UserError, match="needs more than the 0.2 GiB that are free"):
        with within_memory(cpu, "it", "take less"):
            torch.empty(1 << 30, dtype=torch.uint8)
    torch.empty(1 << 30, dtype=torch.uint8)  # the limit is gone
    with pytest.raises(RuntimeError, match="something else"):
        with within_memory(cpu, "it", "take less"):
            raise RuntimeError("something else")


def test_help_teaches_by_examples(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    said = capsys.readouterr().out
    assert "torchrun --standalone --nproc-per-node 2 -m pipelines train tiny unet1" in said and "--try-run" in said


def test_how_a_stage_is_watched_is_no_part_of_what_it_learns() -> None:
    watched = replace(CONFIG, sample_every=3, sample_objects=9, spike_factor=9.0, prefetch=5, readers=4)
    assert canonical(watched) == canonical(CONFIG) != canonical(replace(CONFIG, encode_on_the_fly=True))


def test_figures_are_tracked_where_that_is_asked_for(
    store: Location, tmp_path: Path, tracking_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Interrupted at its 15th step and given again: one run, every step once."""
    from infra import tracking

    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracking_uri)
    (tmp_path / "accidents").mkdir()
    (tmp_path / "accidents" / "fail-14").touch()
    monkeypatch.setenv("TOY_ACCIDENTS", str(tmp_path / "accidents"))
    arguments = [RECIPE, "first", "--store", str(store), "--out", str(tmp_path / "out")]
    with pytest.raises(ValueError, match="asked to fail"):
        call(*arguments)
    call(*arguments)
    client = tracking.client_of(tracking_uri)
    (run,) = client.search_runs([client.get_experiment_by_name("mvforge").experiment_id])
    assert run.info.status == "FINISHED" and run.data.params["steps"] == "20"
    rows = [json.loads(line) for line in (tmp_path / "out" / "history.jsonl").read_text().splitlines()]
    logged = client.get_metric_history(run.info.run_id, "train/loss")
    assert [(m.step, m.value) for m in logged] == [(row["step"], row["loss"]) for row in rows]
    assert [m.step for m in client.get_metric_history(run.info.run_id, "validation/loss")] == [0, 10, 20]
