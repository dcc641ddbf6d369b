"""The whole graph at its smallest: what is recorded, what is reused, what a rerun touches."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest

from infra import tracking

pytestmark = [pytest.mark.ray, pytest.mark.blender, pytest.mark.slow]

STEPS = [
    *("catalog", "fetch", "render", "curate"),
    *("train.mvae", "encode", "train.unet1", "train.unet2", "train.unet3", "register"),
    *("generate", "reconstruct", "score", "gate", "report"),
]


def states(chain, *arguments):
    return {row["step"]: row["state"] for row in chain.mvforge("status", "smoke", *arguments)["steps"]}


def test_every_step_ran_and_left_its_record_last(smoke_chain):
    assert smoke_chain.result["ran"] == STEPS
    for step in STEPS:
        record = smoke_chain.record(step)
        assert record["completed"] > 0 and record["failed"] == 0 and record["run_id"]
        newest = max(path.stat().st_mtime for path in smoke_chain.data(step).rglob("*") if path.is_file())
        assert (smoke_chain.store / step / "smoke" / "record.json").stat().st_mtime >= newest


def test_every_view_of_every_object_is_there(smoke_chain):
    rows = pq.read_table(smoke_chain.data("render") / "part-00000.parquet", columns=["uid", "images"]).to_pylist()
    assert len({row["uid"] for row in rows}) == len(rows) == 6
    assert all(len(row["images"]) == 32 + 2 for row in rows)


def test_nothing_trained_is_scored(smoke_chain):
    kept = {row["uid"]: row["split"] for row in pq.read_table(smoke_chain.data("curate") / "kept.parquet").to_pylist()}
    scored = set(pq.read_table(smoke_chain.data("score") / "scores.parquet")["uid"].to_pylist())
    for stage in ("mvae", "unet1", "unet2", "unet3"):
        trained = set(json.loads((smoke_chain.data(f"train.{stage}") / "uids.json").read_text()))
        assert trained and not trained & scored
        assert {kept[uid] for uid in trained} == {"train"}
    assert {kept[uid] for uid in scored} == {"test"}


def test_what_training_measures_reaches_the_checkpoint(smoke_chain):
    """The spread of the latents is a buffer, not a weight: it must survive ZeRO, averaging and saving."""
    facts = json.loads((smoke_chain.data("train.mvae") / "checkpoint" / "mvae.json").read_text())
    assert len(facts["latent_scale"]) == 4 and min(facts["latent_scale"]) > 0 and facts["latent_scale"] != [1.0] * 4
    validated = [json.loads(line) for line in (smoke_chain.data("train.mvae") / "validation.jsonl").read_text().splitlines()]
    assert validated[-1]["latent_scale"] == pytest.approx(np.mean(facts["latent_scale"]), rel=1e-4)


def test_the_report_is_one_file_without_network(smoke_chain):
    page = (smoke_chain.data("report") / "report.html").read_text()
    assert "tiny: not trained to quality" in page
    assert "<img" in page and 'src="http' not in page and 'href="http' not in page.replace('href="https://www.w3.org', "")


def test_the_run_tree_and_the_model_version_are_in_mlflow(smoke_chain):
    from mlflow import MlflowClient

    uri = tracking.default_uri(smoke_chain.store)
    client = MlflowClient(tracking_uri=uri, registry_uri=uri)
    runs = client.search_runs([client.get_experiment_by_name("mvforge").experiment_id])
    parents = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    children = {run.data.tags["mvforge.step"]: run for run in runs if "mlflow.parentRunId" in run.data.tags}
    assert len(parents) == 1 and parents[0].info.status == "FINISHED"
    assert set(children) == set(STEPS) and all(run.info.status == "FINISHED" for run in children.values())
    assert all(run.data.tags["mlflow.parentRunId"] == parents[0].info.run_id for run in children.values())
    assert "psnr_foreground" in " ".join(children["score"].data.metrics)
    version = client.get_model_version_by_alias("mvforge", "champion")
    assert int(version.version) == 1 and version.tags["recipe"] == "smoke" and version.tags["licences"].startswith("CC0-1.0")
    assert len(client.search_model_versions("name='mvforge'")) == 1, "a version is made once"
    # What one chooses a model by: figures on the model, pictures and page at its run, the data that were read, the card.
    model = client.get_logged_model(version.tags["mvforge.model_id"])
    score = json.loads((smoke_chain.data("score") / "summary.json").read_text())
    figures = {metric.key: metric.value for metric in model.metrics}
    assert figures["psnr_foreground"] == pytest.approx(score["metrics"]["psnr_foreground"]["mean"], rel=1e-5)
    own = client.get_run(version.run_id)
    assert {file.path for file in client.list_artifacts(version.run_id, "evaluation")} == {
        "evaluation/report.html",
        "evaluation/sheet.png",
    }
    assert {item.tags[0].value for item in own.inputs.dataset_inputs} == {"training", "evaluation"}
    assert "psnr_foreground" in version.description and "## Licence" in version.description
    assert (smoke_chain.data("register") / "model" / "README.md").read_text().startswith("---\nlibrary_name: diffusers")


def test_a_second_run_reuses_everything(chain):
    again = chain.mvforge("run", "smoke")
    assert again["ran"] == []
    assert [row["action"] for row in chain.mvforge("plan", "smoke")["steps"]] == ["reuse"] * len(STEPS)


def test_rerun_and_only_touch_one_step(chain):
    before = {step: chain.record(step)["build_id"] for step in STEPS}
    views_before = pq.read_table(chain.data("render") / "part-00000.parquet", columns=["images"])
    result = chain.mvforge("run", "smoke", "--rerun", "render")
    assert result["ran"] == ["render"]
    after = {step: chain.record(step)["build_id"] for step in STEPS}
    assert [step for step in STEPS if before[step] != after[step]] == ["render"]
    assert chain.record("render")["facts"]["rendered_now"] == 6, "old pieces must not be taken"
    assert pq.read_table(chain.data("render") / "part-00000.parquet", columns=["images"]).equals(views_before), "same pixels again"
    below = states(chain)
    assert below["render"] == "done" and below["curate"] == "stale" and below["report"] == "stale" and below["fetch"] == "done"
    assert chain.mvforge("run", "smoke", "--only", "fetch")["ran"] == []
    assert chain.mvforge("run", "smoke", "--rerun", "score")["ran"] == ["score"]


def test_a_new_label_recomputes_only_what_differs(chain):
    plan = chain.mvforge("plan", "smoke", "--set", "score.points=1000")
    assert plan["label"].startswith("smoke-")
    actions = {row["step"]: row["action"] for row in plan["steps"]}
    assert {step for step, action in actions.items() if action == "run"} == {"score", "gate", "report"}
    result = chain.mvforge("run", "smoke", "--set", "score.points=1000", "--only", "score")
    assert result["ran"] == ["score"] and result["steps"]["score"]["label"] == plan["label"]
    assert result["steps"]["render"]["label"] == "smoke"


def test_changed_settings_under_the_same_label_stop(chain):
    answer = chain.mvforge("run", "smoke", "--label", "smoke", "--set", "render.samples=3", status=2)
    assert "samples: 2 -> 3" in answer["error"] and "--rerun render" in answer["mend"]


def test_growing_the_catalog_renders_only_new_objects(chain):
    result = chain.mvforge("run", "smoke", "--set", "objects=8", "--only", "data")
    assert result["steps"]["render"]["completed"] == 8
    assert result["steps"]["render"]["facts"]["rendered_now"] == 2


def test_a_model_chosen_by_alias_is_used_and_recorded(chain):
    uri = tracking.default_uri(chain.store)
    tracking.set_alias(uri, tracking.resolve(uri, "models:/mvforge/1"), "chosen")
    result = chain.mvforge(
        "run", "smoke", "--only", "generate", "--set", "generate.model=models:/mvforge@chosen", "--set", "generate.seed=7"
    )
    assert result["ran"] == ["generate"]
    label = result["label"]
    assert chain.record("generate", label)["config"]["model"] == "models:/mvforge/1"
    made_with = json.loads((chain.data("generate", label) / "model.json").read_text())
    assert made_with["uri"] == "models:/mvforge/1"
    trained = json.loads((chain.data("train.unet3") / "uids.json").read_text())
    assert made_with["trained_uids"] == trained, "a chosen model still tells what it must not be scored on"
