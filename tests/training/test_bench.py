"""The benchmark from a plain checkout: without the cluster's packages, resumed, and past a row that cannot fit."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from infra.errors import UserError
from pipelines.__main__ import main as mvforge
from tests.conftest import ROOT
from training.bench import FULL, TINY, goals, main
from training.bench_rows import NotRun, Results, Row, attempt, measure_all
from training.flops import train_flops, unet_flops, vae_flops

CALLS = """
import sys

GONE = {"ray", "deepspeed", "mlflow", "pyarrow", "pandas", "bpy", "objaverse", "pydantic", "trimesh", "psutil"}

class Without:
    def __init__(self, finder):
        self.finder = finder
    def __getattr__(self, name):
        return getattr(self.finder, name)
    def find_spec(self, name, path=None, target=None):
        return None if name.split(".")[0] in GONE else self.finder.find_spec(name, path, target)

sys.meta_path[:] = [Without(finder) for finder in sys.meta_path]
from training.bench import main

out, impossible = sys.argv[1], "1000000000000"
everything = ["--shapes", "tiny", "--out", out, "--views", "2," + impossible]
print("first", main([*everything, "--rows", "matmul*"]))
print("second", main([*everything, "--rows", "[ms]*[0-9]", "--budget", "0"]))
print("third", main([*everything, "--rows", "step V=2"]))
print("fourth", main([*everything, "--rows", "step V=" + impossible]))
print("fifth", main([*everything, "--rows", "attention V=9 level 1*"]))
"""


@pytest.fixture(scope="module")
def called(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict]:
    out = tmp_path_factory.mktemp("bench") / "bench.json"
    command = [sys.executable, "-c", CALLS, str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout, json.loads(out.read_text())


def test_it_needs_no_cluster_package(called: tuple[str, dict]) -> None:
    text, held = called
    assert [line for line in text.splitlines() if line.split()[0] in ("first", "second", "third", "fourth", "fifth")] == [
        f"{name} 0" for name in ("first", "second", "third", "fourth", "fifth")
    ]
    assert held["machine"]["torch"] and held["machine"]["shapes"] == "tiny"
    step = held["rows"]["step V=2"]
    assert step["status"] == "ok" and step["seconds"] > 0 and step["tflop"] > 0
    rate = max(row["tflops"] for name, row in held["rows"].items() if name.startswith("matmul"))
    assert step["mfu"] == pytest.approx(step["tflop"] / step["seconds"] / rate)


def test_what_was_measured_is_not_measured_again(called: tuple[str, dict]) -> None:
    second = called[0].split("first 0")[1].split("second 0")[0]
    assert second.count("(measured before)") == 2 and "rows left" in second and "step V=2" in second


def test_a_row_that_cannot_fit_is_a_row_with_its_reason(called: tuple[str, dict]) -> None:
    row = called[1]["rows"]["step V=1000000000000"]
    assert row["status"] == "out of memory" and "allocate" in row["reason"]


def test_every_attention_backend_has_a_line(called: tuple[str, dict]) -> None:
    rows = {name.split()[-1]: row for name, row in called[1]["rows"].items() if name.startswith("attention V=9 level 1")}
    assert set(rows) == {"xformers", "flash", "cudnn", "efficient", "math", "products", "reference"}
    assert all(row["status"] == "ok" or row["reason"] for row in rows.values())
    assert rows["math"]["status"] == rows["reference"]["status"] == "ok"


def test_results_of_another_machine_are_refused(called: tuple[str, dict], tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    held = dict(called[1], machine={**called[1]["machine"], "device": "another"})
    (tmp_path / "other.json").write_text(json.dumps(held))
    assert main(["--shapes", "tiny", "--out", str(tmp_path / "other.json")]) == 2
    assert "another" in capsys.readouterr().err
    with pytest.raises(UserError, match="device"):
        Results(tmp_path / "other.json", called[1]["machine"])


def test_the_command_line_has_it_too(capsys: pytest.CaptureFixture) -> None:
    assert mvforge(["bench", "train", "--shapes", "full", "--list"]) == 0
    names = capsys.readouterr().out.splitlines()
    wanted = [
        "matmul 8192",
        "sample 32 views ddpm 75",
        "step ragged packed",
        "step V=33 cuda graphs",
        "attention V=33 level 0 135168 tokens flash",
    ]
    assert set(wanted) <= set(names) and [name for name in names if name.startswith("step V=")][:4] == [
        f"step V={v}" for v in (9, 18, 33, 42)
    ]
    assert len(names) == len(set(names)), "a name is a row's identity in the results"


def test_failures_are_told_apart() -> None:
    def fail(error: Exception) -> dict:
        raise error

    assert attempt(lambda: fail(NotRun("no such kernel"))) == {"status": "not run", "reason": "no such kernel"}
    assert attempt(lambda: fail(RuntimeError("CUDA out of memory. Tried to allocate")))["status"] == "out of memory"
    assert attempt(lambda: fail(RuntimeError("No available kernel. Aborting execution.")))["status"] == "not run"
    assert attempt(lambda: fail(ValueError("a\nb"))) == {"status": "failed", "reason": "ValueError: a"}


def test_the_budget_ends_between_rows() -> None:
    done: list[str] = []
    rows = [Row(name, lambda name=name: done.append(name) or {}, seconds) for name, seconds in (("a", 1), ("b", 100), ("c", 1))]
    results = Results(None, {})
    assert measure_all(rows, results, 50.0, lambda line: None) == ["b", "c"], "order is kept: what follows may need what is left"
    assert done == ["a"] and measure_all(rows, results, None, lambda line: None) == [] and done == ["a", "b", "c"]


def test_goals_are_judged_at_full_size_only() -> None:
    rows = {
        "step V=9": {"status": "ok", "seconds": 0.2, "mfu": 0.4, "peak_gib": 20.0},
        "step V=9 compile": {"status": "ok", "seconds": 0.1, "mfu": 0.6, "peak_gib": 20.0},
        "step V=9 no optimiser": {"status": "ok", "seconds": 0.05, "mfu": 0.9, "peak_gib": 20.0},
        "step V=33": {"status": "ok", "seconds": 1.3, "mfu": 0.49, "peak_gib": 40.0},
        "sample 32 views dpm++ 25": {"status": "out of memory", "reason": "too much"},
    }
    outcomes = [goal.outcome for goal in goals(FULL, rows)]
    assert outcomes == ["60.0% (step V=9 compile), met", "49.0% (step V=33), missed", "6.5x, memory 2.0x, missed", "not run"]
    assert all("met" not in goal.outcome.split(", ")[-1] for goal in goals(TINY, rows)[:3])


def test_the_computed_column_of_the_docs_is_computed() -> None:
    full_size = (ROOT / "docs/benchmarks.md").read_text().split("## The CPU fallback")[0]
    rows = [line for line in full_size.splitlines() if line.startswith("| `")]
    table = {line.split("`")[1] if " / " not in line else "dropout": line for line in rows}

    def shown(row: str) -> float:
        return float(table[row].split("|")[2].strip().rstrip("x").replace(",", ""))

    full = {views: train_flops(FULL.unet, [views], FULL.latent_size) / 1e12 for views in (9, 18, 33, 42)}
    for views, tera in full.items():
        assert shown(f"step V={views}") == round(tera)
    assert shown("dropout") == round(full[33] / full[9], 1)
    forward, decode = unet_flops(FULL.unet, 33, 64).total, 32 * vae_flops(FULL.vae, 512)[1].total
    assert shown("sample 32 views dpm++ 25") == round((25 * forward + decode) / 1e12)
    assert shown("sample 32 views ddpm 75") == round((75 * forward + decode) / 1e12)
