import pickle

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from infra.errors import UserError
from infra.seeds import rng_for
from infra.storage import Location
from rendering.rigs import RIGS, RigConfig
from rendering.views import (
    CONDITION,
    TARGET,
    Mesh,
    ViewSet,
    ViewStore,
    decode_image,
    encode_image,
    from_row,
    on_white,
    to_table,
    write_shards,
)


def random_views(uid: str, size: int = 8, mesh: Mesh | None = None) -> ViewSet:
    rig = RIGS["mvdiffusionpp"](uid, RigConfig(num_conditions=2))
    rgba = rng_for(uid).integers(0, 256, (len(rig), size, size, 4), dtype=np.uint8)
    rgba[..., 3][:, :2] = 0
    rgba = np.where(rgba[..., 3:] == 0, 0, rgba).astype(np.uint8)
    angles = rig.azimuth_deg, rig.elevation_deg, rig.radius
    return ViewSet(uid, rgba, rig.camera, rig.roles, *angles, rig.name, "blender", mesh, {"a": [1, 2]})


MESH = Mesh(np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32), np.array([[0, 1, 2], [2, 3, 4]], np.int32))


def assert_same(one: ViewSet, other: ViewSet) -> None:
    np.testing.assert_array_equal(one.rgba, other.rgba)
    for name in ("azimuth_deg", "elevation_deg", "radius"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    np.testing.assert_array_equal(one.camera.c2w, other.camera.c2w)
    np.testing.assert_array_equal(one.camera.intrinsics, other.camera.intrinsics)
    assert (one.uid, one.roles, one.rig, one.origin, one.facts) == (other.uid, other.roles, other.rig, other.origin, other.facts)


def test_pictures_survive_encoding_and_colour_under_alpha_zero_is_dropped():
    rgba = np.random.default_rng(1).integers(0, 256, (16, 16, 4), dtype=np.uint8)
    rgba[:8, :, 3], rgba[8:, :, 3] = 0, 1
    back = decode_image(encode_image(rgba))
    np.testing.assert_array_equal(back[8:], rgba[8:])
    assert (back[:8] == 0).all()


def test_decoding_takes_png_too(tmp_path):
    rgba = np.random.default_rng(2).integers(0, 256, (4, 4, 4), dtype=np.uint8)
    Image.fromarray(rgba, "RGBA").save(tmp_path / "x.png")
    np.testing.assert_array_equal(decode_image((tmp_path / "x.png").read_bytes()), rgba)


def test_one_row_holds_everything():
    views = random_views("a", mesh=MESH)
    back = from_row(to_table(views).to_pylist()[0])
    assert_same(views, back)
    assert back.mesh is not None
    np.testing.assert_array_equal(back.mesh.vertices, MESH.vertices)
    np.testing.assert_array_equal(back.mesh.faces, MESH.faces)


def test_a_store_finds_every_object_in_every_shard(tmp_path):
    place = Location(str(tmp_path))
    sets = {name: random_views(name) for name in "edcba"}
    assert write_shards((to_table(views) for views in sets.values()), place, objects_per_shard=2) == 5
    assert [entry.name for entry in place.children()] == [f"part-0000{number}.parquet" for number in range(3)]
    (place / "ledger.parquet").write_table(pa.table({"uid": ["zzz"]}))
    store = pickle.loads(pickle.dumps(ViewStore(place)))
    assert store.uids() == list("abcde") and "c" in store and "zzz" not in store
    for name, views in sets.items():
        assert_same(store.read(name), views)
    with pytest.raises(KeyError):
        store.read("zzz")
    assert set(store.row("a", columns=["uid"])) == {"uid"}


def test_a_folder_without_views_and_another_format_are_refused(tmp_path):
    place = Location(str(tmp_path))
    with pytest.raises(UserError, match="no views"):
        ViewStore(place).uids()
    (place / "part-00000.parquet").write_table(pa.table({"uid": ["x"]}))
    with pytest.raises(UserError, match="format"):
        ViewStore(place).uids()


def test_roles_and_selection():
    views = random_views("a")
    targets = views.with_role(TARGET)
    assert len(targets) == 32 and set(targets.roles) == {TARGET} and len(views.with_role(CONDITION)) == 2
    np.testing.assert_array_equal(views.select([33, 0]).rgba, views.rgba[[33, 0]])


def test_turning_keeps_every_pixel_of_the_mesh_in_place():
    views = random_views("a", mesh=Mesh(MESH.vertices * 0.2, MESH.faces))
    turned = views.turned(-45.0)
    assert turned.mesh is not None and views.mesh is not None
    np.testing.assert_allclose(turned.azimuth_deg[:8], (np.arange(8) * 45.0 - 45.0) % 360.0)
    before, after = views.camera.project(views.mesh.vertices)[0], turned.camera.project(turned.mesh.vertices)[0]
    np.testing.assert_allclose(before, after, atol=1e-6)
    assert np.abs(turned.mesh.vertices - views.mesh.vertices).max() > 0.01


def test_white_background():
    rgba = np.array([[[0, 0, 0, 0], [255, 0, 0, 255], [0, 0, 0, 51]]], np.uint8)
    np.testing.assert_allclose(on_white(rgba)[0], [[1, 1, 1], [1, 0, 0], [0.8, 0.8, 0.8]], atol=1e-6)


def test_pictures_of_unequal_size_are_an_error():
    row = to_table(random_views("a")).to_pylist()[0]
    row["images"][0] = encode_image(np.zeros((4, 4, 4), np.uint8))
    with pytest.raises(ValueError):
        from_row(row)
