"""The reconstruct step on Ray and in process, its failures, resuming, the GLB it writes, and the folder tool."""

import io
import json
import struct
import time
from dataclasses import replace

import numpy as np
import pytest
import trimesh
from PIL import Image

from evaluation import reconstruct
from evaluation.mesh_io import glb_bytes, linear_from_srgb, load_mesh, world_from_gltf
from evaluation.meshing.settings import STAGES
from evaluation.metrics.geometry import GeometrySettings, compare_surfaces
from evaluation.pieces import Pieces
from evaluation.reconstruct import ReconstructConfig
from evaluation.reconstruct_folder import reconstruct_folder
from infra.errors import UserError
from infra.job import Job, Resources
from infra.storage import Location
from rendering.cameras import OPENGL_FROM_OPENCV
from rendering.view_set import Mesh
from rendering.views import to_table, write_shards
from tests.evaluation.shapes import colored_box, generated, plain, rendered

CONFIG = ReconstructConfig(resolution=24)


@pytest.fixture(scope="module")
def box_views():
    return generated(rendered("box", colored_box(), size_px=40))


@pytest.fixture
def views(tmp_path, box_views) -> Location:
    """Three good objects and one whose masks are empty."""
    place = Location(str(tmp_path / "views"))
    empty = replace(box_views, uid="empty", rgba=np.zeros_like(box_views.rgba))
    objects = [replace(box_views, uid=uid) for uid in ("a", "b", "c")] + [empty]
    write_shards((to_table(one) for one in objects), place)
    return place


def ledger(out: Location) -> dict[str, dict]:
    return {row["uid"]: row for row in (out / "ledger.parquet").read_table().to_pylist()}


def check(out: Location, summary) -> None:
    assert (summary.completed, summary.failed) == (3, 1)
    rows = ledger(out)
    assert list(rows) == ["a", "b", "c", "empty"]
    assert (rows["empty"]["status"], rows["empty"]["reason"]) == ("failed", "empty_hull") and rows["empty"]["detail"]
    assert rows["empty"]["stages"] == []
    assert not (out / "empty.glb").exists()
    for uid in "abc":
        mesh = load_mesh((out / f"{uid}.glb").local_path())
        assert (len(mesh.vertices), len(mesh.faces)) == (rows[uid]["vertices"], rows[uid]["faces"])
        assert rows[uid]["status"] == "ok" and rows[uid]["seconds"] > 0
        assert rows[uid]["stages"] == ["hull", "clean", "simplify", "bake", "export"] and rows[uid]["fallbacks"] == []
    assert summary.facts == {"reasons": {"empty_hull": 1}, "refined": 0, "fell_back": 0}
    assert sorted(entry.name for entry in out.children()) == ["a.glb", "b.glb", "c.glb", "ledger.parquet"]


def test_in_process(views, tmp_path):
    out = Location(str(tmp_path / "out"))
    check(out, reconstruct.run(CONFIG, views=views, out=out, job=Job()))


@pytest.mark.ray
def test_on_ray_gives_the_same_bytes(views, tmp_path, ray_cluster):
    out, alone = Location(str(tmp_path / "out")), Location(str(tmp_path / "alone"))
    check(out, reconstruct.run(CONFIG, views=views, out=out, job=Job(Resources(workers=2))))
    reconstruct.reconstruct_object("a", config=CONFIG, views=views, pieces=Pieces(alone / "pieces"), out=alone)
    assert (out / "a.glb").read_bytes() == (alone / "a.glb").read_bytes()


def test_resume_makes_only_what_is_missing(views, tmp_path):
    out, cache = Location(str(tmp_path / "out")), Location(str(tmp_path / "cache"))
    job = Job(cache=cache)
    pieces = Pieces(cache / "pieces")
    for uid in ("a", "empty"):  # as if the step had been killed after these two
        reconstruct.reconstruct_object(uid, config=CONFIG, views=views, pieces=pieces, out=out)
    before = {entry.name: entry.mtime for entry in (cache / "pieces").children()}
    assert len(before) == 3  # a row and a mesh, a row
    check(out, reconstruct.run(CONFIG, views=views, out=out, job=job))
    after = {entry.name: entry.mtime for entry in (cache / "pieces").children()}
    assert len(after) == 7 and {name: after[name] for name in before} == before

    other = Location(str(tmp_path / "other"))  # a later build with the same views takes all from the cache
    check(other, reconstruct.run(CONFIG, views=views, out=other, job=job))
    assert {entry.name: entry.mtime for entry in (cache / "pieces").children()} == after


def test_rerun_and_retry_failed_make_again(views, tmp_path):
    cache = Location(str(tmp_path / "cache"))
    out = Location(str(tmp_path / "out"))
    reconstruct.run(CONFIG, views=views, out=out, job=Job(cache=cache))

    def times() -> dict[str, float]:
        return {entry.name: entry.mtime for entry in (cache / "pieces").children()}

    first = times()
    reconstruct.run(CONFIG, views=views, out=out, job=Job(cache=cache, retry_failed=True))
    assert [name for name in first if times()[name] != first[name]] == [f"{key}.json" for key in _failed_keys(cache)]
    second = times()
    reconstruct.run(CONFIG, views=views, out=out, job=Job(cache=cache, fresh_since=time.time()))
    assert all(times()[name] > second[name] for name in second)


