import numpy as np
import pytest

from infra.errors import UserError
from infra.storage import Location
from training.encoded import EncodedStore, to_table, write_shards


def arrays(n: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(n)
    return {
        "latents": rng.normal(size=(3 + n, 4, 2, 2)).astype(np.float16),
        "tokens": rng.normal(size=(2, 5)).astype(np.float32),
        "scalar": np.asarray(n, np.int64),
        "empty": np.zeros((0, 3), np.uint8),
        "strided": rng.normal(size=(4, 6))[:, ::2],
    }


def test_arrays_come_back_exactly_from_any_shard(tmp_path):
    out = Location(str(tmp_path))
    assert write_shards((to_table(f"u{n}", arrays(n)) for n in range(5)), out, objects_per_shard=2) == 5
    assert [e.name for e in out.children()] == ["part-00000.parquet", "part-00001.parquet", "part-00002.parquet"]
    store = EncodedStore(out)
    assert store.uids() == [f"u{n}" for n in range(5)]
    for n in range(5):
        read = store.read(f"u{n}")
        assert set(read) == set(arrays(n))
        for name, expected in arrays(n).items():
            assert read[name].dtype == expected.dtype and read[name].shape == expected.shape
            np.testing.assert_array_equal(read[name], expected)


def test_one_array_can_be_read_alone(tmp_path):
    out = Location(str(tmp_path))
    write_shards([to_table("u", arrays(1))], out)
    assert set(EncodedStore(out).read("u", ["tokens"])) == {"tokens"}


def test_objects_may_have_different_arrays(tmp_path):
    out = Location(str(tmp_path))
    write_shards([to_table("u", {"a": np.ones(2)}), to_table("v", {"b": np.zeros(3)})], out)
    store = EncodedStore(out)
    assert set(store.read("u")) == {"a"} and set(store.read("v")) == {"b"}


def test_unknown_uid_empty_folder_and_foreign_file_are_told_apart(tmp_path):
    out = Location(str(tmp_path))
    with pytest.raises(UserError, match="no encoded objects"):
        EncodedStore(out).uids()
    write_shards([to_table("u", arrays(0))], out)
    with pytest.raises(KeyError):
        EncodedStore(out).read("v")
    (out / "part-00001.parquet").write_table(to_table("w", arrays(0)).replace_schema_metadata({}))
    with pytest.raises(UserError, match="format"):
        EncodedStore(out).uids()


@pytest.mark.parametrize("bad", [{"uid": np.zeros(1)}, {"a.header": np.zeros(1)}, {"a": np.asarray([object()])}])
def test_what_cannot_be_stored_is_refused(bad):
    with pytest.raises(ValueError):
        to_table("u", bad)
