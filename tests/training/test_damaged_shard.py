"""A damaged shard stops the step that reads it, with the mend; it is not taken for a fault of the object."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from infra.errors import UserError
from infra.job import Job
from infra.storage import Location
from tests.training.test_loop import CONFIG
from tests.training.toy import ToyConfig, write_objects
from training import encode
from training.data import DataLocations
from training.stage import StageInputs, fit_local


def flip_bytes(shard: Path, group: int) -> str:
    """Change bytes in the middle of a row group's largest column; returns the object's uid."""
    with pq.ParquetFile(shard) as file:
        columns = [file.metadata.row_group(group).column(i) for i in range(file.metadata.num_columns)]
        largest = max(columns, key=lambda column: column.total_compressed_size)
        uid = file.read_row_group(group, columns=["uid"]).column("uid")[0].as_py()
    data = bytearray(shard.read_bytes())
    middle = largest.data_page_offset + largest.total_compressed_size // 2
    data[middle] ^= 0xFF
    shard.write_bytes(bytes(data))
    return uid


@pytest.mark.ray
def test_encoding_stops_at_a_damaged_shard_and_says_what_to_do(ray_cluster, tmp_path: Path):
    root = Location(str(tmp_path))
    views, kept = write_objects(root, train=4, val=2)
    fit_local(CONFIG, StageInputs(DataLocations(views, kept)), root / "first")
    (shard,) = sorted(views.local_path().glob("part-*.parquet"))
    uid = flip_bytes(shard, 2)
    config = encode.EncodeConfig(method=CONFIG.method, model=ToyConfig(), stage="first")
    with pytest.raises(UserError, match=f"damaged at object {uid}") as caught:
        encode.run(config, views=views, kept=kept, checkpoint=root / "first", out=root / "out", job=Job())
    assert type(caught.value).__name__ == "DamagedShard" and "--rerun render" in caught.value.mend
    assert not (root / "out" / "ledger.parquet").exists()


def test_training_stops_at_a_damaged_shard(tmp_path: Path):
    root = Location(str(tmp_path))
    views, kept = write_objects(root, train=4, val=2)
    (shard,) = sorted(views.local_path().glob("part-*.parquet"))
    uid = flip_bytes(shard, 1)
    with pytest.raises(UserError, match=f"damaged at object {uid}"):
        fit_local(CONFIG, StageInputs(DataLocations(views, kept)), root / "first")
