"""The command line as a person types it: clear refusals, JSON alone on stdout, status codes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.__main__ import main
from pipelines.commands import score_tool
from tests.conftest import ROOT


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MVFORGE_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("MVFORGE_STORE", raising=False)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def refused(capsys: pytest.CaptureFixture, *arguments: str) -> str:
    assert main(arguments) == 2
    return capsys.readouterr().err


def test_unknown_recipe(capsys):
    assert "did you mean 'smoke'" in refused(capsys, "run", "smok")


def test_unknown_step(capsys):
    assert "did you mean 'render'" in refused(capsys, "run", "smoke", "--only", "rendr")


def test_unreachable_tracking_server_is_refused_before_work(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    assert "127.0.0.1:9" in refused(capsys, "run", "smoke")
    assert not (tmp_path / "home" / "store").exists()


@pytest.mark.ray
def test_missing_and_empty_sources(capsys, tmp_path, ray_cluster):
    assert "/no/such/folder" in refused(capsys, "run", "smoke", "--set", "source=local:/no/such/folder")
    (tmp_path / "nothing").mkdir()
    assert "nothing" in refused(capsys, "run", "smoke", "--set", f"source=local:{tmp_path / 'nothing'}")


@pytest.mark.ray
def test_a_cluster_too_small_is_refused(capsys, ray_cluster):
    assert "step render wants 64 workers" in refused(capsys, "run", "smoke", "--set", "resources.render.workers=64")


def test_relative_paths_are_refused_inside_a_packaged_job(capsys, monkeypatch):
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", json.dumps({"runtime_env": {"working_dir": "gcs://package.zip"}}))
    assert "relative path inside a packaged job" in refused(capsys, "plan", "smoke", "--store", "here")
    assert "relative path inside a packaged job" in refused(capsys, "plan", "smoke", "--set", "source=local:here")


def test_store_inside_the_upload_is_refused(monkeypatch):
    from infra.errors import UserError
    from pipelines.commands.head import job_environment

    with pytest.raises(UserError, match="lies in the folder that is uploaded"):
        job_environment(["--store", str(ROOT / "results")])


def test_json_is_alone_on_stdout(tmp_path):
    environment = {**os.environ, "MVFORGE_HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "pipelines", "plan", "smoke", "--json"]
    answer = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path, check=True)
    plan = json.loads(answer.stdout)
    assert [row["action"] for row in plan["steps"]] == ["run"] * 15


def test_what_others_print_meanwhile_is_no_part_of_the_json(monkeypatch, capsys):
    """Ray, for one, tells on stdout of a worker that died."""
    own = score_tool.protocols

    def talking(options):
        print("(raylet) A worker died")
        return own(options)

    monkeypatch.setattr(score_tool, "protocols", talking)
    assert main(["protocols", "list", "--json"]) == 0
    said = capsys.readouterr()
    assert json.loads(said.out) and "(raylet) A worker died" in said.err


@pytest.mark.parametrize(
    "verb",
    [
        "run",
        "plan",
        "status",
        "demo",
        "submit",
        "up",
        "down",
        "render",
        "export-views",
        "infer",
        "reconstruct",
        "score-views",
        "score-mesh",
        "protocols",
        "seeds",
    ],
)
def test_every_verb_explains_itself_with_an_example(verb, capsys):
    with pytest.raises(SystemExit) as ended:
        main([verb, "--help"])
    text = capsys.readouterr().out
    assert ended.value.code == 0 and "example:\n  mvforge" in text and "--json" in text


def test_help_needs_none_of_the_heavy_packages():
    code = "import sys; import pipelines.__main__; print([m for m in ('torch', 'ray', 'mlflow', 'deepspeed') if m in sys.modules])"
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=True
    )
    assert answer.stdout.strip() == "[]"
