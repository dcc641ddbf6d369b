"""The score-mesh tool: file formats, normalisations, and errors that name the file."""

import json

import numpy as np
import pytest
import trimesh

from evaluation.protocols import protocol_named
from evaluation.score_mesh import convention_table, score_mesh
from infra.errors import UserError

FAST = protocol_named("default").with_numbers(points=4000, volume_resolution=32)


@pytest.fixture
def box(tmp_path):
    path = tmp_path / "box.ply"
    trimesh.creation.box((1, 2, 4)).export(path)
    return path


@pytest.mark.parametrize("suffix", ["glb", "gltf", "ply", "obj"])
def test_formats(box, suffix, tmp_path):
    path = tmp_path / f"other.{suffix}"
    if suffix == "gltf":
        files = trimesh.exchange.gltf.export_gltf(trimesh.Scene(trimesh.creation.box((1, 2, 4))))
        for name, data in files.items():
            (tmp_path / (path.name if name == "model.gltf" else name)).write_bytes(data)
    else:
        trimesh.creation.box((1, 2, 4)).export(path)
    answer = score_mesh(box, path, protocol=FAST)
    assert answer["chamfer"] == pytest.approx(0.0, abs=1e-7) and answer["volume_iou"] == 1.0
    names = {"accuracy", "completeness", "chamfer", "volume_iou", "normal_consistency", "max_distance"}
    assert names | {"f_score@0.01", "f_score@0.02", "f_score@0.05"} < set(answer)
    assert (answer["completed"], answer["failed"], answer["rejected"]) == (1, 0, 0)
    json.dumps(answer, allow_nan=False)


def test_node_transforms_are_applied_and_all_parts_count(box, tmp_path):
    scene = trimesh.Scene()
    half = trimesh.creation.box((1, 2, 2))
    for z in (-1.0, 1.0):
        scene.add_geometry(half, transform=trimesh.transformations.translation_matrix((0, 0, z)))
    scene.export(tmp_path / "scene.glb")
    answer = score_mesh(box, tmp_path / "scene.glb", protocol=FAST)
    assert answer["volume_iou"] == pytest.approx(1.0, abs=0.01) and answer["completeness"] == pytest.approx(0.0, abs=1e-7)


def test_coordinates_count_as_given_unless_normalised(box, tmp_path):
    """The same box, 10 % larger and 0.4 away in z."""
    path = tmp_path / "moved.ply"
    trimesh.creation.box((1.1, 2.2, 4.4)).apply_translation((0, 0, 0.4)).export(path)
    given = score_mesh(box, path, protocol=FAST)
    shared = score_mesh(box, path, "unit-cube", FAST)
    each = score_mesh(box, path, "bbox-each", FAST)
    assert given["max_distance"] == pytest.approx(0.6, abs=0.02)  # the far end: 2.6 against 2
    assert shared["chamfer"] == pytest.approx(given["chamfer"] / 4, rel=1e-6)  # the reference's longest side is 4
    assert shared["volume_iou"] == pytest.approx(given["volume_iou"], abs=1e-9)
    assert each["chamfer"] == pytest.approx(0.0, abs=1e-6) and each["volume_iou"] == pytest.approx(1.0, abs=0.01)
    assert [answer["protocol"]["normalize"] for answer in (given, shared, each)] == ["coordinates as given", "unit-cube", "bbox-each"]


def test_unused_vertices_do_not_enter_the_box(box, tmp_path):
    mesh = trimesh.creation.box((1, 2, 4))
    littered = trimesh.Trimesh(np.concatenate([mesh.vertices, [[50, 50, 50]]]), mesh.faces, process=False)
    littered.export(tmp_path / "littered.ply")
    assert score_mesh(box, tmp_path / "littered.ply", "bbox-each", FAST)["chamfer"] == pytest.approx(0.0, abs=1e-7)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("absent.glb", "no such file: .*absent.glb"),
        ("kind.stl", "kind.stl is not a mesh file"),
        ("text.glb", "text.glb"),
        ("text.ply", "text.ply"),
        ("empty.obj", "empty.obj"),
        ("points.ply", "points.ply"),
        ("nan.ply", "nan.ply has 1 vertices that are not finite"),
        ("flat.ply", "flat.ply has no area"),
        ("cut.glb", "cut.glb"),
        ("draco.gltf", "draco.gltf needs KHR_draco_mesh_compression"),
    ],
)
def test_wrong_input_names_the_file(box, name, words, tmp_path):
    path, mesh = tmp_path / name, trimesh.creation.box()
    if name == "kind.stl":
        mesh.export(path)
    elif name.startswith("text"):
        path.write_text("nothing of the kind")
    elif name == "empty.obj":
        path.write_text("# no vertices\n")
    elif name == "points.ply":
        trimesh.PointCloud(mesh.vertices).export(path)
    elif name == "nan.ply":
        vertices = mesh.vertices.copy()
        vertices[3, 1] = np.nan
        trimesh.Trimesh(vertices, mesh.faces, process=False).export(path)
    elif name == "flat.ply":
        trimesh.Trimesh(mesh.vertices * [1, 0, 0], mesh.faces, process=False).export(path)
    elif name == "cut.glb":
        mesh.export(path)
        path.write_bytes(path.read_bytes()[:-400])
    elif name == "draco.gltf":
        path.write_text(json.dumps({"asset": {"version": "2.0"}, "extensionsRequired": ["KHR_draco_mesh_compression"]}))
    for pair in ((box, path), (path, box)):
        with pytest.raises(UserError, match=words) as error:
            score_mesh(*pair, protocol=FAST)
        assert error.value.mend


