import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import trimesh
from PIL import Image, ImageDraw
from scipy import ndimage
from scipy.spatial import ConvexHull

from infra.errors import UserError
from infra.storage import Location
from pipelines.commands.view_verbs import EXPORT_FORMATS, EXPORT_HELP
from rendering.blender import BlenderWorker, Rendered, RenderRequest
from rendering.cameras import Camera
from rendering.colmap_text import cameras_from_colmap
from rendering.conversions import BlenderLens, PyTorch3D, from_blender, from_nerfstudio, from_pytorch3d
from rendering.export import LAYOUTS, export_views, transforms
from rendering.rigs import RIGS, RigConfig
from rendering.view_set import ViewSet
from rendering.views import ViewStore, to_table, write_shards
from tests.rendering import glbs


def rays_hit(mesh: trimesh.Trimesh, frame: dict, shared: dict) -> np.ndarray:
    """The mask that a reader of transforms.json would expect: OpenGL camera rays through pixel centres against the mesh."""
    width, height = shared["w"], shared["h"]
    x, y = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    local = np.stack([(x - shared["cx"]) / shared["fl_x"], -(y - shared["cy"]) / shared["fl_y"], -np.ones_like(x)], -1)
    c2w = np.array(frame["transform_matrix"])
    directions = local.reshape(-1, 3) @ c2w[:3, :3].T
    return mesh.ray.intersects_any(np.broadcast_to(c2w[:3, 3], directions.shape), directions).reshape(height, width)


@pytest.mark.blender
def test_exported_cameras_reproject_the_object_onto_its_pictures(tmp_path):
    solids = [
        trimesh.creation.cone(0.4, 1.0),
        trimesh.creation.box((0.3, 0.2, 0.9), trimesh.transformations.translation_matrix([0.6, 0.1, 0.2])),
    ]
    file = glbs.write(tmp_path / "solids.glb", *(glbs.coloured(solid, [0.4, 0.1, 0.1]) for solid in solids))
    with BlenderWorker() as worker:
        rig = RIGS["mvdiffusionpp"]("u", RigConfig(num_conditions=4))
        result = worker.render(RenderRequest("u", file, rig, resolution=48, samples=16, denoise="none", want_mesh=True))
    assert isinstance(result, Rendered)
    store = Location(str(tmp_path / "store"))
    write_shards([to_table(result.views)], store)
    folder = Location(str(tmp_path / "export"))
    assert export_views(ViewStore(store), "u", folder) == 36
    description = json.loads((tmp_path / "export" / "transforms.json").read_text())
    assert len(description["frames"]) == 36 and description["frames"][32]["role"] == "condition"
    mesh = trimesh.Trimesh(result.views.mesh.vertices, result.views.mesh.faces)
    for index, frame in enumerate(description["frames"]):
        with Image.open(tmp_path / "export" / frame["file_path"]) as picture:
            rgba = np.asarray(picture)
        np.testing.assert_array_equal(rgba, result.views.rgba[index])
        expected, seen = rays_hit(mesh, frame, description), rgba[..., 3] >= 128
        assert (expected & seen).sum() / (expected | seen).sum() > 0.93
        assert abs(frame["radius"] - np.linalg.norm(np.array(frame["transform_matrix"])[:3, 3])) < 1e-6


@pytest.mark.blender
@pytest.mark.parametrize("name", ["milk_truck", "water_bottle"])
def test_real_files_reproject_onto_their_pictures(tmp_path, name):
    """The file as trimesh reads it, centred and scaled here, seen by a reader of transforms.json."""
    if "MVFORGE_ASSETS" not in os.environ:
        pytest.skip("MVFORGE_ASSETS is not set")
    file = Path(os.environ["MVFORGE_ASSETS"]) / f"{name}.glb"
    rig = RIGS["mvdream"]("u", RigConfig()).select([5, 44])
    with BlenderWorker() as worker:
        result = worker.render(RenderRequest("u", file, rig, resolution=96, samples=8, denoise="none"))
    assert isinstance(result, Rendered), result
    loaded = trimesh.load(file).to_geometry()
    used = loaded.vertices[np.unique(loaded.faces)]
    low, high = used.min(0), used.max(0)
    x, y, z = ((loaded.vertices - (low + high) / 2) / (high - low).max()).T
    mesh, description = trimesh.Trimesh(np.stack([x, -z, y], -1), loaded.faces, process=False), transforms(result.views)
    for rgba, frame in zip(result.views.rgba, description["frames"], strict=True):
        expected, seen = rays_hit(mesh, frame, description | frame), rgba[..., 3] >= 128
        assert (expected & seen).sum() / (expected | seen).sum() > 0.98


