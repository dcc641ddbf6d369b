"""The command line: `plan --cluster`, `simulate`; and `plan` without a cluster stays what it was."""

import json
from pathlib import Path

import pytest

from pipelines.__main__ import main
from tests.conftest import ROOT

H100 = str(ROOT / "infra" / "clusters" / "h100x128.yaml")
LAPTOP = str(ROOT / "infra" / "clusters" / "laptop.yaml")


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MVFORGE_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("MVFORGE_STORE", raising=False)


def test_a_plan_with_what_ifs_prints_columns_assumptions_and_units(capsys):
    assert main(["plan", "paper_mvdiffusionpp", "--cluster", H100, "--what-if", "resolution=256", "--what-if", "nodes=32"]) == 0
    text = capsys.readouterr().out
    for told in ("bottleneck", "wall as it is", "wall resolution=256", "wall nodes=32", "ASSUMED: 40%", "GB per GPU", "measured on 20"):
        assert told in text
    assert "training, counted from the settings" not in text


def test_without_a_cluster_the_plan_is_what_it_was(capsys):
    assert main(["plan", "smoke"]) == 0
    text = capsys.readouterr().out
    assert "about 0 s by earlier builds" in text and "training, counted from the settings" in text and "bottleneck" not in text
    assert main(["plan", "smoke", "--what-if", "nodes=2"]) == 2
    assert "--what-if needs --cluster" in capsys.readouterr().err


def test_json_is_alone_and_adds_up(capsys):
    assert main(["plan", "tiny", "--cluster", LAPTOP, "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)["plans"]["as it is"]
    assert plan["wall_s"] == pytest.approx(sum(step["wall_s"] for step in plan["steps"]))
    assert [step["step"] for step in plan["steps"]][:3] == ["catalog", "fetch", "render"] and plan["units"]["values"]


def test_a_simulation_with_its_plot(capsys, tmp_path):
    plot = tmp_path / "goodput.svg"
    assert (
        main(["simulate", "paper_mvdiffusionpp", "--cluster", H100, "--set", "objects=5000", "--seeds", "2", "--plot", str(plot), "--json"])
        == 0
    )
    found = json.loads(capsys.readouterr().out)
    assert 0 < found["all"]["goodput"] <= 1 and plot.read_text().count("<svg") == 1
    assert main(["simulate", "tiny", "--cluster", LAPTOP]) == 0
    assert "goodput" in capsys.readouterr().out
    assert main(["simulate", "tiny", "--cluster", LAPTOP, "--plot", str(plot)]) == 2, "a cluster without failures has no curve"
    assert main(["simulate", "tiny", "--cluster", LAPTOP, "--failures", "-1"]) == 2
