import io
import json
import pickle
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from infra.errors import UserError
from infra.seeds import rng_for
from infra.storage import Location
from rendering.codecs import decode_image, encode_image
from rendering.rigs import RIGS, RigConfig
from rendering.view_set import CONDITION, TARGET, Mesh, ViewSet, on_white
from rendering.views import ViewStore, from_row, to_table, write_shards


def random_views(uid: str, size: int = 8, mesh: Mesh | None = None) -> ViewSet:
    rig = RIGS["mvdiffusionpp"](uid, RigConfig(num_conditions=2))
    rgba = rng_for(uid).integers(0, 256, (len(rig), size, size, 4), dtype=np.uint8)
    rgba[..., 3][:, :2] = 0
    rgba = np.where(rgba[..., 3:] == 0, 0, rgba).astype(np.uint8)
    angles = rig.azimuth_deg, rig.elevation_deg, rig.radius
    return ViewSet(uid, rgba, rig.camera, rig.roles, *angles, rig.name, "blender", mesh, {"a": [1, 2]})


MESH = Mesh(np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32), np.array([[0, 1, 2], [2, 3, 4]], np.int32))


def with_passes(views: ViewSet, farthest: float = 3.0) -> ViewSet:
    """The same views with made-up depth, normals and albedo wherever alpha is not 0."""
    rng, shape, seen = rng_for("passes"), views.rgba.shape[:3], views.rgba[..., 3] > 0
    normal = rng.normal(size=(*shape, 3))
    normal /= np.linalg.norm(normal, axis=-1, keepdims=True)
    return replace(
        views,
        depth=np.where(seen, rng.uniform(0.5, farthest, shape), 0).astype(np.float32),
        normal=np.where(seen[..., None], normal, 0).astype(np.float32),
        albedo=np.where(seen[..., None], rng.integers(0, 256, (*shape, 3)), 0).astype(np.uint8),
    )


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


def test_passes_come_back_to_their_quantisation_and_only_when_asked_for(tmp_path):
    views = with_passes(random_views("a"))
    write_shards([to_table(views), to_table(random_views("plain"))], Location(str(tmp_path)))
    store = ViewStore(Location(str(tmp_path)))
    bare = store.read("a")
    assert bare.depth is None and bare.normal is None and bare.albedo is None
    one = store.read("a", passes=["depth"])
    assert one.normal is None and one.depth.dtype == np.float32
    np.testing.assert_array_equal(one.depth, (np.rint(views.depth * 8192) / 8192).astype(np.float32))
    both = store.read("a", passes=("normal", "albedo"))
    assert both.depth is None
    np.testing.assert_array_equal(both.albedo, views.albedo)
    seen = views.rgba[..., 3] > 0
    assert (both.normal[~seen] == 0).all() and (views.normal[seen] != 0).any()
    np.testing.assert_allclose(np.linalg.norm(both.normal[seen], axis=-1), 1, atol=1e-6)
    # Half a level of 1/127.5 per axis, at right angles to the vector at worst.
    cosine = (both.normal[seen] * views.normal[seen]).sum(-1).clip(-1, 1)
    assert np.degrees(np.arccos(cosine)).max() <= np.degrees(np.sqrt(3) * 0.5 / 127.5) + 0.01
    assert store.read("plain", passes=("depth", "normal", "albedo")).depth is None
    with pytest.raises(ValueError, match="'depht' is no pass"):
        store.read("a", passes=["depht"])


def test_the_bytes_of_a_pass_are_what_the_documentation_says():
    views = with_passes(random_views("a"))
    row = to_table(views).to_pylist()[0]
    with Image.open(io.BytesIO(row["depth"][3])) as image:
        assert image.format == "PNG" and image.mode == "I;16"
        np.testing.assert_array_equal(np.asarray(image), np.rint(views.depth[3].astype(float) * 8192))
    with Image.open(io.BytesIO(row["normal"][3])) as image:
        levels = np.asarray(image.convert("RGB"))
        expected = np.where(views.rgba[3, ..., 3:] > 0, np.rint((views.normal[3].astype(float) + 1) / 2 * 255), 0)
        assert image.format == "WEBP" and np.abs(levels - expected).max() == 0


def test_depth_beyond_eight_units_doubles_its_unit_and_what_is_near_is_not_nothing():
    views = with_passes(random_views("a"), farthest=20.0)
    views.depth[0, 5, 5] = 1e-9
    row = to_table(views).to_pylist()[0]
    assert row["depth_unit"] == 4 / 8192
    back = from_row(row, ["depth"]).depth
    assert np.abs(back - views.depth)[views.depth > 0.1].max() < 2 / 8192 + 1e-6
    assert back[0, 5, 5] == np.float32(4 / 8192) and ((back > 0) == (views.depth > 0)).all()
    for bad in (np.inf, np.nan, -1.0):
        views.depth[0, 5, 5] = bad
        with pytest.raises(ValueError, match="depth"):
            to_table(views)


def test_passes_follow_selection_and_do_not_mind_a_turn():
    views = with_passes(random_views("a"))
    chosen = views.select([33, 0])
    for name in ("depth", "normal", "albedo"):
        np.testing.assert_array_equal(getattr(chosen, name), getattr(views, name)[[33, 0]])
        assert getattr(views.turned(45.0), name) is getattr(views, name)
    assert views.with_role(TARGET).depth.shape == (32, 8, 8)
    np.testing.assert_array_equal(views.mask, views.rgba[..., 3] >= 128)


def test_a_shard_of_the_first_format_is_refused_with_what_to_do(tmp_path):
    old = to_table(random_views("a")).replace_schema_metadata({"mvforge_views_version": "1"})
    (Location(str(tmp_path)) / "part-00000.parquet").write_table(old)
    with pytest.raises(UserError, match="format 2") as caught:
        ViewStore(Location(str(tmp_path))).uids()
    assert "render step again" in caught.value.mend


def test_shards_describe_themselves_and_end_by_size_too(tmp_path):
    place = Location(str(tmp_path))
    tables = (to_table(random_views(f"u{number}")) for number in range(5))
    assert write_shards(tables, place, bytes_per_shard=1) == 5 and len(place.children()) == 5
    shard = pq.ParquetFile(tmp_path / "part-00003.parquet")
    columns = json.loads(shard.schema_arrow.metadata[b"mvforge_views_columns"])
    assert set(columns) == set(shard.schema_arrow.names)
    statistics = shard.metadata.row_group(0).column(0).statistics
    assert (statistics.min, statistics.max) == ("u3", "u3")
    assert json.loads(shard.metadata.metadata[b"mvforge_uids"]) == ["u3"]
    # A shard that another tool wrote has no such note.
    pq.write_table(
        shard.read().replace_schema_metadata({b"mvforge_views_version": b"2"}), tmp_path / "part-00003.parquet", row_group_size=1
    )
    assert b"mvforge_uids" not in pq.ParquetFile(tmp_path / "part-00003.parquet").metadata.metadata
    assert ViewStore(place).uids() == [f"u{number}" for number in range(5)]


def test_a_packing_that_breaks_off_leaves_no_half_shard(tmp_path):
    def tables():
        yield to_table(random_views("a"))
        raise RuntimeError("lost")

    with pytest.raises(RuntimeError, match="lost"):
        write_shards(tables(), Location(str(tmp_path)))
    assert list(tmp_path.iterdir()) == []


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
