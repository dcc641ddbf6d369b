"""A folder of strangers' files, some broken: the good ones go through, the bad ones are recorded, nothing is redone."""

import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.e2e.conftest import Chain

pytestmark = [pytest.mark.ray, pytest.mark.blender, pytest.mark.slow]


def outcomes(chain: Chain, label: str) -> dict[str, tuple[str, str]]:
    rows = pq.read_table(chain.data("render", label) / "ledger.parquet", columns=["uid", "status", "reason"]).to_pylist()
    return {row["uid"]: (row["status"], row["reason"]) for row in rows}


def test_broken_files_are_recorded_and_can_be_mended(smoke_chain: Chain, tmp_path: Path):
    folder = tmp_path / "objects"
    folder.mkdir()
    good = sorted((smoke_chain.store / "fetch" / "_cache" / "files").glob("*.glb"))
    for number, path in enumerate(good):
        shutil.copy(path, folder / f"object {number}?; $(touch x) 'quoted' #1.glb")
    (folder / "broken.glb").write_bytes(good[0].read_bytes()[:500])
    (folder / "notes.txt").write_text("not an object")
    chain = Chain(tmp_path / "home", {})
    run = ["run", "smoke", "--set", f"source=local:{folder}", "--label", "folder", "--only", "data"]
    result = chain.mvforge(*run)
    assert (result["steps"]["fetch"]["completed"], result["steps"]["fetch"]["failed"]) == (len(good), 1)
    assert result["steps"]["render"]["completed"] == len(good)
    broken = {uid: outcome for uid, outcome in outcomes(chain, "folder").items() if outcome[0] != "ok"}
    assert len(broken) == 1 and next(iter(broken)).startswith("broken")
    assert next(iter(broken.values()))[1] in ("truncated", "bad_header")

    # The folder changes: the catalog is stale, only the new file is rendered.
    shutil.copy(good[0], folder / "broken.glb")
    again = chain.mvforge(*run)
    assert again["ran"] == ["catalog", "fetch", "render", "curate"]
    assert again["steps"]["render"]["completed"] == len(good) + 1 and again["steps"]["render"]["failed"] == 0
    assert again["steps"]["render"]["facts"]["rendered_now"] == 1


def test_retry_failed_touches_only_what_failed(smoke_chain: Chain, tmp_path: Path, monkeypatch):
    folder = tmp_path / "objects"
    folder.mkdir()
    good = sorted((smoke_chain.store / "fetch" / "_cache" / "files").glob("*.glb"))
    for number, path in enumerate(good):
        shutil.copy(path, folder / f"object{number}.glb")
    chain = Chain(tmp_path / "home", {})
    chain.mvforge("run", "smoke", "--set", f"source=local:{folder}", "--label", "folder", "--only", "data")
    before = pq.read_table(chain.data("render", "folder") / "ledger.parquet", columns=["uid", "attempts", "seconds"]).to_pylist()
    result = chain.mvforge("run", "smoke", "--set", f"source=local:{folder}", "--label", "folder", "--retry-failed", "render")
    assert result["ran"] == ["render"] and result["steps"]["render"]["facts"]["rendered_now"] == 0
    after = pq.read_table(chain.data("render", "folder") / "ledger.parquet", columns=["uid", "attempts", "seconds"]).to_pylist()
    assert after == before
