import json
from dataclasses import replace

import numpy as np
import pytest
import trimesh
from PIL import Image, ImageDraw
from scipy.spatial import ConvexHull

from infra.errors import UserError
from infra.storage import Location
from rendering.blender import BlenderWorker, Rendered, RenderRequest
from rendering.cameras import Camera
from rendering.export import export_views
from rendering.rigs import RIGS, RigConfig
from rendering.views import ViewSet, ViewStore, to_table, write_shards
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


def test_an_unknown_uid_names_some_that_exist(tmp_path):
    rig = RIGS["syncdreamer16"]("u", RigConfig())
    rgba = np.zeros((16, 4, 4, 4), np.uint8)
    views = ViewSet("known", rgba, rig.camera, rig.roles, rig.azimuth_deg, rig.elevation_deg, rig.radius, rig.name, "painted")
    write_shards([to_table(views)], Location(str(tmp_path)))
    with pytest.raises(UserError, match="known"):
        export_views(ViewStore(Location(str(tmp_path))), "missing", Location(str(tmp_path / "export")))