@pytest.mark.blender
def test_exported_depth_and_normals_are_those_of_the_object(tmp_path):
    solids = [trimesh.creation.cone(0.4, 1.0, sections=5), trimesh.creation.box((0.3, 0.2, 0.9)).apply_translation([0.6, 0.1, 0.2])]
    file = glbs.write(tmp_path / "solids.glb", *(glbs.coloured(solid, [0.4, 0.1, 0.1]) for solid in solids))
    rig = RIGS["zero123pp"]("u", RigConfig(num_conditions=1)).select([0, 3, 6])
    request = RenderRequest("u", file, rig, resolution=64, samples=8, denoise="none", want_mesh=True, passes=("depth", "normal"))
    with BlenderWorker() as worker:
        result = worker.render(request)
    assert isinstance(result, Rendered), result
    write_shards([to_table(result.views)], Location(str(tmp_path / "store")))
    export_views(ViewStore(Location(str(tmp_path / "store"))), "u", Location(str(tmp_path / "export")), "opencv")
    description = json.loads((tmp_path / "export" / "cameras.json").read_text())
    mesh = trimesh.Trimesh(result.views.mesh.vertices, result.views.mesh.faces, process=False)
    for frame in description["frames"]:
        depth, normal, alpha = (
            np.asarray(Image.open(tmp_path / "export" / frame[key])).astype(float)
            for key in ("depth_file_path", "normal_file_path", "file_path")
        )
        c2w, (fx, fy, cx, cy) = np.array(frame["c2w"]), frame["intrinsics"]
        x, y = np.meshgrid((np.arange(64) + 0.5) / 64, (np.arange(64) + 0.5) / 64)
        rays = np.stack([(x - cx) / fx, (y - cy) / fy, np.ones_like(x)], -1).reshape(-1, 3) @ c2w[:3, :3].T
        places, ray, face = mesh.ray.intersects_location(np.broadcast_to(c2w[:3, 3], rays.shape), rays, multiple_hits=False)
        hit = (places - c2w[:3, 3]) @ c2w[:3, 2]  # planar depth of the first surface along each ray
        facing = mesh.face_normals[face] @ c2w[:3, :3]
        seen = np.zeros((64, 64, 3))
        seen.reshape(-1, 3)[ray] = facing
        # Pixels on an edge between two faces or two solids see both: compare where all neighbours lie in one plane.
        flat = (ndimage.maximum_filter(seen, (3, 3, 1)) - ndimage.minimum_filter(seen, (3, 3, 1)) < 1e-6).all(-1).ravel()[ray]
        inner = flat & (ndimage.minimum_filter(alpha[..., 3], 3) == 255).ravel()[ray]
        assert inner.sum() > 100
        far = np.abs(depth.ravel()[ray] * description["depth_unit"] - hit)[inner]
        shown = normal.reshape(-1, 3)[ray] / 127.5 - 1
        cosine = ((shown * facing).sum(-1) / np.linalg.norm(shown, axis=-1))[inner]
        assert np.mean(far < 0.002) > 0.97 and np.mean(cosine > 0.9995) > 0.97


def painted_hull(camera: Camera, points: np.ndarray, size: int) -> np.ndarray:
    """Red pictures of the convex hull of `points`."""
    pictures = []
    for view in range(len(camera)):
        picture = Image.new("RGBA", (size, size))
        places = camera[view].project(points)[0] * size
        ImageDraw.Draw(picture).polygon([tuple(places[corner]) for corner in ConvexHull(places).vertices], (255, 0, 0, 255))
        pictures.append(np.asarray(picture))
    return np.stack(pictures)


def test_views_of_different_focal_length_carry_their_own(tmp_path):
    rig = RIGS["syncdreamer16"]("u", RigConfig())
    intrinsics = rig.camera.intrinsics.copy()
    intrinsics[1:, :2] *= 1.5
    rgba = painted_hull(rig.camera, np.eye(3) * 0.4, 16)
    views = ViewSet("u", rgba, rig.camera, rig.roles, rig.azimuth_deg, rig.elevation_deg, rig.radius, rig.name, "painted")
    store = Location(str(tmp_path / "store"))
    write_shards([to_table(replace(views, camera=Camera(rig.camera.c2w, intrinsics)))], store)
    export_views(ViewStore(store), "u", Location(str(tmp_path / "export")))
    description = json.loads((tmp_path / "export" / "transforms.json").read_text())
    assert "fl_x" not in description
    assert description["frames"][1]["fl_x"] == pytest.approx(1.5 * 17.5) and description["frames"][0]["fl_x"] == pytest.approx(17.5)


@pytest.fixture
def painted(tmp_path) -> ViewStore:
    """Six painted views of two focal lengths with depth, normal and albedo that a closed form gives."""
    rig = RIGS["syncdreamer16"]("u", RigConfig()).select(range(6))
    intrinsics = rig.camera.intrinsics.copy()
    intrinsics[3:, :2] *= 1.5
    camera = Camera(rig.camera.c2w, intrinsics)
    rgba = painted_hull(camera, np.eye(3) * 0.4, 24)
    inside = rgba[..., 3] > 0
    depth = np.where(inside, np.linspace(1.0, 1.9, 24)[:, None], 0).astype(np.float32)
    normal = np.where(inside[..., None], np.array([0.6, 0.0, -0.8], np.float32), 0)
    albedo = np.where(inside[..., None], np.array([10, 20, 30], np.uint8), 0)
    angles = rig.azimuth_deg, rig.elevation_deg, rig.radius
    views = ViewSet("u", rgba, camera, rig.roles, *angles, rig.name, "painted", depth=depth, normal=normal, albedo=albedo)
    store = Location(str(tmp_path / "store"))
    write_shards([to_table(views)], store)
    return ViewStore(store)


