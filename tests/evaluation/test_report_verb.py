"""`mvforge report`: the page of a folder of scores by itself, in a store and outside."""

import json
import shutil
from pathlib import Path

import pytest

from infra.storage import Location
from pipelines.__main__ import main
from pipelines.artifact import InputRef, Record

# step -> the roles it reads, as the graph has them
READS = {
    "fetch": {},
    "render": {"meshes": "fetch"},
    "curate": {"views": "render"},
    "train.one": {"views": "render", "kept": "curate"},
    "register": {"checkpoints.one": "train.one", "meshes": "fetch"},
    "generate": {"model": "register", "views": "render", "kept": "curate"},
    "reconstruct": {"views": "generate"},
    "score": {"reference": "render", "generated": "generate", "meshes": "reconstruct", "model": "register"},
    "gate": {"scores": "score", "model": "register"},
}


@pytest.fixture
def store(report_steps: dict[str, Location], tmp_path: Path) -> Path:
    """The steps' outputs as finished builds of a store, with their records."""
    for step, reads in READS.items():
        shutil.copytree(report_steps[step].local_path(), tmp_path / step / "tiny" / f"{step}-build")
        inputs = {role: InputRef(source, "tiny", f"{source}-build") for role, source in reads.items()}
        record = Record(step, "tiny", f"{step}-build", "0" * 64, 1, {}, inputs)
        (tmp_path / step / "tiny" / "record.json").write_text(json.dumps(record.to_json()))
    return tmp_path


def made(scores: Path, out: Path, capsys: pytest.CaptureFixture[str], *more: str) -> tuple[dict, str]:
    assert main(["report", str(scores), "--out", str(out), "--objects", "1", "--json", *more]) == 0
    return json.loads(capsys.readouterr().out), out.read_text()


def test_a_store_tells_what_belongs_to_the_scores(store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scores = store / "score" / "tiny" / "score-build"
    result, text = made(scores, tmp_path / "whole.html", capsys, "--title", "All of it")
    assert result["missing"] == [] and result["completed"] == 1 and "<h1>All of it</h1>" in text
    for fact in (
        "there was no champion",
        "Held-out loss 1.25 before training",
        "unsupported_texture",
        "of chair_a",
        f"mvforge report {scores}",
    ):
        assert fact in text, fact
    assert "mesh of chair_a, turning" in text and 'alt="truth, azimuths' in text
    # A build that was replaced since is not what the scores were made from: it is left out, and that is said.
    record = store / "render" / "tiny" / "record.json"
    record.write_text(record.read_text().replace("render-build", "another-build"))
    result, text = made(scores, tmp_path / "less.html", capsys)
    assert result["missing"] == ["reference"] and "mesh of chair_a, turning" in text and 'alt="truth, azimuths' not in text


def test_a_folder_alone_makes_a_page_too(report_steps: dict[str, Location], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scores = tmp_path / "mine"
    shutil.copytree(report_steps["score"].local_path(), scores)
    result, text = made(scores, tmp_path / "alone.html", capsys)
    assert result["missing"] == ["generated", "reference", "meshes"] and "chair_b" in text
    meshes = str(report_steps["reconstruct"].local_path())
    assert main(["report", str(scores), "--out", str(tmp_path / "x.html"), "--meshes", meshes + "-not", "--json"]) == 2
    assert "no such folder" in json.loads(capsys.readouterr().out)["error"]
    assert main(["report", str(tmp_path), "--out", str(tmp_path / "x.html"), "--json"]) == 2
    assert "no scores" in json.loads(capsys.readouterr().out)["error"] and not (tmp_path / "x.html").exists()
