"""`mvforge compare` and `mvforge models` as a person types them, on a real store and registry."""

import json
import shutil
from pathlib import Path

import pytest

from evaluation import champions
from infra import tracking
from infra.storage import Location
from pipelines.__main__ import main
from pipelines.artifact import InputRef, Record, Store
from tests.evaluation.registry import UIDS, WOBBLE, Registry, figures, fill, score_build


@pytest.fixture(scope="module")
def filled(empty_tracking_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Registry:
    """Versions 1 and 2 scored on one basis, 2 the champion; 3 scored on another set; 4 never."""
    root = tmp_path_factory.mktemp("filled")
    shutil.copy(empty_tracking_store, root / "mlflow.db")
    registry = fill(tracking.default_uri(root), root)
    registry.judge(1, 12.0, build="a", sampler="ddim", steps=20)
    registry.judge(2, 13.0, build="b", sampler="ddim", steps=20)
    registry.judge(3, 14.0, build="c", sampler="ddim", steps=20, evaluation_set="f" * 64)
    return registry


@pytest.fixture
def registry(filled: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    copy = filled.copy(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", copy.uri)
    monkeypatch.setenv("MVFORGE_STORE", str(tmp_path / "store"))
    return copy


def typed(capsys: pytest.CaptureFixture, *arguments: str) -> str:
    assert main(arguments) == 0
    return capsys.readouterr().out


def answered(capsys: pytest.CaptureFixture, *arguments: str) -> dict:
    return json.loads(typed(capsys, *arguments, "--json"))


def refused(capsys: pytest.CaptureFixture, *arguments: str) -> str:
    assert main(arguments) == 2
    return capsys.readouterr().err


def labelled(root: Path, label: str, mean: float, shift: float = 0.0) -> None:
    """A finished score step under a label, and the generate build it was made from."""
    store = Store(Location(str(root / "store")))
    higher = {uid: value + shift + w * bool(shift) for (uid, value), w in zip(figures(mean).items(), WOBBLE, strict=True)}  # type: ignore[operator]
    lost: dict[str, float | None] = {uid: None if uid == UIDS[2] and shift else 0.02 for uid in UIDS}
    place = store.folder("generate", "made") / label / "model.json"
    place.write_json({"name": "mv", "version": "1", "uri": "models:/mv/1", "settings": {"conditions": 1, "sampler": "ddim", "steps": 20}})
    record = Record("score", label, "b1", "f", 1, {}, {"generated": InputRef("generate", "made", label)})
    score_build(store.data(record), {"psnr_foreground": higher, "chamfer": lost}, "models:/mv/1")
    store.commit(record)


def test_two_labels_compare_object_by_object(registry, capsys):
    labelled(registry.root, "tiny", 12.0)
    labelled(registry.root, "tiny-abc", 12.0, shift=0.5)
    result = answered(capsys, "compare", "tiny", "tiny-abc")
    psnr, chamfer = result["metrics"]["psnr_foreground"], result["metrics"]["chamfer"]
    assert psnr["mean_difference"] == pytest.approx(0.5 + WOBBLE.mean()) and psnr["verdict"] == "better" and psnr["objects"] == 8
    # All eight differ in one direction: 2 of 256 sign patterns, times two metrics.
    assert psnr["p_value"] == pytest.approx(2 / 256) and psnr["p_holm"] == pytest.approx(4 / 256)
    assert chamfer["verdict"] == "undecided" and chamfer["left_out"] == {UIDS[2]: "no figure in B"} and chamfer["lower_is_better"]
    assert result["a"]["settings"] == {"conditions": 1, "sampler": "ddim", "steps": 20} and result["notes"] == []
    text = typed(capsys, "compare", "tiny", "tiny-abc")
    assert "psnr_foreground" in text and "better" in text and "left out" in text
    # The same by folders, and against figures that are kept with a version.
    folder = str(registry.root / "store" / "score" / "tiny")
    assert answered(capsys, "compare", folder, f"{folder}-abc/b1")["metrics"]["psnr_foreground"]["verdict"] == "better"
    assert answered(capsys, "compare", "models:/mv/2", "tiny-abc")["metrics"]["psnr_foreground"]["verdict"] == "worse"


def test_what_does_not_compare_is_refused_with_what_to_do(registry, capsys):
    labelled(registry.root, "tiny", 12.0)
    place = Location(str(registry.root / "elsewhere"))
    score_build(place / "points", {"psnr_foreground": figures(12.0)}, evaluation_set="a" * 64, geometry={"points": 1000})
    said = refused(capsys, "compare", "tiny", str(registry.root / "elsewhere" / "points"))
    assert "different protocols" in said and 'geometry: null and {"points": 1000}' in said and "generate.model" in said
    fewer = {uid: value for uid, value in figures(12.0).items() if uid != UIDS[0]}
    score_build(place / "fewer", {"psnr_foreground": fewer}, evaluation_set="b" * 64)
    said = refused(capsys, "compare", "tiny", str(registry.root / "elsewhere" / "fewer"))
    assert "different evaluation sets (7 objects in both, 1 only in the first (object-0), 0 only in the second)" in said
    assert "labels of" in refused(capsys, "compare", "tiny", "nonsense") and "tiny" in refused(capsys, "compare", "tiny", "nonsense")
    assert "share no evaluation" in refused(capsys, "models", "compare", "2", "3", "--model", "mv")
    assert "never scored" in refused(capsys, "models", "compare", "@champion", "4", "--model", "mv")
    assert "known models: mv" in refused(capsys, "models", "list")


def test_versions_are_listed_and_compared(registry, capsys):
    listed = answered(capsys, "models", "list", "--model", "mv")
    one, two, three, four = listed["versions"]
    assert (two["aliases"], two["gate"], two["figures"]["psnr_foreground"]) == (["champion"], "promoted", 13.0)
    assert one["scored_on"] == two["scored_on"] != three["scored_on"] and four["scored_on"] is None
    assert (one["trained_objects"], one["data_fingerprint"], one["licences"]) == (2, "data1", "CC0-1.0 2")
    assert [(move["before"], move["version"]) for move in listed["history"]] == [("", "1"), ("1", "2")]
    text = typed(capsys, "models", "list", "--model", "mv", "--metrics", "f_score@0.01")
    assert "f_score@0.01" in text and "never" in text and "1 -> 2" in text and "2 bases" in text
    assert "known: f_score@0.01, psnr_foreground" in refused(capsys, "models", "list", "--model", "mv", "--metrics", "psnrr")
    compared = answered(capsys, "models", "compare", "1", "@champion", "--model", "mv")
    assert compared["notes"] == []
    assert compared["a"]["model"] == "models:/mv/1" and compared["metrics"]["psnr_foreground"]["verdict"] == "better"


def test_other_sampling_on_one_set_compares_with_a_note(registry, capsys):
    registry.judge(3, 14.0, build="d", sampler="dpm++", steps=10)
    note = answered(capsys, "models", "compare", "2", "3", "--model", "mv")["notes"]
    assert note == ["the pictures were sampled differently: sampler ddim and dpm++, steps 20 and 10"]


def test_promote_by_hand_and_roll_back(registry, capsys):
    assert "--reason is empty" in refused(capsys, "models", "promote", "3", "--reason", " ", "--model", "mv")
    moved = answered(capsys, "models", "promote", "3", "--reason", "nicer  handles", "--model", "mv")
    assert (moved["uri"], moved["before"], moved["how"], moved["reason"]) == ("models:/mv/3", "2", "hand", "nicer handles") and moved["by"]
    assert "is version 3" in tracking.model_description(registry.uri, "mv")
    assert "models:/mv/2 now" in typed(capsys, "models", "rollback", "--reason", "cracks", "--model", "mv")
    rows = {row["version"]: row for row in answered(capsys, "models", "list", "--model", "mv")["versions"]}
    assert rows["2"]["aliases"] == ["champion"] and "cracks" in rows["3"]["withdrawn"]
    assert [move.how for move in champions.history(registry.uri, "mv", "champion")] == ["gate", "gate", "hand", "rollback"]
    assert "withdrawn" in typed(capsys, "models", "list", "--model", "mv")


def test_no_registry_is_made_by_looking(tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert "no model registry" in refused(capsys, "models", "list", "--store", str(tmp_path / "none"))
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("verb", [["compare"], ["models", "list"], ["models", "compare"], ["models", "promote"], ["models", "rollback"]])
def test_every_verb_teaches_itself(verb, capsys):
    with pytest.raises(SystemExit) as ended:
        main([*verb, "--help"])
    text = capsys.readouterr().out
    assert ended.value.code == 0 and f"example:\n  mvforge {' '.join(verb)}" in text and "--json" in text
