"""The store on S3: the data steps against a real S3 protocol server (moto), with a rerun that reuses."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from infra.storage import Location
from tests.e2e.conftest import Chain
from tests.s3_server import s3_folder
from training.checkpoint import SharedCheckpoints

pytestmark = [pytest.mark.ray, pytest.mark.blender, pytest.mark.slow]


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    """URL of an empty bucket."""
    with s3_folder("store") as url:
        yield url


def test_locations_on_s3(bucket):
    place = Location(bucket) / "folder" / "note.json"
    assert not place.exists()
    place.write_json({"a": 1})
    assert place.read_json() == {"a": 1} and place.name == "note.json"
    assert [entry.name for entry in (Location(bucket) / "folder").children()] == ["note.json"]
    with (Location(bucket) / "folder").as_local() as local:
        assert (local / "note.json").exists()
    (Location(bucket) / "folder").delete()
    assert not place.exists()


def test_keys_in_a_url_are_not_shown():
    place = Location("s3://key:secret@forge/store?endpoint_override=localhost:1&scheme=http") / "report.html"
    assert place.shown == "s3://***@forge/store/report.html?endpoint_override=localhost:1&scheme=http"
    assert Location("/data/a@b").shown == "/data/a@b"


def test_training_checkpoints_on_s3(bucket):
    place = Location(bucket) / "checkpoints"
    checkpoints = SharedCheckpoints(place, keep=2)
    for step in (6, 12, 18):
        checkpoints.save(step, lambda folder, step=step: (folder / "share.bin").write_bytes(bytes([step]) * 500), {"step": step}, None)
        checkpoints.close()
    names = [entry.name for entry in place.children()]
    assert [name.split("-")[1] for name in names] == ["00000012", "00000018"]
    (place / names[-1] / "share.bin").write_bytes(bytes([18]) * 499 + b"x")
    with SharedCheckpoints(place).latest() as saved:
        assert saved.state == {"step": 12} and (saved.folder / "share.bin").read_bytes() == bytes([12]) * 500


def test_the_data_steps_on_s3(bucket, tmp_path: Path, ray_cluster):
    chain = Chain(tmp_path, {})
    result = chain.mvforge("run", "smoke", "--only", "data", "--store", bucket)
    assert result["ran"] == ["catalog", "fetch", "render", "curate"]
    assert result["steps"]["render"]["completed"] == 6
    assert chain.mvforge("run", "smoke", "--only", "data", "--store", bucket)["ran"] == []
    names = {entry.name.split("/")[-1] for entry in (Location(bucket) / "render" / "smoke").walk()}
    assert {"record.json", "ledger.parquet", "part-00000.parquet", "sheet.webp"} <= names and "lease.json" not in names


@pytest.mark.long
def test_the_whole_chain_on_s3(bucket, tmp_path: Path, ray_cluster):
    """Training checkpoints, the generator folder, meshes and the report go through the object store too."""
    chain = Chain(tmp_path, {})
    url = bucket.replace("/store?", "/whole?")
    result = chain.mvforge("run", "smoke", "--store", url)
    assert result["ran"][-1] == "report" and len(result["ran"]) == 15
    assert (Location(result["steps"]["report"]["path"]) / "report.html").exists()
    assert chain.mvforge("run", "smoke", "--store", url)["ran"] == []
