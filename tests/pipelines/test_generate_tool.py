"""`mvforge generate`: many objects on a real Ray cluster with a real (untrained) model, killed and gone on with."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from evaluation.generated_pieces import Pieces
from evaluation.infer.results import NOTED
from infra import tracking
from infra.seeds import seed_for
from infra.storage import Location
from pipelines.__main__ import main
from rendering.views import ViewStore
from tests.conftest import ROOT
from tests.s3_server import s3_folder
from tests.training.painted import painted_views
from tests.training.random_model import random_model
from training.lookup import load_generator
from training.photo import framed, given_views

GOOD = ["ball0", "ball1", "ball2", "ball3", "ball4", "masked", "sides"]
BAD = {"broken": "unreadable", "empty": "empty_mask", "opaque": "no_mask", "grey16": "wrong_mode", "eleven": "refused", "tiny": "too_small"}
MESHES = ("--set", "reconstruct.resolution=16", "--set", "reconstruct.stages=hull,export")
SETTINGS = ("--steps", "2", "--sampler", "ddim", "--seed", "5", "--sheets")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_model(tmp_path_factory.mktemp("generate"))


def painted(name: str) -> Image.Image:
    return Image.fromarray(painted_views(name, 80, 1).rgba[32])


def photos(folder: Path) -> Path:
    """The good objects and the bad ones."""
    for name in ("sides", "eleven"):
        (folder / name).mkdir(parents=True)
        for number in range(2 if name == "sides" else 11):
            painted(f"{name}{number}").save(folder / name / f"{number}.png")
    for name in GOOD[:5]:
        painted(name).save(folder / f"{name}.png")
    shown = Image.new("RGB", (80, 80), (90, 120, 70))
    cut = painted("masked")
    shown.paste(cut, mask=cut.getchannel("A"))
    shown.save(folder / "masked.jpg")
    cut.getchannel("A").save(folder / "masked_mask.png")
    shown.save(folder / "opaque.png")
    (folder / "broken.png").write_bytes((folder / "ball0.png").read_bytes()[:200])
    Image.new("RGBA", (80, 80)).save(folder / "empty.png")
    Image.fromarray(np.full((80, 80), 40000, np.uint16)).save(folder / "grey16.png")
    painted("tiny").resize((12, 12)).save(folder / "tiny.png")
    return folder


def mvforge(capsys: pytest.CaptureFixture[str], *arguments: str, status: int = 0) -> dict[str, Any]:
    assert main(["generate", *arguments, "--json"]) == status
    return json.loads(capsys.readouterr().out)


def rows_of(out: Path) -> dict[str, dict[str, Any]]:
    rows = pq.read_table(out / "manifest.parquet").to_pylist()
    assert rows == [json.loads(line) for line in (out / "manifest.jsonl").read_text().splitlines()]
    assert [row["uid"] for row in rows] == sorted({row["uid"] for row in rows})
    return {row["uid"]: row for row in rows}


def killed_after(command: list[str], pieces: Location, count: int, environment: dict[str, str]) -> dict[str, dict[str, Any]]:
    """Run until so many pieces are there, then kill -9; the finished ones' notes by uid."""
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    deadline = time.monotonic() + 300
    found = Pieces(pieces, columns=NOTED)
    while len(names := found.names()) < count:
        assert process.poll() is None, process.stderr.read()[-3000:]
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    return {entry["uid"]: entry for entry in map(found.entry, names)}


