"""A view store read by other people's tools, as docs/rendering.md shows it, and exported as WebDataset."""

import hashlib
import io
import json
import tarfile
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.dataset
import pytest
from PIL import Image

from infra.errors import UserError
from infra.storage import Location
from rendering.export_webdataset import export_webdataset, key_of
from rendering.view_set import ViewSet
from rendering.views import ViewStore, to_table, write_shards
from tests.rendering.test_views import assert_same, random_views, with_passes
from tests.s3_server import s3_folder

UIDS = ["a.b", "chair", "sofa/2", "table"]


@pytest.fixture(scope="module")
def sets() -> dict[str, ViewSet]:
    return {uid: with_passes(random_views(uid)) if uid == "chair" else random_views(uid) for uid in UIDS}


@pytest.fixture(scope="module")
def store(sets, tmp_path_factory) -> Location:
    """Four objects in two shards, with a ledger beside them."""
    place = Location(str(tmp_path_factory.mktemp("store")))
    write_shards(map(to_table, sets.values()), place, objects_per_shard=2)
    rows = [{"uid": uid, "split": "train", "licence": "CC0-1.0", "state": "done"} for uid in UIDS]
    (place / "ledger.parquet").write_table(pa.Table.from_pylist(rows))
    return place


def test_pandas_reads_the_columns_it_asks_for(store, sets):
    frame = pd.concat(
        pd.read_parquet(shard, columns=["uid", "images", "c2w"]) for shard in sorted(store.local_path().glob("part-*.parquet"))
    )
    row = frame.set_index("uid").loc["table"]
    with Image.open(io.BytesIO(row["images"][5])) as image:
        np.testing.assert_array_equal(np.asarray(image), sets["table"].rgba[5])
    np.testing.assert_array_equal(row["c2w"][5].reshape(4, 4), sets["table"].camera.c2w[5])
    assert list(pd.read_parquet(store.local_path() / "ledger.parquet")["uid"]) == UIDS


def test_arrow_prunes_row_groups_by_the_uids_statistics(store):
    dataset = pyarrow.dataset.dataset([str(path) for path in sorted(store.local_path().glob("part-*.parquet"))])
    chosen = pyarrow.dataset.field("uid") == "sofa/2"
    left = [len(fragment.subset(chosen).row_groups) for fragment in dataset.get_fragments()]
    assert sorted(left) == [0, 1]
    assert dataset.to_table(columns=["uid", "roles"], filter=chosen).num_rows == 1


@pytest.mark.ray
def test_ray_data_reads_shards_and_decodes_in_parallel(store, sets, ray_cluster):
    import ray.data

    from rendering.views import from_row

    shards = [str(path) for path in sorted(store.local_path().glob("part-*.parquet"))]
    dataset = ray.data.read_parquet(shards)
    assert dataset.count() == len(UIDS)
    means = dataset.map(lambda row: {"uid": row["uid"], "mean": float(from_row(row).rgba.mean())}).take_all()
    assert {row["uid"]: row["mean"] for row in means} == {uid: float(views.rgba.mean()) for uid, views in sets.items()}


