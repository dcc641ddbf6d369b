"""The single tools, chained as a person with other data would: render, export, reconstruct, score."""

import json
import shutil
from pathlib import Path

import pytest

from tests.e2e.conftest import Chain

pytestmark = [pytest.mark.ray, pytest.mark.blender, pytest.mark.slow]


def test_render_export_reconstruct_score(smoke_chain: Chain, tmp_path: Path):
    folder = tmp_path / "objects"
    folder.mkdir()
    good = sorted((smoke_chain.store / "fetch" / "_cache" / "files").glob("*.glb"))[:2]
    for path in good:
        shutil.copy(path, folder)
    (folder / "broken.glb").write_bytes(b"neither magic nor header")
    chain = Chain(tmp_path / "home", {})
    store = str(tmp_path / "views")
    render = ["render", "--source", f"local:{folder}", "--store", store, "--resolution", "48", "--samples", "2", "--conditions", "1"]
    first = chain.mvforge(*render)
    assert (first["completed"], first["failed"]) == (2, 1)
    assert [row["reason"] for row in first["failures"]] == ["bad_header"]
    pieces = {path: path.stat().st_mtime_ns for path in (tmp_path / "views" / "_cache" / "render").rglob("*.arrow")}
    assert len(pieces) == 2 and chain.mvforge(*render)["completed"] == 2
    assert pieces == {path: path.stat().st_mtime_ns for path in (tmp_path / "views" / "_cache" / "render").rglob("*.arrow")}

    from infra.storage import Location
    from rendering.views import ViewStore

    (status,) = chain.mvforge("status", "render", "--store", store)["renders"]
    assert (status["state"], status["done"], status["failed"], status["reasons"]) == ("finished", 2, 1, {"bad_header": 1})
    assert chain.mvforge("export-webdataset", "--store", store, "--out", str(tmp_path / "tar"))["views"] == 2 * 33
    assert [path.name for path in (tmp_path / "tar").iterdir()] == ["views-00000.tar"]
    uid = ViewStore(Location(store)).uids()[0]
    assert "nearest" in chain.mvforge("export-views", uid[:-2], "--store", store, "--out", str(tmp_path / "x"), status=2)["mend"]
    out = tmp_path / "exported"
    chain.mvforge("export-views", uid, "--store", store, "--out", str(out))
    assert len(json.loads((out / "transforms.json").read_text())["frames"]) == 33

    same = chain.mvforge("score-views", "--reference", str(out), "--generated", str(out))
    assert same["identical_views"] == same["completed"] == 33 and same["mask_iou"] == 1.0 and same["ssim"] == pytest.approx(1.0)
    mesh = tmp_path / "hull.glb"
    made = chain.mvforge(
        "reconstruct", "--views", str(out), "--out", str(mesh), "--resolution", "32", "--stages", "hull,clean,simplify,bake,export"
    )
    assert made["completed"] == 1 and mesh.read_bytes()[:4] == b"glTF"
    itself = chain.mvforge("score-mesh", "--reference", str(mesh), "--generated", str(mesh))
    assert itself["chamfer"] == pytest.approx(0.0, abs=1e-6) and itself["volume_iou"] == pytest.approx(1.0)
    assert {
        "accuracy",
        "completeness",
        "normal_consistency",
        "max_distance",
        "f_score@0.01",
        "f_score@0.02",
        "f_score@0.05",
    } <= itself.keys()


def test_a_missing_partner_is_named(chain: Chain, tmp_path: Path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    answer = chain.mvforge("score-views", "--reference", str(tmp_path / "a"), "--generated", str(tmp_path / "b"), status=2)
    assert str(tmp_path / "a") in answer["error"]


def test_the_render_step_in_detail(smoke_chain: Chain, capsys):
    (status,) = smoke_chain.mvforge("status", "smoke", "render")["renders"]
    assert (status["label"], status["state"], status["done"], status["waiting"]) == ("smoke", "finished", 6, 0)
    assert smoke_chain.mvforge("status", "render")["renders"] == [status]
    assert "no rendering of label" in smoke_chain.mvforge("status", "smoke", "render", "--label", "other", status=2)["error"]
