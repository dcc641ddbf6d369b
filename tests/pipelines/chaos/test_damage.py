"""Damage that is done on purpose is damage that the readers notice, by name and with the mend."""

import json
import os
from pathlib import Path
from random import Random

import numpy as np
import pyarrow as pa
import pytest

from infra.shards import DamagedShard
from infra.storage import Location
from pipelines.chaos import damage
from training.encoded import EncodedStore, to_table, write_shards


def build(store: Path, step: str, name: str = "b1") -> Path:
    folder = store / step / "smoke" / name
    folder.mkdir(parents=True)
    (folder.parent / "record.json").write_text(json.dumps({"build_id": name}))
    return folder


@pytest.mark.parametrize("seed", range(6))
def test_a_flipped_byte_is_noticed_at_the_object_and_only_there(tmp_path: Path, seed: int):
    random = np.random.default_rng(seed)
    arrays = {uid: {"latents": random.normal(size=(64, 64)).astype(np.float32)} for uid in ("held", "one", "two")}
    Location(str(build(tmp_path, "curate") / "kept.parquet")).write_table(
        pa.table({"uid": list(arrays), "split": ["test", "train", "train"]})
    )
    shards = build(tmp_path, "encode")
    write_shards([to_table(uid, each) for uid, each in arrays.items()], Location(str(shards)))
    hit = damage.corrupt_shard(tmp_path, "encode", Random(seed))
    assert hit is not None and "latents of " in hit
    damaged, store = hit.rpartition(" ")[2], EncodedStore(Location(str(shards)))
    assert damaged in ("one", "two")
    with pytest.raises(DamagedShard, match=f"damaged at object {damaged}") as caught:
        store.read(damaged)
    assert "--rerun encode" in caught.value.mend
    for uid in {"held", "one", "two"} - {damaged}:
        assert np.array_equal(store.read(uid)["latents"], arrays[uid]["latents"])


def test_without_a_finished_build_there_is_nothing_to_damage(tmp_path: Path):
    assert damage.corrupt_shard(tmp_path, "render", Random(0)) is None
    assert damage.truncate_checkpoint(tmp_path, "train.mvae", Random(0)) is None


def test_the_newest_whole_checkpoint_is_cut(tmp_path: Path):
    for step in ("00000004", "00000008", "00000012"):
        place = tmp_path / "train.mvae" / "smoke" / "b1" / "state" / "b1" / f"step-{step}-ab"
        place.mkdir(parents=True)
        (place / "weights.pt").write_bytes(b"w" * 1000)
        if step != "00000012":
            (place / "manifest.json").write_text(json.dumps({"body": {"files": {"weights.pt": {}}}}))
    hit = damage.truncate_checkpoint(tmp_path, "train.mvae", Random(0))
    sizes = {path.parent.name: path.stat().st_size for path in tmp_path.rglob("weights.pt")}
    assert hit is not None and sizes == {"step-00000004-ab": 1000, "step-00000008-ab": 500, "step-00000012-ab": 1000}


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
def test_a_full_disk_is_full_and_then_is_not(tmp_path: Path):
    store = tmp_path / "store"
    if why := damage.mount(store):
        pytest.skip(why)
    try:
        damage.fill(store)
        with pytest.raises(OSError, match="No space left"):
            Location(str(store / "x.json")).write_json({"a": 1})
        assert not [path for path in store.iterdir() if path.name != damage.FILLER], "a writer that failed leaves nothing"
        damage.empty(store)
        Location(str(store / "x.json")).write_json({"a": 1})
    finally:
        damage.unmount(store)
    assert not os.path.ismount(store) and not list(store.iterdir())
