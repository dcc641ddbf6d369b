"""Predictions beside a run: units of a rehearsal by hand, pairs that are kept, ratios, and what the verb refuses."""

import json
from pathlib import Path

import pyarrow as pa
import pytest

from infra.errors import UserError
from infra.storage import Location
from pipelines.__main__ import main
from pipelines.artifact import Record, Store
from pipelines.context import load_recipe
from pipelines.planning import beside
from pipelines.planning.beside import Compared, Pair, as_json, predicted, summed_up
from pipelines.planning.here import this_machine
from pipelines.planning.measure_rehearsal import RUN_LABEL, STEPS, evaluated, finished, settings
from pipelines.planning.show_beside import lines
from pipelines.planning.units import write_units
from pipelines.planning.workload import budget_of
from tests.pipelines.planning.made_up import units
from training.lookup import method_named


def left_by_a_run(folder: Path, seconds: dict[str, float]) -> None:
    """A store as a run leaves it: 4 rendered objects of 3 s, one generated of 2 s, `STEPS` updates of 0.5 s a stage at 0.04 TFLOP/s
    after a slow first one, and sample pictures of 1 s."""
    store = Store(Location(str(folder / "store")))
    for step, value in seconds.items():
        record = Record(step, RUN_LABEL, "20260101T000000-abcdef", "f", 1, {}, {}, seconds=value)
        store.commit(record)
        data = store.data(record)
        if step.startswith("train."):
            rows = [{"step": n + 1, "seconds": 0.5, "tflops_per_device": 0.04 if n > 1 else 0.001} for n in range(STEPS)]
            rows[0]["seconds"] = 2.5
            (data / "history.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
            (data / "previews.jsonl").write_text(json.dumps({"step": STEPS, "seconds": 1.0}) + "\n")
        if step in ("render", "generate", "reconstruct"):
            count, each = (4, 3.0) if step == "render" else (1, 2.0)
            rows = [{"status": "ok", "seconds": each}] * count + [{"status": "failed", "seconds": 50.0}]
            (data / "ledger.parquet").write_table(pa.Table.from_pylist(rows))
        if step == "curate":
            splits = {"uid": [str(n) for n in range(6)], "split": ["train"] * 3 + ["val"] * 2 + ["test"]}
            (data / "kept.parquet").write_table(pa.table(splits))


SECONDS = {
    "fetch": 1.5,
    "render": 16.0,
    "curate": 2.0,
    "train.mvae": 17.0,
    "encode": 9.0,
    "train.unet1": 15.0,
    "train.unet2": 15.0 + (STEPS - 1) * 1.2,
}
SECONDS |= {"train.unet3": 15.0, "generate": 12.0, "reconstruct": 4.0, "score": 5.0}


def test_units_of_a_rehearsal_by_hand(tmp_path):
    recipe = load_recipe("tiny", settings())
    assert all(config.steps == STEPS for config in recipe.train.values()) and recipe.train["unet2"].validate_every == 1
    left_by_a_run(tmp_path, SECONDS)
    found = evaluated(recipe, finished(recipe, tmp_path))
    assert found["start.render"] == [16.0 - 4 * 3.0 / 2] and found["start.generate"] == [12.0 - 2.0]
    assert found["start.reconstruct"] == [4.0 - 2.0]
    sampling = method_named("mvdiffusionpp").sampling_flops(recipe.model, recipe.generate.steps)
    assert found["generate.worker_tflops"] == [pytest.approx(sampling / 1e12 / 2.0)], "of the object that succeeded"
    assert found["start.fetch"] == [1.5] and found["start.score"] == [5.0]
    started = [17.0 - STEPS * 0.5 - 1.0, *[15.0 - STEPS * 0.5 - 1.0] * 2]
    assert found["start.train"] == started, "with the slow first update, without the stage that validates after every update"
    assert found["train.rank_tflops"] == [pytest.approx(0.04)] * 3, "the first updates do not count"
    assert found["train.vae_rank_tflops"] == [pytest.approx(0.04)]
    # 1.2 s a validation, and 1 s of sample pictures, of two objects.
    budget = budget_of(recipe, "unet2")
    assert found["train.validate_tflops"] == [pytest.approx(2 * budget.validation_flops / 1.2e12)]
    assert found["train.preview_tflops"][1:] == [pytest.approx(2 * budget.preview_flops / 1e12)] * 3


def test_a_validation_too_quick_to_tell_is_not_measured(tmp_path):
    recipe = load_recipe("tiny", settings())
    left_by_a_run(tmp_path, SECONDS | {"train.unet2": 14.0})
    assert "train.validate_tflops" not in evaluated(recipe, finished(recipe, tmp_path))


def test_updates_of_unequal_sizes_count_by_all_operations_and_all_seconds(tmp_path):
    recipe = load_recipe("tiny", settings())
    left_by_a_run(tmp_path, SECONDS)
    done = finished(recipe, tmp_path)
    rows = [{"seconds": s, "tflops_per_device": r} for s, r in [(9.0, 1.0)] * 3 + [(0.5, 0.02)] * (STEPS - 4) + [(2.0, 0.07)]]
    (done["train.unet1"].data / "history.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    work, time = (STEPS - 4) * 0.01 + 0.14, (STEPS - 4) * 0.5 + 2.0
    assert evaluated(recipe, done)["train.rank_tflops"][0] == pytest.approx(work / time)


def test_a_prediction_is_work_and_start_and_looking(tmp_path):
    recipe = load_recipe("tiny", [])
    flops = budget_of(recipe, "unet1")
    rates = {"train__rank_tflops": 0.02, "train__validate_tflops": 0.05, "train__preview_tflops": 0.04}
    write_units(known := units(start__train=11.0, start__render=7.0, **rates))
    known.path.rename(tmp_path / "units.json")
    found = predicted(recipe, tmp_path / "units.json")
    config = recipe.train["unet1"]
    work = config.steps * flops.flops * config.global_batch / 0.02e12 / 2
    looked = (150 // 40) * config.validate_objects * flops.validation_flops / 0.05e12
    looked += config.sample_objects * flops.preview_flops / 0.04e12
    saved = (150 // 40) * flops.parameters * 16 / 1e9  # two ranks of 0.5 GB/s each
    assert found["train.unet1"]["planned"] == pytest.approx(work + looked + saved + 11.0, rel=1e-6)
    assert found["render"]["start"] == 7.0 and found["render"]["planned"] > 7.0 + 2.0
    assert found["train.unet1"]["simulated"] >= found["train.unet1"]["planned"], "it waits for the slowest rank"
    assert found["render"]["simulated"] > 9.0 and this_machine().nodes == 1


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def pair(number: int, planned: float, actual: float) -> Pair:
    steps = [Compared("render", planned, planned * 1.1, actual, 8.0), Compared("register", None, None, 3.0)]
    steps.append(Compared("curate", 1.0, 1.0, 2.0))
    return Pair("tiny", [], number, "0" * 40, steps, {"render": 0.3, "train.unet1": 0.1}, {"objects": 0.5, "updates": 0.02}, ["quiet"])


PAIRS = [pair(1, 40.0, 50.0), pair(2, 60.0, 50.0), pair(3, 45.0, 50.0)]


def test_the_median_of_the_ratios_is_reported():
    render, register, curate = summed_up(PAIRS)["steps"]
    assert render["ratios"] == [0.8, 1.2, 0.9] and render["ratio"] == 0.9 and render["long"]
    assert register["ratio"] is None and not register["long"] and curate["ratio"] == 0.5 and not curate["long"]
    text = "\n".join(lines(PAIRS))
    assert "render 0.90 (within 20 %)" in text and "curate 0." not in text and "not planned" in text
    assert "render 0.30 (assumed 0.5)" in text and json.dumps(as_json(PAIRS))


def test_finished_pairs_are_kept_and_only_of_the_same_recipe(tmp_path, capsys):
    out = tmp_path / "pairs"
    out.mkdir()
    for one in PAIRS:
        (out / f"pair-{one.number}.json").write_text(json.dumps(one.__dict__, default=lambda step: step.__dict__))
    assert main(["plan", "tiny", "--beside", str(out), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told == json.loads((out / "beside.json").read_text()) and told["summary"]["pairs"] == 3
    with pytest.raises(UserError, match="is of tiny"):
        beside.run_pairs("smoke", [], out, 3, print)
    (out / "pair-2.json").write_text("{}")
    with pytest.raises(UserError, match="damaged"):
        beside.run_pairs("tiny", [], out, 3, print)
    with pytest.raises(UserError, match="at least 1"):
        beside.run_pairs("tiny", [], out, 0, print)
    assert main(["plan", "tiny", "--beside", str(out), "--cluster", "infra/clusters/laptop.yaml"]) == 2


@pytest.mark.ray
@pytest.mark.blender
@pytest.mark.long
def test_a_real_pair_of_the_smallest_recipe(tmp_path):
    (made,) = beside.run_pairs("smoke", [], tmp_path / "pairs", 1, print)
    assert {step.step for step in made.steps} >= {"render", "train.unet3", "score"} and all(step.actual > 0 for step in made.steps)
    planned = {step.step: step.planned for step in made.steps}
    assert (
        all(planned[name] and planned[name] > 0 for name in ("render", "train.mvae", "generate", "score")) and planned["register"] is None
    )
    assert not (tmp_path / "pairs" / "pair-1" / "store").exists() and (tmp_path / "pairs" / "pair-1" / "units.json").exists()
