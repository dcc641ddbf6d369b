import numpy as np
import pytest

from rendering.cameras import Camera, blender_matrix, orbit, turn_about_z

RNG = np.random.default_rng(7)
CAMERAS = orbit(RNG.uniform(0, 360, 6), RNG.uniform(-80, 80, 6), RNG.uniform(1, 3, 6), RNG.uniform(30, 80, 6))


def test_azimuth_zero_is_on_minus_y_and_ninety_on_plus_x():
    np.testing.assert_allclose(orbit([0, 90], 0, 2.0, 60).position, [[0, -2, 0], [2, 0, 0]], atol=1e-12)


def test_elevation_raises_the_camera_along_z():
    np.testing.assert_allclose(orbit(0, 30, 2.0, 60).position[0], [0, -np.sqrt(3), 1], atol=1e-12)


def test_a_front_camera_sees_x_to_the_right_and_z_up():
    image, depth = orbit(0, 0, 2.0, 60).project(np.array([[0, 0, 0], [0.1, 0, 0], [0, 0, 0.1], [0, 1, 0]]))
    focal = 0.5 / np.tan(np.radians(30))
    np.testing.assert_allclose(image[0], [[0.5, 0.5], [0.5 + focal * 0.05, 0.5], [0.5, 0.5 - focal * 0.05], [0.5, 0.5]], atol=1e-12)
    np.testing.assert_allclose(depth[0], [2, 2, 2, 3], atol=1e-12)


def test_rotations_are_proper():
    rotation = CAMERAS.c2w[:, :3, :3]
    np.testing.assert_allclose(rotation @ rotation.transpose(0, 2, 1), np.tile(np.eye(3), (6, 1, 1)), atol=1e-12)
    np.testing.assert_allclose(np.linalg.det(rotation), 1.0)


def test_points_on_a_ray_project_to_its_pixel_centre():
    origins, directions = CAMERAS.rays(4, 5)
    points = origins + 1.7 * directions
    for view in range(len(CAMERAS)):
        image, depth = CAMERAS[view].project(points[view].reshape(-1, 3))
        x, y = np.meshgrid((np.arange(5) + 0.5) / 5, (np.arange(4) + 0.5) / 4)
        np.testing.assert_allclose(image, np.stack([x, y], -1).reshape(-1, 2), atol=1e-9)
        assert (depth > 0).all()


def test_fov_is_what_the_border_sees():
    camera = orbit(0, 0, 1.0, 60)
    edge = np.tan(np.radians(30))
    np.testing.assert_allclose(camera.project(np.array([[edge, 0, 0], [0, 0, edge]]))[0][0], [[1, 0.5], [0.5, 0]], atol=1e-12)


def test_points_behind_the_camera_have_negative_depth():
    assert orbit(0, 0, 1.0, 60).project(np.array([[0.0, -2.0, 0.0]]))[1][0, 0] < 0


def test_turning_the_world_adds_to_the_azimuth():
    turned = orbit([10, 100], 20, 1.5, 50).turned(35)
    np.testing.assert_allclose(turned.c2w, orbit([45, 135], 20, 1.5, 50).c2w, atol=1e-12)
    np.testing.assert_allclose(turn_about_z(35) @ turn_about_z(-35), np.eye(4), atol=1e-12)


def test_blender_cameras_look_along_minus_z_with_y_up():
    matrix = blender_matrix(orbit(0, 0, 2.0, 60))[0]
    np.testing.assert_allclose(matrix[:3, :3] @ [0, 0, -1], [0, 1, 0], atol=1e-12)
    np.testing.assert_allclose(matrix[:3, :3] @ [0, 1, 0], [0, 0, 1], atol=1e-12)


def test_the_pole_is_refused():
    with pytest.raises(ValueError, match="90"):
        orbit(0, 90, 1.5, 60)


def test_indexing_and_length():
    assert len(CAMERAS) == 6
    assert isinstance(CAMERAS[1:3], Camera) and len(CAMERAS[1:3]) == 2