def test_unknown_options(box):
    with pytest.raises(UserError, match="unit-cube or bbox-each"):
        score_mesh(box, box, "sphere", FAST)
    with pytest.raises(UserError, match="bbox or icp"):
        score_mesh(box, box, None, FAST, align="teaser")
    with pytest.raises(UserError, match="y or z"):
        score_mesh(box, box, None, FAST, up="x")


def test_the_result_tells_its_protocol_the_scale_and_the_floor(box):
    answer = score_mesh(box, box, None, FAST)
    assert answer["protocol"]["name"] == "default(points=4000, volume_resolution=32)"
    assert "longest side is 4" in answer["notes"][0] and not score_mesh(box, box, "unit-cube", FAST)["notes"]
    # The box has 28 units of area: two samplings of 4000 points would seem 0.5 sqrt(28 / 4000) apart.
    assert answer["protocol"]["floor_of_point_to_point"] == pytest.approx(0.5 * np.sqrt(28 / 4000))


def test_aligned_figures_come_in_addition(box, tmp_path):
    trimesh.creation.box((1.1, 2.2, 4.4)).apply_translation((0, 0, 0.4)).export(tmp_path / "moved.ply")
    answer = score_mesh(box, tmp_path / "moved.ply", None, FAST, align="bbox")
    assert answer["chamfer"] > 0.05 and answer["chamfer_bbox_aligned"] == pytest.approx(0.0, abs=1e-6)
    assert answer["volume_iou_bbox_aligned"] == pytest.approx(1.0, abs=0.01) and "hidden" in answer["protocol"]["align"]


def test_protocols_that_look_need_to_know_what_is_up(box, tmp_path):
    """The underside is open to a camera below only: seen from elevation 30 a dent in the lower face is not seen, one in the upper is."""
    sync = protocol_named("syncdreamer-gso30").with_numbers(points=2000)
    flat = trimesh.creation.box((1, 1, 0.5)).subdivide().subdivide()
    flat.export(tmp_path / "flat.ply")
    seen = {}
    for side in (1, -1):
        dented = flat.copy()
        inner = (np.sign(dented.vertices[:, 2]) == side) & (np.abs(dented.vertices[:, :2]) < 0.3).all(1)
        dented.vertices[inner, 2] -= side * 0.2
        dented.export(tmp_path / "dented.ply")
        seen[side] = score_mesh(tmp_path / "flat.ply", tmp_path / "dented.ply", None, sync)
    assert seen[-1]["chamfer_visible"] < 1e-6 < 5e-3 < seen[1]["chamfer_visible"]
    assert seen[-1]["chamfer"] == pytest.approx(seen[1]["chamfer"], rel=0.1) and seen[1]["protocol"]["up"] == "z"
    assert seen[1]["protocol"]["published_columns"]["Chamfer"] == "chamfer_visible"
    flat.export(tmp_path / "flat.glb")
    with pytest.raises(UserError, match="different axes up") as error:
        score_mesh(tmp_path / "flat.ply", tmp_path / "flat.glb", None, sync)
    assert "--up" in error.value.mend


def test_table_of_conventions(box):
    rows = convention_table(box, box)
    assert {row["figure"] for row in rows} == {"Chamfer", "Volume IoU"} and all(row["value"] is not None for row in rows)


def test_real_files_are_read_or_refused_by_name(assets):
    """Files that no one here wrote: a mesh scores perfectly against itself; compressed ones are refused."""
    for name in ("water_bottle.glb", "milk_truck.glb", "sparse_accessor.gltf"):
        answer = score_mesh(assets / name, assets / name, protocol=FAST.with_numbers(points=500, volume_resolution=8))
        assert answer["chamfer"] == pytest.approx(0.0, abs=1e-4)
    with pytest.raises(UserError, match="carbon60_draco.glb needs"):
        score_mesh(assets / "carbon60_draco.glb", assets / "water_bottle.glb", protocol=FAST)
