"""Picture gates on what Blender really draws, and on painted pictures for what no file can be made to show."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import trimesh
from PIL import Image

from rendering.blender import BlenderLimits, BlenderWorker, Rendered, RenderRequest
from rendering.cameras import Camera, orbit
from rendering.gates import GateConfig, faults, measure
from rendering.rigs import RIGS, RigConfig
from rendering.view_set import TARGET, ViewSet
from tests.rendering import glbs

CONFIG = GateConfig()


def reasons(views: ViewSet, **config) -> list[str]:
    settings = GateConfig(**config)
    return [reason for reason, _ in faults(measure(views, settings), settings)]


def view_set(pictures: np.ndarray, **facts) -> ViewSet:
    """Pictures as the targets of an object seen from around."""
    count = len(pictures)
    azimuth, elevation, radius = np.arange(count) * 360.0 / count, np.full(count, 15.0), np.full(count, 1.5)
    camera = orbit(azimuth, elevation, radius, 50.0)
    return ViewSet("u", pictures, camera, (TARGET,) * count, azimuth, elevation, radius, "ring", "painted", facts=facts)


@pytest.fixture(scope="module")
def worker():
    with BlenderWorker(BlenderLimits(attempts=1)) as running:
        yield running


def rendered(worker: BlenderWorker, file: Path, zoom: float = 1.0) -> ViewSet:
    rig = RIGS["mvdiffusionpp"]("u", RigConfig(num_conditions=0)).select([8, 11, 14, 17, 20, 31])
    rig = replace(rig, camera=Camera(rig.camera.c2w, rig.camera.intrinsics * [zoom, zoom, 1, 1]))
    result = worker.render(RenderRequest(uid="u", mesh=file, views=rig, resolution=32, samples=4, denoise="none"))
    assert isinstance(result, Rendered), result
    return result.views


@pytest.mark.blender
def test_real_objects_pass_and_real_faults_are_found(worker, tmp_path):
    sphere = glbs.write(tmp_path / "sphere.glb", glbs.coloured(trimesh.creation.uv_sphere(0.5, count=[24, 24]), (1, 1, 1)))
    brick = glbs.write(tmp_path / "brick.glb", glbs.coloured(trimesh.creation.box((1.0, 0.5, 0.6)), (1, 1, 1)))
    toy = glbs.toy(tmp_path / "toy.glb", 3)
    for file in (sphere, brick, toy):
        assert reasons(rendered(worker, file)) == [], file
    assert reasons(rendered(worker, toy, zoom=3.0)) == ["clipped"]

    def invisible(description: dict) -> None:
        description["materials"][0]["alphaMode"] = "BLEND"
        description["materials"][0]["pbrMetallicRoughness"]["baseColorFactor"] = [1, 1, 1, 0]

    air = glbs.write(tmp_path / "air.glb", glbs.coloured(trimesh.creation.box(), (1, 1, 1)), edit=invisible)
    assert reasons(rendered(worker, air)) == ["blank"]
    card = glbs.write(tmp_path / "card.glb", glbs.coloured(trimesh.creation.box((1.0, 1.0, 0.002)), (1, 1, 1)))
    upright = rendered(worker, card)  # glTF's Z points to the viewer: the card stands, and is seen edge on from the sides
    assert reasons(upright) == ["near_uniform"]
    coal = glbs.write(tmp_path / "coal.glb", glbs.coloured(trimesh.creation.box(), (0, 0, 0)))
    assert measure(rendered(worker, coal), CONFIG).brightness < 0.3


@pytest.mark.blender
def test_the_pink_of_a_texture_that_is_missing(tmp_path):
    """Blender itself, with the texture of a real GLB taken away after the import."""
    file = glbs.write(tmp_path / "box.glb", glbs.textured_box(Image.new("RGB", (16, 16), (90, 140, 60))))
    script = Path(__file__).with_name("pink_scene.py")
    done = subprocess.run([sys.executable, str(script), str(file), str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    pictures = np.stack([np.asarray(Image.open(tmp_path / f"{index}.png").convert("RGBA")) for index in range(3)])
    views = view_set(pictures)
    assert measure(views, CONFIG).pink > 0.9 and reasons(views) == ["missing_texture"]
    assert reasons(views, max_pink=1.0) == []
    half = pictures.copy()
    half[:, 24:, :, :3] = half[:, 24:, :, :3] // 2  # in half the light
    assert 0.2 < measure(view_set(half), CONFIG).pink < 0.8
    magenta = pictures.copy()
    magenta[..., :3] = (200, 30, 180)
    assert measure(view_set(magenta), CONFIG).pink == 0


def discs(count: int, colour: tuple[int, int, int], radii) -> np.ndarray:
    y, x = np.mgrid[:32, :32] - 15.5
    pictures = np.zeros((count, 32, 32, 4), np.uint8)
    for picture, radius in zip(pictures, radii, strict=True):
        picture[x**2 + y**2 < radius**2] = (*colour, 255)
    return pictures


def test_plain_objects_are_kept_unless_they_are_black_or_flat():
    spheres = discs(6, (255, 255, 255), [10.0, 10.1, 10.2, 10.3, 10.5, 10.7])
    assert reasons(view_set(spheres)) == []
    assert reasons(view_set(discs(6, (1, 1, 1), [9, 9.3, 9.6, 10, 10.5, 11]))) == ["near_uniform"]
    assert reasons(view_set(discs(6, (1, 1, 1), [9, 9.3, 9.6, 10, 10.5, 11])), min_brightness=0.0) == []
    card = discs(6, (250, 240, 10), [14, 13, 1.0, 14, 13, 1.0])
    assert reasons(view_set(card)) == ["near_uniform"]
    card[..., 8:16, :, :3] = (10, 20, 250)  # a painted one is no longer plain
    assert reasons(view_set(card)) == []


def test_views_that_are_the_same_to_the_last_pixel_count_once_and_blank_ones_not_at_all():
    same = discs(6, (200, 100, 50), [8] * 6)
    same[:, 10:14, 10:14, :3] = 255
    assert reasons(view_set(same)) == ["too_few_distinct_views"] and reasons(view_set(same), min_distinct_views=1) == []
    one_left = same.copy()
    one_left[1:] = 0
    assert measure(view_set(one_left), CONFIG).distinct_views == 1 and reasons(view_set(one_left)) == ["too_few_distinct_views"]
    same[3, 12, 12, 0] ^= 1
    assert reasons(view_set(same)) == []
    assert reasons(view_set(same[:1])) == []  # a rig of one target


def test_facts_of_the_render_tell_degenerate_objects():
    good = discs(6, (200, 100, 50), [8, 9, 10, 9, 8, 7])
    assert reasons(view_set(good, triangles=12, scale=0.5, centre=[0, 0, 0])) == []
    assert reasons(view_set(good, triangles=1)) == ["degenerate"]
    assert reasons(view_set(good, triangles=12, scale=float("inf"))) == ["degenerate"]
    assert reasons(view_set(good, centre=[0.0, float("nan"), 1.0])) == ["degenerate"]


def test_measures_against_a_slow_count():
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, (5, 16, 16, 4), dtype=np.uint8)
    m = measure(view_set(pictures), CONFIG)
    pixels = np.concatenate([picture[picture[..., 3] >= 128][:, :3] for picture in pictures]).astype(float)
    assert m.colour_std == pytest.approx(pixels.std(0).max() / 255) and m.brightness == pytest.approx(pixels.mean() / 255)
    assert m.fullest == pytest.approx(max(picture[..., 3].mean() for picture in pictures) / 255)
    grey = np.zeros((2, 8, 8, 4), np.uint8)
    grey[..., 3] = 255
    grey[0, :4, :, :3], grey[1, 0, 0, :3] = 80, 160
    assert measure(view_set(grey), CONFIG).colours == 3