def test_hugging_face_datasets_loads_and_streams(store, sets, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    import datasets

    shards = str(store.local_path() / "part-*.parquet")
    loaded = datasets.load_dataset("parquet", data_files=shards, split="train", cache_dir=str(tmp_path / "cache"))
    assert loaded["uid"][:] == UIDS and loaded.features["images"].feature.dtype == "binary"
    with Image.open(io.BytesIO(loaded[1]["images"][0])) as image:
        np.testing.assert_array_equal(np.asarray(image), sets["chair"].rgba[0])
    assert loaded[0]["depth"] is None and len(loaded[1]["depth"]) == 34
    pictures = loaded.select_columns(["uid", "images"]).cast_column("images", datasets.List(datasets.Image()))
    assert pictures[1]["images"][0].mode == "RGBA"
    streamed = datasets.load_dataset("parquet", data_files=shards, split="train", streaming=True, cache_dir=str(tmp_path / "cache"))
    assert [row["uid"] for row in streamed.select_columns(["uid"])] == UIDS


def test_webdataset_and_tarfile_read_the_export(store, sets, tmp_path):
    import webdataset

    out = Location(str(tmp_path))
    (out / "views-00009.tar").write_bytes(b"of an earlier, longer export")
    assert export_webdataset(ViewStore(store), out, passes=["depth", "normal"], objects_per_shard=3) == {
        "shards": 2,
        "objects": 4,
        "views": 136,
    }
    assert [entry.name for entry in out.children()] == ["views-00000.tar", "views-00001.tar"]
    urls = [str(tmp_path / "views-00000.tar"), str(tmp_path / "views-00001.tar")]
    samples = list(webdataset.WebDataset(urls, shardshuffle=False, empty_check=False))
    assert [sample["__key__"] for sample in samples] == [key_of(uid) for uid in UIDS]
    for uid, sample in zip(UIDS, samples, strict=True):
        views, about = sets[uid], json.loads(sample["json"])
        assert (about["uid"], about["rig"], about["views"], about["licence"], about["facts"]) == (
            uid,
            views.rig,
            34,
            "CC0-1.0",
            views.facts,
        )
        for index in (0, 33):
            with Image.open(io.BytesIO(sample[f"{index:03d}.png"])) as image:
                np.testing.assert_array_equal(np.asarray(image), views.rgba[index])
            camera = json.loads(sample[f"{index:03d}.json"])
            np.testing.assert_array_equal(np.reshape(camera["c2w"], (4, 4)), views.camera.c2w[index])
            assert camera["role"] == views.roles[index] and (camera["width"], camera["height"]) == (8, 8)
        assert ("000.depth.png" in sample) == ("depth_unit" in about) == (uid == "chair") and "000.albedo.png" not in sample
    with Image.open(io.BytesIO(samples[1]["007.depth.png"])) as image:
        np.testing.assert_array_equal(np.asarray(image), np.rint(sets["chair"].depth[7].astype(float) * 8192))
    with tarfile.open(urls[0]) as tar:
        members = tar.getmembers()
    assert members[0].name == "a%2Eb.json" and {(member.mtime, member.uid, member.gid, member.mode) for member in members} == {
        (0, 0, 0, 0o644)
    }


def test_the_same_store_exports_the_same_bytes_and_a_broken_export_leaves_no_half_shard(store, sets, tmp_path):
    digests = []
    for folder in ("one", "two"):
        export_webdataset(ViewStore(store), Location(str(tmp_path / folder)), bytes_per_shard=1)
        digests.append([hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted((tmp_path / folder).iterdir())])
    assert digests[0] == digests[1] and len(digests[0]) == 4
    with pytest.raises(KeyError):
        export_webdataset(ViewStore(store), Location(str(tmp_path / "x")), uids=["chair", "gone"])
    assert list((tmp_path / "x").iterdir()) == []
    with pytest.raises(UserError, match="unknown pass"):
        export_webdataset(ViewStore(store), Location(str(tmp_path / "y")), passes=["depht"])
    with pytest.raises(UserError, match="no objects"):
        export_webdataset(ViewStore(store), Location(str(tmp_path / "y")), uids=[])


@pytest.fixture(scope="module")
def bucket() -> Iterator[Location]:
    """An empty bucket behind a real S3 protocol server."""
    with s3_folder("set") as url:
        yield Location(url)


def test_a_store_on_s3_is_written_read_by_uid_and_exported(bucket, sets, store):
    assert write_shards(map(to_table, sets.values()), bucket, objects_per_shard=2) == 4
    there = ViewStore(bucket)
    assert there.uids() == UIDS
    assert_same(there.read("sofa/2"), sets["sofa/2"])
    np.testing.assert_array_equal(there.read("chair", passes=["albedo"]).albedo, sets["chair"].albedo)
    export_webdataset(there, bucket / "tar", objects_per_shard=3)
    export_webdataset(ViewStore(store), bucket / "from-local", objects_per_shard=3)
    with tarfile.open(fileobj=io.BytesIO((bucket / "tar" / "views-00000.tar").read_bytes())) as tar:
        assert tar.getnames()[0] == "a%2Eb.json"
    packed = replace(sets["chair"], uid="late")
    with pytest.raises(RuntimeError):
        write_shards((table for table in [to_table(packed), None] if table is not None or _fail()), bucket / "half")
    assert (bucket / "half").children() == []


def _fail() -> bool:
    raise RuntimeError("lost")
