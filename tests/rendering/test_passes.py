"""What stands beside the picture, and what the renderer saves on: against closed forms and against the whole picture."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import trimesh
from PIL import Image

from rendering.blender import BlenderLimits, BlenderWorker, Rendered, RenderFailure, RenderRequest
from rendering.cameras import Camera, orbit
from rendering.lights import lights_for
from rendering.profiles import PROFILES, Sampling
from rendering.rigs import RigViews
from rendering.view_set import PASSES, TARGET, ViewSet
from tests.rendering import glbs

pytestmark = pytest.mark.blender
SIZE = 96


@pytest.fixture(scope="module")
def worker() -> Iterator[BlenderWorker]:
    with BlenderWorker(BlenderLimits(deadline_s=120)) as running:
        yield running


def views_at(*azimuths: float, elevation: float = 15.0, fov: float = 50.0, radius: float = 1.5) -> RigViews:
    count = len(azimuths)
    angles = np.array(azimuths, float), np.full(count, elevation), np.full(count, radius)
    return RigViews("test", orbit(*angles, fov), (TARGET,) * count, *angles)


def rendered(worker: BlenderWorker, mesh: Path, views: RigViews, **options) -> ViewSet:
    settings = {"resolution": SIZE, "samples": 16, "denoise": "none", "passes": PASSES, **options}
    result = worker.render(RenderRequest(mesh.stem, mesh, views, **settings))
    assert isinstance(result, Rendered), result
    return result.views


def pixel_rays(camera: Camera, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Origin `[3]` and directions `[H, W, 3]` through the pixel centres, with unit z in the camera; from the pinhole model alone."""
    fx, fy, cx, cy = camera.intrinsics[0]
    column, row = np.meshgrid((np.arange(size) + 0.5) / size, (np.arange(size) + 0.5) / size)
    local = np.stack([(column - cx) / fx, (row - cy) / fy, np.ones_like(row)], -1)
    return camera.c2w[0, :3, 3], local @ camera.c2w[0, :3, :3].T


def test_depth_and_normals_of_a_sphere_are_those_of_its_equation(worker, tmp_path):
    mesh = glbs.write(tmp_path / "ball.glb", glbs.coloured(trimesh.creation.icosphere(5), [0.4, 0.4, 0.4]))
    views = rendered(worker, mesh, views_at(20, 200, elevation=35.0))
    for index in range(2):
        origin, rays = pixel_rays(views.camera[[index]], SIZE)
        # |origin + t ray|^2 = 0.25, and t is the planar depth because the rays have unit z.
        a, b, c = (rays**2).sum(-1), rays @ origin, origin @ origin - 0.25
        discriminant = b**2 - a * c
        inner = discriminant > 0.05  # away from the rim, where a pixel spans much depth
        assert inner.sum() > 1000
        t = (-b - np.sqrt(np.maximum(discriminant, 0))) / a
        assert np.abs(views.depth[index] - t)[inner].max() < 0.02  # a pixel's first sample is not at its centre
        assert np.abs(views.depth[index] - t)[inner].mean() < 0.003
        normal = (origin + t[..., None] * rays) * 2.0 @ views.camera.c2w[index, :3, :3]
        angle = np.degrees(np.arccos(np.clip((views.normal[index] * normal).sum(-1), -1, 1)))
        assert angle[inner].max() < 3.0  # facets of the mesh
        assert (views.normal[index][views.mask[index]][:, 2] < 0.2).all()  # towards the camera, which looks along +z
        assert (views.depth[index][views.rgba[index][..., 3] == 0] == 0).all()
        assert not views.normal[index][views.rgba[index][..., 3] == 0].any()


def test_albedo_is_the_colour_before_light_of_metals_too(worker, tmp_path):
    colours = {"matte": ([0.8, 0.2, 0.1], 0.0), "metal": ([0.1, 0.5, 0.9], 1.0)}
    for name, (colour, metallic) in colours.items():

        def shine(description: dict, metallic: float = metallic) -> None:
            for material in description["materials"]:
                material["pbrMetallicRoughness"] |= {"metallicFactor": metallic, "roughnessFactor": 0.3}

        mesh = glbs.write(tmp_path / f"{name}.glb", glbs.coloured(trimesh.creation.icosphere(3), colour), edit=shine)
        views = rendered(worker, mesh, views_at(0), lights=lights_for("syncdreamer", "u"))
        solid = views.rgba[0][..., 3] == 255
        expected = [255 * (1.055 * channel ** (1 / 2.4) - 0.055) for channel in colour]  # glTF factors are linear light
        assert np.abs(views.albedo[0][solid] - expected).max() <= 2
        assert np.abs(views.rgba[0][solid][:, :3].mean(0) - expected).max() > 20  # the picture itself is lit


def test_albedo_shows_the_texture(worker, tmp_path):
    picture = Image.new("RGB", (64, 64), (30, 200, 90))
    views = rendered(worker, glbs.write(tmp_path / "box.glb", glbs.textured_box(picture)), views_at(30))
    solid = views.rgba[0][..., 3] == 255
    assert np.abs(views.albedo[0][solid].astype(int) - [30, 200, 90]).max() <= 2


