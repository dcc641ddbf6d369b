"""A handful of faults through the very command, and that its checks see what is wrong."""

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.chaos import invariants, processes
from tests.conftest import ROOT
from tests.e2e.conftest import Chain

pytestmark = [pytest.mark.ray, pytest.mark.blender, pytest.mark.slow]

STEPS = ["catalog", "fetch", "render", "curate", "train.mvae", "encode", "train.unet1", "train.unet2", "train.unet3"]
STEPS += ["register", "generate", "reconstruct", "score", "gate", "report"]


def test_five_faults_and_everything_is_right(smoke_chain: Chain, tmp_path: Path):
    out = tmp_path / "chaos"
    words = ["--recipe", "smoke", "--only", "data", "--reference", str(smoke_chain.store), "--seed", "7"]
    limits = ["--faults", "5", "--per-pass", "5", "--kinds", "blender,actor,driver,mlflow,disk_full", "--disk-full", "2"]
    done = subprocess.run(
        [sys.executable, "-m", "pipelines", "chaos", "--out", str(out), *words, *limits, "--minutes", "0.1", "--json"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, f"{done.stdout[-1500:]}\n{done.stderr[-3000:]}"
    result = json.loads(done.stdout)
    rows = [json.loads(line) for line in (out / "faults.jsonl").read_text().splitlines()]
    injected = [row for row in rows if row["state"] == "injected"]
    assert result["faults"] == len(injected) >= 3 and result["passes"] == {"held": 1, "broken": 0}
    assert all(row["recovery_s"] > 0 and row["hit"] and row["outcome"] for row in injected)
    (passed,) = [json.loads(line) for line in (out / "passes.jsonl").read_text().splitlines()]
    assert passed["broken"] == [] and passed["starts"] >= 1 + sum(row["kind"] == "driver" for row in injected)
    assert not processes.of_run(str(out / "pass-001")) and not (out / "pass-001" / "store").exists()
    assert "driver killed" in (out / "table.md").read_text()
    last = max((out / "pass-001" / "logs").glob("driver-*.json"))
    assert json.loads(last.read_text())["steps"]["render"]["completed"] == 6
    assert not any(row["repeated"] for row in injected if row["kind"] == "driver"), "what was finished is not rendered again"


def test_only_the_run_s_own_processes_are_found(tmp_path: Path):
    own = subprocess.Popen(["sleep", "60"], env={"PATH": f"/usr/bin:/bin:{tmp_path}"})
    other = subprocess.Popen(["sleep", "60"], env={"PATH": f"/usr/bin:/bin:{tmp_path}/deeper"})
    try:
        assert [each.pid for each in processes.of_run(str(tmp_path))] == [own.pid]
        own.send_signal(signal.SIGSTOP)
        assert [each.pid for each in processes.end_all(str(tmp_path))] == [own.pid], "a paused one too"
        assert own.wait(10) == -signal.SIGKILL and other.poll() is None
    finally:
        own.kill()
        other.kill()


def shard(chain: Chain, store: Path, step: str) -> Path:
    return store / step / "smoke" / chain.record(step)["build_id"] / "part-00000.parquet"


def double_an_object(chain: Chain, store: Path) -> None:
    table = pq.read_table(shard(chain, store, "render"))
    pq.write_table(pa.concat_tables([table, table.slice(0, 1)]), shard(chain, store, "render"))


def change_a_picture(chain: Chain, store: Path) -> None:
    table = pq.read_table(shard(chain, store, "render"))
    images = table.column("images").to_pylist()
    images[0][0] = images[0][1]
    table = table.set_column(table.schema.get_field_index("images"), "images", pa.array(images, table.schema.field("images").type))
    pq.write_table(table, shard(chain, store, "render"))


def repeat_an_update(chain: Chain, store: Path) -> None:
    history = store / "train.unet1" / "smoke" / chain.record("train.unet1")["build_id"] / "history.jsonl"
    lines = history.read_text().splitlines()
    history.write_text("\n".join([*lines[:2], lines[1], *lines[2:]]) + "\n")


def another_loss(chain: Chain, store: Path) -> None:
    history = store / "train.unet1" / "smoke" / chain.record("train.unet1")["build_id"] / "history.jsonl"
    rows = [json.loads(line) for line in history.read_text().splitlines()]
    rows[1]["loss"] *= 1.01
    history.write_text("".join(json.dumps(row) + "\n" for row in rows))


def lose_a_row(chain: Chain, store: Path) -> None:
    ledger = store / "render" / "smoke" / chain.record("render")["build_id"] / "ledger.parquet"
    pq.write_table(pq.read_table(ledger).slice(1), ledger)


def leave_a_lease(chain: Chain, store: Path) -> None:
    (store / "render" / "smoke" / "lease.json").write_text("{}")


def leave_a_build(chain: Chain, store: Path) -> None:
    (store / "render" / "smoke" / "20260101T000000-abcdef").mkdir()


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (double_an_object, "render: more than once in the shards"),
        (change_a_picture, "render: the shards differ"),
        (lose_a_row, "render: the ledger differs"),
        (repeat_an_update, "train.unet1: history.jsonl has steps [1, 2, 2, 3]"),
        (another_loss, "train.unet1: history.jsonl differs at step 2: loss"),
        (leave_a_lease, "render: lease.json was left"),
        (leave_a_build, "render: builds that no record names were left"),
    ],
)
def test_what_is_wrong_is_said(smoke_chain: Chain, tmp_path: Path, wrong: Callable[..., Any], said: str):
    store = tmp_path / "store"
    shutil.copytree(smoke_chain.store, store)

    def broken() -> list[str]:
        checks = [invariants.objects, invariants.curves, invariants.figures]
        return [*invariants.records(store, STEPS), *(text for check in checks for text in check(store, smoke_chain.store, STEPS))]

    assert broken() == []
    wrong(smoke_chain, store)
    found = broken()
    assert len(found) >= 1 and any(text.startswith(said) for text in found), found
