"""The gate against a real registry: who becomes champion, what is kept of it, and what a person then sees in MLflow."""

import io
import json
import shutil
from pathlib import Path

import pytest
from PIL import Image

from evaluation import champions, gate, version_page
from evaluation.gate_rule import KEPT, PROMOTED, REFUSED, GateConfig
from evaluation.score_table import read_scores
from evaluation.version_scores import keep, kept_table, kept_tables, latest
from infra import tracking
from infra.errors import UserError
from infra.job import Job
from infra.storage import Location
from tests.evaluation.registry import UIDS, WOBBLE, Registry, figures, fill, score_build


@pytest.fixture(scope="module")
def filled(empty_tracking_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Registry:
    root = tmp_path_factory.mktemp("filled")
    shutil.copy(empty_tracking_store, root / "mlflow.db")
    return fill(tracking.default_uri(root), root)


@pytest.fixture
def registry(filled: Registry, tmp_path: Path) -> Registry:
    return filled.copy(tmp_path)


def test_the_alias_follows_the_surely_better_model_and_reruns_change_nothing(registry: Registry) -> None:
    assert registry.judge(1, 12.0, build="a", config=GateConfig(minimum=15.0))["decision"] == REFUSED
    assert registry.champion() is None

    first = registry.judge(1, 12.0, build="b")
    assert (first["decision"], first["champion_before"], first["champion_after"]) == (PROMOTED, None, "models:/mv/1")
    # An interrupted build that goes on, and a rerun under a new build id.
    assert registry.judge(1, 12.0, build="b") == first
    again = registry.judge(1, 12.0, build="c")
    assert (again["decision"], again["champion_after"]) == (KEPT, "models:/mv/1") and "already" in again["reason"]

    lossy: dict[str, float | None] = {**figures(90.0), UIDS[0]: None}
    assert "more objects" in registry.judge(2, lossy, build="lossy")["reason"]
    # A higher mean that one lucky object makes: objects differ by 12 dB, the pairs by noise.
    lucky: dict[str, float | None] = {**figures(12.0), UIDS[5]: figures(12.0)[UIDS[5]] + 3.0}  # type: ignore[operator]
    luck = registry.judge(2, lucky, build="lucky")
    assert luck["decision"] == KEPT and luck["value"] > luck["champion_before_value"] and luck["paired"]["ci95"][0] <= 0
    worse = registry.judge(2, 11.0, build="d")
    assert (worse["decision"], worse["champion_before_value"]) == (KEPT, 12.0) and registry.champion() == "models:/mv/1"

    slightly: dict[str, float | None] = {uid: v + 0.5 + w for (uid, v), w in zip(figures(12.0).items(), WOBBLE, strict=True)}  # type: ignore[operator]
    better = registry.judge(3, slightly, build="e")
    assert (better["decision"], better["champion_before"]) == (PROMOTED, "models:/mv/1") and registry.champion() == "models:/mv/3"
    assert better["paired"]["mean_difference"] == pytest.approx(0.5 + WOBBLE.mean()) and better["paired"]["objects"] == 8
    assert not better["champion_scored_again"], "the earlier gate kept the champion's figures"
    # The once promoted version is judged again: it lost the title meanwhile and does not get it back.
    assert registry.judge(1, 12.0, build="b2")["decision"] == KEPT and registry.champion() == "models:/mv/3"

    # Killed between the intention and the alias: the same build ends as it would have, and says the same.
    tracking.set_alias(registry.uri, registry.version(1), "champion")
    assert registry.judge(3, slightly, build="e") == better and registry.champion() == "models:/mv/3"
    moves = champions.history(registry.uri, "mv", "champion")
    assert [(m.before, m.version, m.how) for m in moves] == [("", "1", "gate"), ("1", "3", "gate")], "one entry for one move"


def test_figures_of_another_evaluation_set_or_sampling_do_not_compare(registry: Registry) -> None:
    registry.judge(1, 12.0, build="a")
    for number, case in enumerate(({"evaluation_set": "f" * 64}, {"conditions": 4}, {"sampler": "ddim", "steps": 50})):
        record = registry.judge(2, 30.0, build=f"b{number}", **case)
        assert record["decision"] == KEPT and "cannot be compared" in record["reason"]
    assert registry.champion() == "models:/mv/1"
    # Once the champion has been scored there too, they compare.
    registry.judge(1, 14.0, build="c", conditions=4)
    assert registry.judge(2, 30.0, build="d", conditions=4)["decision"] == PROMOTED


def test_neither_may_have_trained_on_the_evaluation_set(registry: Registry) -> None:
    refused = registry.judge(4, 50.0, build="a")
    assert refused["decision"] == REFUSED and "trained on 1 objects" in refused["reason"]
    assert refused["trained_on"] == {"models:/mv/4": 1} and registry.champion() is None
    # It may still be champion by hand; then no figure of it counts.
    champions.promote(registry.uri, registry.version(4), "champion", "the best to look at")
    kept = registry.judge(1, 60.0, build="b")
    assert kept["decision"] == KEPT and "models:/mv/4 was trained on 1 objects" in kept["reason"]


def test_what_was_taken_back_by_hand_stays_back(registry: Registry) -> None:
    registry.judge(1, 12.0, build="a")
    registry.judge(2, 13.0, build="b")
    entry = champions.rollback(registry.uri, "mv", "champion", "cracks in the handles")
    assert (entry.before, entry.version) == ("2", "1") and registry.champion() == "models:/mv/1"
    again = registry.judge(2, 13.0, build="c")
    assert again["decision"] == REFUSED and "cracks in the handles" in again["reason"]
    # Not even the very build that once promoted it, when it is run again.
    assert registry.judge(2, 13.0, build="b")["decision"] == REFUSED
    champions.promote(registry.uri, registry.version(2), "champion", "looked again")
    assert champions.WITHDRAWN not in tracking.version_tags(registry.uri, registry.version(2))
    assert registry.judge(3, 14.0, build="d")["champion_before"] == "models:/mv/2"


def test_rollback_goes_further_back_each_time_and_over_moves_made_elsewhere(registry: Registry) -> None:
    uri = registry.uri
    with pytest.raises(UserError, match="no champion"):
        champions.rollback(uri, "mv", "champion", "x")
    for number in (1, 2, 3):
        champions.promote(uri, registry.version(number), "champion", f"by hand {number}")
    tracking.set_alias(uri, registry.version(4), "champion")  # as the UI does, without an entry
    back = [champions.rollback(uri, "mv", "champion", "x").version for _ in range(3)]
    assert back == ["3", "2", "1"]
    with pytest.raises(UserError, match="only champion on record"):
        champions.rollback(uri, "mv", "champion", "x")
    with pytest.raises(UserError, match="already"):
        champions.promote(uri, registry.version(1), "champion", "x")


def test_figures_stay_with_the_version_when_builds_are_gone(registry: Registry, tmp_path: Path) -> None:
    registry.judge(1, 12.0, build="a", sampler="ddim", steps=20)
    facts = tracking.version_facts(registry.uri, registry.version(1))
    kept = latest(facts)
    assert kept is not None and kept.basis == "default/eeeeeeeeeeeeeeee/1-view/ddim-20" and kept.objects == 8
    assert kept.means["psnr_foreground"] == pytest.approx(12.0) and kept.run_id == facts.run_id
    table = kept_table(registry.uri, registry.version(1), kept)
    assert table is not None and table.values["psnr_foreground"] == pytest.approx(figures(12.0))
    # A table that someone changed in MLflow's files is not trusted.
    run = tracking.TrackedRun(registry.uri, kept.run_id)
    run.artifact(kept.artifact, json.dumps(table.to_json() | {"values": {}}).encode())
    assert kept_table(registry.uri, registry.version(1), kept) is None
    assert list(kept_tables(facts.tags)) == [kept.basis]
    # A protocol changed in many numbers has a name longer than names of files and tags may be.
    place = Location(str(tmp_path / "long"))
    score_build(place, {"psnr": figures(9.0)}, evaluation_set="a" * 64, name=f"default({'points=1, ' * 60})")
    long = read_scores(place)
    assert keep(registry.uri, registry.version(1), long, run) and not keep(registry.uri, registry.version(1), long, run)
    again = latest(tracking.version_facts(registry.uri, registry.version(1)))
    assert again is not None and again.basis == long.basis and len(again.artifact) < 200
    assert kept_table(registry.uri, registry.version(1), again) is not None


def test_mlflow_alone_tells_enough_to_choose(registry: Registry) -> None:
    registry.judge(1, 12.0, build="a")
    registry.judge(2, 13.0, build="b")
    registry.judge(2, 13.0, build="c")
    client = tracking.client_of(registry.uri)
    facts = tracking.version_facts(registry.uri, registry.version(2))

    # The model itself carries the figures, tied to the evaluation set: sortable columns and charts.
    model = client.get_logged_model(facts.model_id)
    logged = {metric.key: metric for metric in model.metrics}
    assert logged["psnr_foreground"].value == pytest.approx(13.0) and logged["f_score_at_0.01"].value == 0.5
    assert logged["psnr_foreground"].dataset_digest == "e" * 36 and logged["psnr_foreground"].run_id == facts.run_id
    assert len([m for m in model.metrics if m.key == "psnr_foreground"]) == 1, "a rerun logs nothing twice"
    experiment = client.get_experiment_by_name("test").experiment_id
    best = client.search_logged_models([experiment], order_by=[{"field_name": "metrics.psnr_foreground", "ascending": False}])
    assert best[0].model_id == facts.model_id

    # The run names its data; the pipeline's run has the figures too.
    inputs = {i.dataset.name: i for i in client.get_run(facts.run_id).inputs.dataset_inputs}
    assert inputs["8 objects, 1-view, default"].dataset.digest == "e" * 36
    assert [tag.value for tag in inputs["8 objects, 1-view, default"].tags] == ["evaluation"]
    parent = tracking.TrackedRun(registry.uri, facts.run_id).parent
    assert parent is not None and client.get_run(parent.run_id).data.metrics["psnr_foreground"] == pytest.approx(13.0)

    # Pictures and the page lie with the version's run, in formats that the UI shows.
    made_by = {"name": "mv", "version": "2", "uri": "models:/mv/2"}
    version_page.attach(b"<html>", made_by, registry.job)
    version_page.attach(b"<html>", {**made_by, "version": "99"}, registry.job)  # not of this registry: nothing to attach it to
    assert tracking.read_artifact(registry.uri, facts.run_id, version_page.PLACE) == b"<html>"
    sheet = tracking.read_artifact(registry.uri, facts.run_id, "evaluation/sheet.png")
    assert sheet is not None and Image.open(io.BytesIO(sheet)).format == "PNG"
    told = client.get_run(parent.run_id).data.tags["mlflow.note.content"]
    assert "models:/mv/2" in told and "better" in told

    # Cards: of the version with its figures and the gate's word, of the model with its champion; the rest stays.
    assert "| psnr_foreground&emsp; | 13&emsp; |" in facts.description and "better" in facts.description
    assert facts.description.startswith("Version 2.") and "## Limits\n\nA test." in facts.description
    about = tracking.model_description(registry.uri, "mv")
    assert about.startswith("About mv.") and "is version 2" in about and "is version 1" not in about
    assert facts.tags["psnr_foreground"] == "13" and facts.tags["gate.decision"] == KEPT and facts.aliases == ("champion",)


def test_what_the_user_must_mend(registry: Registry, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="lpips"):
        registry.judge(1, 12.0, build="a", config=GateConfig(metric="lpips"))
    place = Location(str(tmp_path))
    with pytest.raises(UserError, match="registry"):
        gate.run(GateConfig(), scores=place, model=None, generated=place, out=place, job=Job())