def test_without_passes_only_the_picture_comes_back(worker, tmp_path):
    mesh = glbs.write(tmp_path / "ball.glb", glbs.coloured(trimesh.creation.icosphere(2), [0.4, 0.4, 0.4]))
    views = rendered(worker, mesh, views_at(0), passes=())
    assert (views.depth, views.normal, views.albedo) == (None, None, None)


@pytest.mark.parametrize("size", [64, 97])
def test_tracing_only_the_objects_box_changes_nothing(worker, tmp_path, size):
    """A long thin thing off the middle of the picture, so that each side of the box is somewhere else."""
    thing = trimesh.util.concatenate(
        [trimesh.creation.box((2.0, 0.2, 0.3)), trimesh.creation.box((0.1, 0.1, 0.9)).apply_translation([0.8, 0, 0.3])]
    )
    mesh = glbs.write(tmp_path / "thing.glb", glbs.coloured(thing, [0.6, 0.3, 0.2]))
    views = views_at(10, 75, 130, elevation=25.0)
    boxed, whole = (
        rendered(worker, mesh, views, resolution=size, samples=0, profile=Sampling(8, denoise="none", crop=crop)) for crop in (True, False)
    )
    assert boxed.facts["traced"] < 0.7 and whole.facts["traced"] == 1.0
    np.testing.assert_array_equal(boxed.rgba, whole.rgba)
    for name in PASSES:
        np.testing.assert_allclose(getattr(boxed, name), getattr(whole, name), atol=1e-6)


def test_an_object_beside_the_picture_gives_an_empty_one(worker, tmp_path):
    mesh = glbs.write(tmp_path / "ball.glb", glbs.coloured(trimesh.creation.icosphere(2), [0.4, 0.4, 0.4]))
    views = views_at(0, 0)
    away = views.camera.c2w.copy()
    away[1, :3, :3] = away[1, :3, :3] @ np.diag([-1.0, 1.0, -1.0])  # turned round
    away[0, :3, :3] = away[0, :3, :3] @ trimesh.transformations.rotation_matrix(np.radians(60), [0, 1, 0])[:3, :3]
    found = rendered(worker, mesh, replace(views, camera=replace(views.camera, c2w=away)))
    assert not found.rgba.any() and not found.depth.any()


def test_noisy_objects_get_more_samples_until_both_are_good_enough(worker, tmp_path):
    """An unlit ball has no noise but its rim; a fine checker on a box is noise at every pixel."""
    calm = glbs.write(
        tmp_path / "calm.glb", glbs.coloured(trimesh.creation.icosphere(4), [0.5] * 3), edit=glbs.each_material(KHR_materials_unlit={})
    )
    fine = np.kron(np.random.default_rng(1).integers(0, 2, (256, 256)), np.ones((1, 1))).astype(np.uint8) * 255
    noisy = glbs.write(tmp_path / "noisy.glb", glbs.textured_box(Image.fromarray(fine).convert("RGB")))
    aim = Sampling(64, least=8, target_db=28.0)
    found = {}
    for mesh in (calm, noisy):
        views = rendered(worker, mesh, views_at(20, 140), samples=0, denoise="", profile=aim, passes=())
        again = rendered(worker, mesh, views_at(20, 140), samples=0, denoise="", profile=aim, passes=())
        np.testing.assert_array_equal(views.rgba, again.rgba)
        truth = rendered(worker, mesh, views_at(20, 140), samples=0, denoise="", profile=Sampling(400, denoise="none"), seed=5, passes=())
        one, other = (x.rgba.astype(float) / 255 for x in (views, truth))
        seen = (one[..., 3] > 0) | (other[..., 3] > 0)
        difference = (one[..., :3] * one[..., 3:] - other[..., :3] * other[..., 3:])[seen]
        found[mesh.stem] = views.facts["samples"], -10 * np.log10((difference**2).mean())
    assert found["calm"][0] < found["noisy"][0] <= 64
    assert found["noisy"][1] > 25.0 and found["calm"][1] > 28.0


def test_a_device_that_is_not_there_is_refused(worker, tmp_path):
    mesh = glbs.write(tmp_path / "ball.glb", glbs.coloured(trimesh.creation.icosphere(2), [0.4, 0.4, 0.4]))
    for device in ("cuda", "oneapi"):
        result = worker.render(RenderRequest("ball", mesh, views_at(0), resolution=16, samples=1, device=device))
        if isinstance(result, Rendered):
            pytest.skip(f"this machine has a {device} device")
        assert isinstance(result, RenderFailure) and result.reason == "no_device" and device in result.detail


def test_every_profile_of_the_cpu_renders(worker, tmp_path):
    mesh = glbs.write(tmp_path / "ball.glb", glbs.coloured(trimesh.creation.icosphere(2), [0.4, 0.4, 0.4]))
    for name, profile in PROFILES.items():
        if profile.engine == "cycles":
            assert rendered(worker, mesh, views_at(0), resolution=24, samples=0, denoise="", profile=name).mask.any()