def _failed_keys(cache: Location) -> list[str]:
    places = [entry.name for entry in (cache / "pieces").children() if entry.name.endswith(".json")]
    return [name.removesuffix(".json") for name in places if (cache / "pieces" / name).read_json()["status"] == "failed"]


def test_another_setting_is_another_piece(views, tmp_path):
    cache = Location(str(tmp_path / "cache"))
    for resolution in (16, 24):
        out = Location(str(tmp_path / str(resolution)))
        reconstruct.run(ReconstructConfig(resolution=resolution), views=views, out=out, job=Job(cache=cache))
    rows = [ledger(Location(str(tmp_path / name)))["a"]["vertices"] for name in ("16", "24")]
    assert rows[0] < rows[1]


def test_the_ledger_tells_what_the_guard_decided(box_views, tmp_path):
    place, out = Location(str(tmp_path / "views")), Location(str(tmp_path / "out"))
    write_shards((to_table(one) for one in [box_views]), place)
    config = ReconstructConfig(stages=STAGES, resolution=24, refine_resolution=24, refine_steps=15)
    summary = reconstruct.run(config, views=place, out=out, job=Job())
    row = ledger(out)["box"]
    assert row["guard"] and row["held_out"] == 4
    assert all(row[name] is not None for name in ("hull_mask_iou", "hull_psnr", "refined_mask_iou", "refined_psnr", "eikonal", "steps"))
    assert ("refine" in row["stages"]) == row["guard"].startswith("refined accepted") == bool(summary.facts["refined"])


def test_the_mesh_lies_in_the_frame_of_the_views_and_opens_upright(views, tmp_path):
    """The reference camera stood at azimuth 90, on the box's right (blue) side: in the generated frame that side is in front."""
    out = Location(str(tmp_path / "out"))
    reconstruct.run(CONFIG, views=views, out=out, job=Job())
    raw = load_mesh((out / "a.glb").local_path())
    extents = np.ptp(raw.vertices, axis=0)  # glTF: X right, Y up, Z towards the viewer
    assert extents[1] == pytest.approx(0.8, abs=0.25)
    assert extents[0] == pytest.approx(0.6, abs=0.2) and extents[2] == pytest.approx(1.0, abs=0.1)
    world = world_from_gltf(raw)
    turned = colored_box().apply_transform(trimesh.transformations.rotation_matrix(-np.pi / 2, (0, 0, 1)))
    assert compare_surfaces(plain(turned), world, GeometrySettings(3000, 32))["volume_iou"] > 0.7
    scene = trimesh.load(io.BytesIO((out / "a.glb").read_bytes()), file_type="glb", process=False)
    (part,) = scene.geometry.values()
    colors = part.visual.to_color().vertex_colors.astype(float)
    front = (raw.vertices[:, 2] > 0.45) & (np.abs(raw.vertices[:, 1]) < 0.2) & (np.abs(raw.vertices[:, 0]) < 0.15)
    red, green, blue = np.median(colors[front], axis=0)[:3]
    assert blue > 5 * max(red, green)  # sRGB, as textures are


def test_glb_is_what_the_standard_says():
    mesh = Mesh(np.array([[0, 0, 0], [1, 0, 0], [0, 2, 0], [0, 0, 3]], np.float32), np.array([[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]]))
    colors = np.array([[0, 0, 0], [255, 255, 255], [128, 128, 128], [10, 20, 30]], np.uint8)
    data = glb_bytes(mesh, colors)
    assert data == glb_bytes(mesh, colors)
    magic, version, total = struct.unpack_from("<4sII", data)
    assert (magic, version, total) == (b"glTF", 2, len(data)) and len(data) % 4 == 0
    (length,) = struct.unpack_from("<I", data, 12)
    document, body = json.loads(data[20 : 20 + length]), data[28 + length :]
    primitive = document["meshes"][0]["primitives"][0]
    accessor = document["accessors"][primitive["attributes"]["COLOR_0"]]
    view = document["bufferViews"][accessor["bufferView"]]
    stored = np.frombuffer(body, "<u2", offset=view["byteOffset"], count=16).reshape(4, 4)
    # The standard's colours are linear: sRGB 128 is 0.2158605.
    assert stored[2].tolist() == [round(0.2158605 * 65535)] * 3 + [65535]
    assert stored[:2].tolist() == [[0, 0, 0, 65535], [65535] * 4]
    position = document["accessors"][primitive["attributes"]["POSITION"]]
    assert (position["min"], position["max"]) == ([0, 0, -2], [1, 3, 0])  # Y is up: our z
    assert document["materials"][0]["pbrMetallicRoughness"]["metallicFactor"] == 0.0
    body = trimesh.load(io.BytesIO(data), file_type="glb", force="mesh")
    assert body.volume == pytest.approx(1.0)  # a rotation, not a mirror: still outward


