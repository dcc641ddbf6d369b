from collections import Counter

import numpy as np
import pytest

from infra.errors import UserError
from infra.job import Job, Resources
from infra.storage import Location
from rendering.views import ViewStore
from tests.training.test_loop import CONFIG
from tests.training.toy import ToyConfig, mean_colours, write_objects
from training import encode
from training.data import DataLocations
from training.encoded import EncodedStore, to_table
from training.stage import StageInputs, fit_local


@pytest.mark.ray
def test_objects_are_encoded_once_failures_are_rows_and_finished_pieces_are_kept(ray_cluster, tmp_path):
    root = Location(str(tmp_path))
    views, kept = write_objects(root, train=4, val=2)
    fit_local(CONFIG, StageInputs(DataLocations(views, kept)), root / "first")
    config = encode.EncodeConfig(method=CONFIG.method, model=ToyConfig(poison="object-002"), stage="first")
    # What an interrupted call left behind: it must be taken as it is.
    (root / "out" / "pieces" / "object-004.parquet").write_table(to_table("object-004", {"mean": np.full((1, 3), 7.0)}))
    summary = encode.run(config, views=views, kept=kept, checkpoint=root / "first", out=root / "out", job=Job())

    assert (summary.completed, summary.failed) == (5, 1)
    store = EncodedStore(root / "out")
    assert store.uids() == [f"object-{n:03d}" for n in (0, 1, 3, 4, 5)]
    np.testing.assert_array_equal(store.read("object-004")["mean"], np.full((1, 3), 7.0))
    for uid in ("object-000", "object-005"):
        np.testing.assert_array_equal(store.read(uid)["mean"], mean_colours(ViewStore(views).read(uid)))
    failed = [row for row in (root / "out" / "ledger.parquet").read_table().to_pylist() if row["status"] != "ok"]
    assert failed == [{"uid": "object-002", "status": "failed", "reason": "ValueError", "detail": "this object cannot be encoded"}]
    assert {entry.name for entry in (root / "out").children()} == {"part-00000.parquet", "ledger.parquet"}


@pytest.mark.ray
def test_an_object_that_kills_its_worker_is_given_up_and_its_neighbours_are_encoded_once(ray_cluster, tmp_path, monkeypatch):
    """All objects lie in one block, which Ray gives to the next worker whole."""
    monkeypatch.setattr(encode, "MOST_BLOCKS", 1)
    monkeypatch.setattr(encode, "BLOCKS_PER_WORKER", 1)
    root = Location(str(tmp_path))
    views, kept = write_objects(root, train=4, val=1)
    fit_local(CONFIG, StageInputs(DataLocations(views, kept)), root / "first")
    (tmp_path / "kill-object-002").touch()
    config = encode.EncodeConfig(method=CONFIG.method, model=ToyConfig(crash=str(tmp_path)), stage="first")
    job = Job(resources=Resources(workers=1))
    summary = encode.run(config, views=views, kept=kept, checkpoint=root / "first", out=root / "out", job=job)

    assert (summary.completed, summary.failed) == (4, 1)
    (failed,) = [row for row in (root / "out" / "ledger.parquet").read_table().to_pylist() if row["status"] != "ok"]
    assert (failed["uid"], failed["reason"]) == ("object-002", "WorkerDied")
    assert failed["detail"] == f"the worker died {encode.MOST_DEATHS} times on this object"
    begun = Counter((tmp_path / "encoded.log").read_text().split())
    assert begun == {**{f"object-{n:03d}": 1 for n in (0, 1, 3, 4)}, "object-002": encode.MOST_DEATHS}
    assert {entry.name for entry in (root / "out").children()} == {"part-00000.parquet", "ledger.parquet"}


def test_nothing_to_encode_is_refused(tmp_path):
    root = Location(str(tmp_path))
    import pyarrow as pa

    (root / "kept" / "kept.parquet").write_table(pa.table({"uid": ["a"], "split": ["test"]}))
    with pytest.raises(UserError, match="no objects to encode"):
        encode.run(encode.EncodeConfig(), views=root / "v", kept=root / "kept", checkpoint=root / "c", out=root / "out", job=Job())