@pytest.mark.ray
@pytest.mark.slow
def test_a_killed_job_goes_on_and_bad_pictures_are_rows(
    ray_cluster: None, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import ray

    monkeypatch.setenv("MVFORGE_HOME", str(tmp_path / "home"))
    given, out = photos(tmp_path / "photos"), tmp_path / "out"
    asked = ["--model", str(model), "--input", str(given), "--out", str(out), *SETTINGS]
    environment = {**os.environ, "RAY_ADDRESS": ray.get_runtime_context().gcs_address, "PYTHONPATH": str(ROOT)}
    script = [sys.executable, str(ROOT / "pipelines" / "infer.py"), *asked, "--workers", "2"]
    before = killed_after(script, Location(str(out / "work" / "pieces")), 3, environment)
    assert 3 <= len(before) < len(GOOD) + len(BAD) and not (out / "summary.json").exists()

    # The same command, another number of workers: what was finished stays, the rest is made, all of it once.
    result = mvforge(capsys, *asked, "--workers", "1", "--mesh", *MESHES)
    rows = rows_of(out)
    assert {uid for uid, row in rows.items() if row["status"] == "ok"} == set(GOOD)
    assert {uid: row["reason"] for uid, row in rows.items() if row["status"] != "ok"} == BAD
    assert (result["completed"], result["failed"], result["problems"]) == (len(GOOD), len(BAD), [])
    assert result["this_call"]["made"] <= len(rows) - len(before)
    for uid, noted in before.items():
        assert {name: rows[uid][name] for name in ("worker", "seconds", "attempts", "status", "views_sha256")} == {
            name: noted[name] for name in ("worker", "seconds", "attempts", "status", "views_sha256")
        }
    uids = [uid for part in sorted((out / "views").glob("*.parquet")) for uid in pq.read_table(part, columns=["uid"]).column(0).to_pylist()]
    assert sorted(uids) == sorted(GOOD)
    assert not list((out / "work").iterdir())
    assert all((out / "sheets" / f"{uid}.png").exists() for uid in GOOD) and rows["eleven"]["detail"].startswith("11 condition pictures")
    assert {row["mesh_status"] for row in rows.values()} - {None} and all(
        (rows[uid]["mesh_status"] is None) == (uid in BAD) for uid in rows
    )

    # An object's views are those of a plain call in this process, with the seed that the manifest names.
    import torch

    torch.set_num_threads(1)
    generator, made = load_generator(model, "cpu"), ViewStore(Location(str(out / "views")))
    for uid, files in (("ball3", ["ball3.png"]), ("sides", ["sides/0.png", "sides/1.png"])):
        shown = given_views(uid, np.stack([framed(np.asarray(Image.open(given / file)), 512) for file in files]))
        assert rows[uid]["seed"] == seed_for(5, uid) and rows[uid]["pictures"] == len(files)
        wanted = generator.generate(shown, rows[uid]["seed"], steps=2, sampler="ddim").rgba
        np.testing.assert_array_equal(made.read(uid).rgba, wanted * (wanted[..., 3:] > 0))

    # Again: nothing is left to make. Another job in this folder is refused.
    assert mvforge(capsys, *asked)["this_call"]["made"] == 0
    assert "steps 2 -> 3" in mvforge(capsys, *asked[:-5], "--steps", "3", "--sampler", "ddim", status=2)["error"]

    # What a person damages is found.
    shard = out / rows["ball1"]["views_file"]
    data = bytearray(shard.read_bytes())
    data[data.find(b"VP8L", len(data) // 2) + 40] ^= 1
    shard.write_bytes(data)
    (out / "meshes" / "ball0.glb").unlink(missing_ok=True)
    (out / "sheets" / "ball0.png").unlink()
    problems = {problem["file"]: problem["problem"] for problem in mvforge(capsys, "--verify", str(out), status=1)["problems"]}
    absent = {
        name: "absent"
        for name in ("meshes/ball0.glb", "sheets/ball0.png")
        if name in (rows["ball0"]["mesh_file"], rows["ball0"]["sheet_file"])
    }
    assert problems == {rows["ball1"]["views_file"]: "its views are not those that were made"} | absent


@pytest.fixture
def bucket() -> Iterator[str]:
    """URL of a folder in an empty bucket of a real S3 server."""
    with s3_folder("infer") as url:
        yield url


@pytest.mark.ray
@pytest.mark.long
def test_from_a_bucket_to_a_bucket_with_a_registered_model(
    ray_cluster: None,
    model: Path,
    bucket: str,
    tracking_uri: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("MVFORGE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracking_uri)
    run = tracking.open_run(tracking_uri, "test", "register")
    columns = {"image": "binary"}
    version = tracking.register(
        tracking_uri,
        name="painter",
        folder=model,
        loader_module="training.served",
        input_columns=columns,
        output_columns=columns,
        tags={},
        description="",
        run=run,
        build_id="b1",
    )
    tracking.set_alias(tracking_uri, version, "chosen")
    base, out = Location(bucket), Location(bucket) / "out"
    (base / "photos").upload(photos(tmp_path / "photos"))
    rows = [{"uid": uid, "image": (tmp_path / "photos" / f"{uid}.png").read_bytes()} for uid in ("ball0", "broken", "ball1")]
    (base / "tables" / "a.parquet").write_table(pa.Table.from_pylist(rows), row_group_size=2)

    asked = ["--model", "models:/painter@chosen", "--out", str(out), *SETTINGS]
    result = mvforge(capsys, *asked, "--input", str(base / "photos"), "--mesh", *MESHES)
    assert (result["completed"], result["reasons"], result["problems"]) == (len(GOOD), {reason: 1 for reason in BAD.values()}, [])
    table = (out / "manifest.parquet").read_table().to_pylist()
    assert "test:test" not in json.dumps(table) and "test:test" not in (out / "job.json").read_text()
    assert {row["uid"] for row in table if row["status"] == "ok"} == set(GOOD) and result["model"] == "models:/painter/1"

    # A deleted shard: its objects are made again, to the same bytes, and nothing else is.
    before = {row["uid"]: row["views_sha256"] for row in table}
    (out / table[0]["views_file"]).delete()
    again = mvforge(capsys, *asked, "--input", str(base / "photos"))
    assert again["this_call"]["made"] == len(GOOD) and again["problems"] == []
    assert {row["uid"]: row["views_sha256"] for row in (out / "manifest.parquet").read_table().to_pylist()} == before

    # The same pictures as rows of a Parquet file are the same objects.
    other = base / "from-rows"
    result = mvforge(capsys, *[str(other) if word == str(out) else word for word in asked], "--input", str(base / "tables"))
    found = {row["uid"]: row for row in (other / "manifest.parquet").read_table().to_pylist()}
    assert (result["completed"], found["broken"]["reason"]) == (2, "unreadable")
    assert {uid: found[uid]["views_sha256"] for uid in ("ball0", "ball1")} == {uid: before[uid] for uid in ("ball0", "ball1")}
    assert found["ball1"]["source"].startswith("s3://***@forge/infer/tables/a.parquet")


def test_mistakes_and_help(tmp_path: Path, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    painted("one").save(tmp_path / "one.png")
    asked = {"--model": str(model), "--input": str(tmp_path / "one.png"), "--out": str(tmp_path / "out")}
    for change, message in (
        ({"--input": ""}, "--input is missing"),
        ({"--input": str(tmp_path / "absent")}, "no such input"),
        ({"--model": str(tmp_path)}, "is not a generator folder"),
        ({"--conditions": "0"}, "0 pictures"),
        ({"--set": "reconstruct.resolution=8"}, "without --mesh"),
        ({"--verify": str(tmp_path)}, "no finished batch job"),
        ({"--out": str(model)}, "holds other files"),
    ):
        assert message in mvforge(capsys, *(word for pair in (asked | change).items() for word in pair), status=2)["error"]
    assert not (tmp_path / "out").exists()
    with pytest.raises(SystemExit):
        main(["generate", "--help"])
    text = capsys.readouterr().out
    assert "example:\n  mvforge generate" in text and "ray job submit" in text and "--verify" in text and "mvforge infer" in text