def test_linear_from_srgb_at_known_points():
    assert linear_from_srgb(np.array([0.0, 0.04045, 0.5, 1.0])) == pytest.approx([0.0, 0.0031308, 0.2140411, 1.0], abs=1e-6)


def write_folder(folder, views, **changes):
    folder.mkdir()
    frames = []
    for i, image in enumerate(views.rgba):
        Image.fromarray(image).save(folder / f"{i:03d}.png")
        frames.append({"file_path": f"{i:03d}.png", "transform_matrix": (views.camera.c2w[i] @ OPENGL_FROM_OPENCV).tolist()})
    height, width = views.rgba.shape[1:3]
    fx, fy, cx, cy = views.camera.intrinsics[0] * [width, height, width, height]
    document = {"w": width, "h": height, "fl_x": fx, "fl_y": fy, "cx": cx, "cy": cy, "frames": frames} | changes
    (folder / "transforms.json").write_text(json.dumps(document))
    return folder


def test_folder_tool_gives_the_mesh_of_the_step(box_views, views, tmp_path):
    out = Location(str(tmp_path / "out"))
    reconstruct.run(CONFIG, views=views, out=out, job=Job())
    answer = reconstruct_folder(write_folder(tmp_path / "folder", box_views), tmp_path / "mesh.glb", CONFIG)
    assert (answer["completed"], answer["failed"], answer["rejected"], answer["views"], answer["votes"]) == (1, 0, 0, 32, 1)
    made, stepped = load_mesh(tmp_path / "mesh.glb"), load_mesh((out / "a.glb").local_path())
    assert len(made.vertices) == len(stepped.vertices) and np.abs(made.vertices - stepped.vertices).max() < 1e-4


def test_folder_tool_reads_camera_angle_and_names_without_suffix(box_views, tmp_path):
    folder = write_folder(tmp_path / "folder", box_views)
    document = json.loads((folder / "transforms.json").read_text())
    for name in ("fl_x", "fl_y", "cx", "cy", "w", "h"):
        del document[name]
    document["camera_angle_x"] = np.radians(60.0)
    for frame in document["frames"]:
        frame["file_path"] = "./" + frame["file_path"].removesuffix(".png")
    (folder / "transforms.json").write_text(json.dumps(document))
    first = reconstruct_folder(folder, tmp_path / "a.glb", CONFIG)
    again = reconstruct_folder(write_folder(tmp_path / "plain", box_views), tmp_path / "b.glb", CONFIG)
    assert (first["vertices"], first["faces"]) == (again["vertices"], again["faces"])


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        ("no transforms", "no transforms.json"),
        ("not json", "transforms.json"),
        ("one frame", "fewer than two"),
        ("no file", "007.png"),
        ("no alpha", "007.png has no alpha"),
        ("size", "007.png is 20 x 20"),
        ("broken picture", "cannot read .*007.png"),
        ("nan pose", "007.png"),
        ("no pose", "007.png"),
        ("no focal", "focal length"),
        ("distortion", "distortion"),
        ("empty masks", "empty_hull"),
        ("suffix", "does not end in .glb"),
    ],
)
def test_folder_tool_names_what_is_wrong(harm, words, box_views, tmp_path):
    few = box_views.select(range(8))
    folder = write_folder(tmp_path / "folder", few)
    place, picture, out = folder / "transforms.json", folder / "007.png", tmp_path / "mesh.glb"
    document = json.loads(place.read_text())
    if harm == "no transforms":
        place.unlink()
    elif harm == "no file":
        picture.unlink()
    elif harm == "no alpha":
        Image.open(picture).convert("RGB").save(picture)
    elif harm == "size":
        Image.open(picture).resize((20, 20)).save(picture)
    elif harm == "broken picture":
        picture.write_bytes(picture.read_bytes()[:200])
    elif harm == "empty masks":
        for i in range(8):
            Image.fromarray(np.zeros((40, 40, 4), np.uint8)).save(folder / f"{i:03d}.png")
    elif harm == "suffix":
        out = tmp_path / "mesh.obj"
    else:
        frame = document["frames"][7]
        if harm == "one frame":
            document["frames"] = document["frames"][:1]
        elif harm == "nan pose":
            frame["transform_matrix"][0][0] = float("nan")
        elif harm == "no pose":
            del frame["transform_matrix"]
        elif harm == "no focal":
            del document["fl_x"]
        elif harm == "distortion":
            document["k1"] = 0.1
        place.write_text("{" if harm == "not json" else json.dumps(document))
    with pytest.raises(UserError, match=words) as error:
        reconstruct_folder(folder, out, ReconstructConfig(resolution=16))
    assert error.value.mend
    assert not out.exists()
