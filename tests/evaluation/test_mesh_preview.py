"""The ray caster against closed forms of a sphere, and colours through a GLB and back."""

import io

import numpy as np
import pytest
import trimesh
from PIL import Image

from evaluation.mesh_io import glb_bytes
from evaluation.mesh_preview import BACKGROUND, ELEVATION_DEG, cast, load_glb, preview
from evaluation.turntable import ring, turntable
from rendering.cameras import orbit
from rendering.view_set import Mesh
from tests.evaluation.traced import chair, imagined, rendered

SIZE = 96
GREY = round(BACKGROUND * 255)


def test_a_sphere_has_the_area_and_the_normals_of_a_sphere() -> None:
    radius, distance, fov = 0.4, 2.0, 40.0
    sphere = trimesh.creation.icosphere(4, radius)
    camera = orbit([30.0], 20.0, distance, fov)[0]
    _, normals = cast(sphere, camera, SIZE)
    # Outline of a sphere under perspective: tan of the half-angle asin(r / d), in half image widths of tan(fov / 2).
    expected = np.pi * (np.tan(np.arcsin(radius / distance)) / np.tan(np.radians(fov / 2)) / 2) ** 2
    assert (normals != GREY).any(-1).mean() == pytest.approx(expected, rel=0.03)
    towards_camera = camera.position / distance
    centre = normals[SIZE // 2 - 1 : SIZE // 2 + 1, SIZE // 2 - 1 : SIZE // 2 + 1].astype(float).mean((0, 1)) / 127.5 - 1
    np.testing.assert_allclose(centre, towards_camera, atol=0.02)


def test_colours_and_axes_survive_the_glb() -> None:
    """A tower of a red foot and a blue head: blue is up, and the colours are the stored sRGB ones."""
    foot = trimesh.creation.box((0.4, 0.4, 0.5), trimesh.transformations.translation_matrix((0, 0, -0.25)))
    head = trimesh.creation.box((0.2, 0.2, 0.5), trimesh.transformations.translation_matrix((0, 0, 0.25)))
    mesh = trimesh.util.concatenate([foot, head])
    colours = np.array([(200, 30, 60)] * len(foot.vertices) + [(20, 90, 180)] * len(head.vertices), np.uint8)
    loaded = load_glb(glb_bytes(Mesh(mesh.vertices, mesh.faces), colours))
    picture, _ = cast(loaded, orbit([0.0], ELEVATION_DEG, 3.0, 40.0)[0], SIZE)
    np.testing.assert_array_equal(picture[SIZE // 3, SIZE // 2], (20, 90, 180))
    np.testing.assert_array_equal(picture[2 * SIZE // 3, SIZE // 2], (200, 30, 60))


def test_a_preview_fits_the_mesh_at_any_scale_and_place() -> None:
    small, large = chair(), chair()
    large.apply_scale(1000.0)
    large.apply_translation((5000.0, 0.0, -70.0))
    first, second = preview(small, 48), preview(large, 48)
    assert first.shape == (96, 192, 3)
    assert np.abs(first.astype(int) - second).mean() < 0.5
    for column in range(4):  # nothing touches the border of its tile
        tile = first[:48, column * 48 : (column + 1) * 48]
        edge = np.concatenate([tile[0], tile[-1], tile[:, 0], tile[:, -1]])
        assert (edge == GREY).all() and (tile != GREY).any()


def test_a_file_without_triangles_is_refused() -> None:
    points = trimesh.Scene(trimesh.PointCloud(np.eye(3))).export(file_type="glb")
    assert isinstance(points, bytes)
    with pytest.raises(ValueError, match="triangle"):
        load_glb(points)


def test_a_turntable_goes_once_round_one_elevation() -> None:
    made = imagined(rendered("turning", chair(), 32, 1), 0.0)
    order = np.random.default_rng(0).permutation(len(made))
    shuffled = made.select(order)
    members = ring(shuffled, 25.0)
    np.testing.assert_allclose(shuffled.elevation_deg[members], 30.0)
    np.testing.assert_allclose(shuffled.azimuth_deg[members], np.arange(8) * 45.0, atol=1e-6)
    film = Image.open(io.BytesIO(turntable(shuffled, 25.0, size_px=64)))
    assert (film.n_frames, film.size, film.info["loop"]) == (8, (64, 64), 0)
    frames = []
    for number in range(8):
        film.seek(number)
        frames.append(np.asarray(film.convert("RGB"), float))
    for number, index in enumerate(members):
        alpha = shuffled.rgba[index][..., 3:] / 255.0
        truth = (shuffled.rgba[index][..., :3] * alpha + 255 * (1 - alpha)).repeat(2, 0).repeat(2, 1)
        gaps = [np.abs(frame - truth).mean() for frame in frames]
        assert np.argmin(gaps) == number and gaps[number] < 6
    with pytest.raises(ValueError, match="at least one"):
        turntable(made.select([]))
