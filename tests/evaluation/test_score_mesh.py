"""The score-mesh tool: file formats, normalisations, and errors that name the file."""

import json

import numpy as np
import pytest
import trimesh

from evaluation.metrics.geometry import GeometrySettings
from evaluation.score_mesh import score_mesh
from infra.errors import UserError

FAST = GeometrySettings(points=4000, volume_resolution=32)


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
    answer = score_mesh(box, path, settings=FAST)
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
    answer = score_mesh(box, tmp_path / "scene.glb", settings=FAST)
    assert answer["volume_iou"] == pytest.approx(1.0, abs=0.01) and answer["completeness"] == pytest.approx(0.0, abs=1e-7)


def test_coordinates_count_as_given_unless_normalised(box, tmp_path):
    """The same box, 10 % larger and 0.4 away in z."""
    path = tmp_path / "moved.ply"
    trimesh.creation.box((1.1, 2.2, 4.4)).apply_translation((0, 0, 0.4)).export(path)
    given = score_mesh(box, path, settings=FAST)
    shared = score_mesh(box, path, "unit-cube", FAST)
    each = score_mesh(box, path, "bbox-each", FAST)
    assert given["max_distance"] == pytest.approx(0.6, abs=0.02)  # the far end: 2.6 against 2
    assert shared["chamfer"] == pytest.approx(given["chamfer"] / 4, rel=1e-6)  # the reference's longest side is 4
    assert shared["volume_iou"] == pytest.approx(given["volume_iou"], abs=1e-9)
    assert each["chamfer"] == pytest.approx(0.0, abs=1e-6) and each["volume_iou"] == 1.0
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
            score_mesh(*pair, settings=FAST)
        assert error.value.mend


def test_unknown_normalisation(box):
    with pytest.raises(UserError, match="unit-cube or bbox-each"):
        score_mesh(box, box, "sphere", FAST)


def test_real_files_are_read_or_refused_by_name(assets):
    """Files that no one here wrote: a mesh scores perfectly against itself; compressed ones are refused."""
    for name in ("water_bottle.glb", "milk_truck.glb", "sparse_accessor.gltf"):
        answer = score_mesh(assets / name, assets / name, settings=GeometrySettings(500, 8))
        assert answer["chamfer"] == pytest.approx(0.0, abs=1e-4)
    with pytest.raises(UserError, match="carbon60_draco.glb needs"):
        score_mesh(assets / "carbon60_draco.glb", assets / "water_bottle.glb", settings=FAST)