def test_passes_are_written_as_pictures_that_say_what_they_mean(painted, tmp_path):
    export_views(painted, "u", Location(str(tmp_path / "out")), "opencv")
    description = json.loads((tmp_path / "out" / "cameras.json").read_text())
    views = painted.read("u", passes=("depth", "normal", "albedo"))
    for index, frame in enumerate(description["frames"]):
        read = {key: np.asarray(Image.open(tmp_path / "out" / path)) for key, path in frame.items() if key.endswith("_path")}
        np.testing.assert_array_equal(read["file_path"], views.rgba[index])
        np.testing.assert_array_equal(read["object_mask_path"] == 255, views.mask[index])
        assert read["depth_file_path"].dtype == np.uint16
        np.testing.assert_allclose(read["depth_file_path"] * description["depth_unit"], views.depth[index], atol=1e-6)
        seen = views.mask[index]
        np.testing.assert_allclose(read["normal_file_path"][seen] / 127.5 - 1, np.broadcast_to([0.6, 0, -0.8], (seen.sum(), 3)), atol=0.005)
        assert (read["normal_file_path"][~seen] == 0).all() and (read["albedo_file_path"][seen] == [10, 20, 30]).all()
    assert not (tmp_path / "out" / "transforms.json").exists()


def test_every_layout_holds_the_same_cameras(painted, tmp_path):
    camera, out = painted.read("u").camera, {}
    for layout in LAYOUTS:
        assert export_views(painted, "u", Location(str(tmp_path / layout)), layout) == 6
        out[layout] = tmp_path / layout
        ours = json.loads((out[layout] / "cameras.json").read_text())["frames"]
        np.testing.assert_allclose([frame["c2w"] for frame in ours], camera.c2w)
        np.testing.assert_allclose([frame["intrinsics"] for frame in ours], camera.intrinsics)
        np.testing.assert_allclose([frame["fov_deg"] for frame in ours][0], np.degrees(2 * np.arctan(16 / 35)))
    read = {"nerfstudio": from_nerfstudio(json.loads((out["nerfstudio"] / "transforms.json").read_text()))}
    sparse = out["colmap"] / "sparse" / "0"
    names, read["colmap"] = cameras_from_colmap((sparse / "cameras.txt").read_text(), (sparse / "images.txt").read_text())
    assert all((out["colmap"] / "images" / name).is_file() for name in names) and (sparse / "points3D.txt").is_file()
    theirs = json.loads((out["pytorch3d"] / "cameras_pytorch3d.json").read_text())
    arrays = (np.array(theirs[name]) for name in ("R", "T", "focal_length", "principal_point"))
    read["pytorch3d"] = from_pytorch3d(PyTorch3D(*arrays), *theirs["image_size"][::-1])
    frames = json.loads((out["blender"] / "cameras_blender.json").read_text())["frames"]
    columns = ([frame[key] for frame in frames] for key in ("matrix_world", "lens"))
    shift = np.array([[frame["shift_x"], frame["shift_y"]] for frame in frames])
    read["blender"] = from_blender(BlenderLens(*map(np.array, columns), shift), 24, 24)
    for layout, again in read.items():
        np.testing.assert_allclose(again.c2w, camera.c2w, atol=1e-9, err_msg=layout)
        np.testing.assert_allclose(again.intrinsics, camera.intrinsics, atol=1e-9, err_msg=layout)


def test_an_unknown_layout_lists_those_there_are(painted, tmp_path):
    with pytest.raises(UserError, match="colmap"):
        export_views(painted, "u", Location(str(tmp_path / "x")), "bundler")
    assert not (tmp_path / "x").exists()


def test_the_command_line_offers_every_layout():
    assert EXPORT_FORMATS == tuple(LAYOUTS)
    assert all(layout in EXPORT_HELP for layout in LAYOUTS)


def test_an_unknown_uid_names_some_that_exist(tmp_path):
    rig = RIGS["syncdreamer16"]("u", RigConfig())
    rgba = np.zeros((16, 4, 4, 4), np.uint8)
    views = ViewSet("known", rgba, rig.camera, rig.roles, rig.azimuth_deg, rig.elevation_deg, rig.radius, rig.name, "painted")
    write_shards([to_table(views)], Location(str(tmp_path)))
    with pytest.raises(UserError, match="known"):
        export_views(ViewStore(Location(str(tmp_path))), "missing", Location(str(tmp_path / "export")))
