import numpy as np
import pyarrow as pa
import pytest

from infra.errors import UserError
from infra.storage import Location
from tests.training.toy import write_objects
from training.data import DataLocations, TrainData
from training.encoded import to_table, write_shards


@pytest.fixture
def objects(tmp_path):
    return write_objects(Location(str(tmp_path)), train=5, val=2)


def test_splits_come_from_the_kept_list(objects):
    views, kept = objects
    data = TrainData(DataLocations(views, kept))
    assert data.train == [f"object-{n:03d}" for n in range(5)]
    assert data.val == ["object-005", "object-006"]
    assert data.read("object-002").views.uid == "object-002" and data.read("object-002").arrays is None


def test_only_encoded_objects_are_used_when_arrays_are_given(objects, tmp_path):
    views, kept = objects
    arrays = Location(str(tmp_path / "arrays"))
    write_shards([to_table(uid, {"a": np.arange(3)}) for uid in ("object-001", "object-004", "object-006")], arrays)
    data = TrainData(DataLocations(views, kept, arrays))
    assert (data.train, data.val) == (["object-001", "object-004"], ["object-006"])
    np.testing.assert_array_equal(data.read("object-004").arrays["a"], np.arange(3))


def test_memory_stays_bounded_and_forgets_the_oldest(objects):
    views, kept = objects
    size = TrainData(DataLocations(views, kept)).read("object-000").views.rgba.nbytes
    data = TrainData(DataLocations(views, kept), cache_bytes=2 * size)
    first, second = data.read("object-000"), data.read("object-001")
    assert data.read("object-000") is first
    data.read("object-002")  # pushes out object-001, which was used longest ago
    assert data.read("object-000") is first
    assert data.read("object-001") is not second
    assert len(data._cache) == 2


def test_no_training_object_is_refused(objects):
    views, kept = objects
    (kept / "kept.parquet").write_table(pa.table({"uid": ["object-005"], "split": ["val"]}))
    with pytest.raises(UserError, match="no training objects"):
        TrainData(DataLocations(views, kept))
