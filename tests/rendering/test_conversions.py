"""Camera conventions: there and back, and the same pixels by each convention's own documented projection."""

import dataclasses
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from rendering import conversions as conv
from rendering.cameras import Camera
from rendering.colmap_text import cameras_from_colmap, colmap_files

IN_BLENDER = """
import sys, bpy, mathutils, numpy as np
from bpy_extras.object_utils import world_to_camera_view
data = np.load(sys.argv[1] + "/in.npz")
scene = bpy.context.scene
scene.render.resolution_x, scene.render.resolution_y = map(int, data["size"])
lens = bpy.data.cameras.new("c")
camera = bpy.data.objects.new("c", lens)
scene.collection.objects.link(camera)
lens.sensor_fit, lens.sensor_width = "HORIZONTAL", 36.0
found = []
for matrix, focal, shift, points in zip(data["matrix_world"], data["lens_mm"], data["shift"], data["points"]):
    lens.lens, lens.shift_x, lens.shift_y = float(focal), float(shift[0]), float(shift[1])
    camera.matrix_world = mathutils.Matrix(matrix.tolist())
    bpy.context.view_layer.update()
    found.append([tuple(world_to_camera_view(scene, camera, mathutils.Vector(p)))[:2] for p in points.tolist()])
np.save(sys.argv[1] + "/out.npy", found)
"""


def number(low: float, high: float) -> st.SearchStrategy[float]:
    return st.floats(low, high, allow_nan=False, allow_subnormal=False)


@st.composite
def batches(draw) -> tuple[Camera, int, int]:
    """Cameras anywhere, turned any way (half turns included), off-centre principal points, any picture size."""
    count, width, height = draw(st.integers(1, 4)), draw(st.integers(8, 2000)), draw(st.integers(8, 2000))
    c2w = np.tile(np.eye(4), (count, 1, 1))
    for view in range(count):
        axis = draw(st.sampled_from([(1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 0), (0.3, -0.5, 0.8), (-1, 2, 3)]))
        angle = draw(st.one_of(st.sampled_from([0.0, np.pi / 2, np.pi, -np.pi / 2]), number(-np.pi, np.pi)))
        c2w[view, :3, :3] = Rotation.from_rotvec(angle * np.array(axis) / np.linalg.norm(axis)).as_matrix()
        c2w[view, :3, 3] = [draw(number(-5, 5)) for _ in range(3)]
    rows = [[draw(number(0.3, 8)), draw(number(0.3, 8)), draw(number(0.2, 0.8)), draw(number(0.2, 0.8))] for _ in range(count)]
    return Camera(c2w, np.array(rows)), width, height


def square(camera: Camera, width: int, height: int) -> Camera:
    """The same with square pixels."""
    intrinsics = camera.intrinsics.copy()
    intrinsics[:, 1] = intrinsics[:, 0] * width / height
    return Camera(camera.c2w, intrinsics)


def same(a: Camera, b: Camera) -> None:
    np.testing.assert_allclose(a.c2w, b.c2w, atol=1e-9)
    np.testing.assert_allclose(a.intrinsics, b.intrinsics, rtol=1e-9, atol=1e-12)


def points_and_pixels(camera: Camera, view: int, width: int, height: int) -> tuple[np.ndarray, np.ndarray]:
    """World points before one camera and their pixels, from rays laid by hand: right, down and forward from the centre."""
    rng = np.random.default_rng(view)
    pixels, depth = rng.uniform(0, 1, (7, 2)) * [width, height], rng.uniform(0.5, 4, 7)
    fx, fy, cx, cy = camera.intrinsics[view]
    right, down, forward, centre = camera.c2w[view, :3].T
    x, y = (pixels[:, 0] / width - cx) / fx, (pixels[:, 1] / height - cy) / fy
    return centre + depth[:, None] * (x[:, None] * right + y[:, None] * down + forward), pixels


EXAMPLES = settings(max_examples=60, deadline=None)


@EXAMPLES
@given(batches())
def test_opengl(batch):
    camera, width, height = batch
    same(conv.from_opengl(conv.opengl_c2w(camera), camera.intrinsics), camera)
    for view in range(len(camera)):
        points, pixels = points_and_pixels(camera, view, width, height)
        # OpenGL: camera looks along -Z, +Y up; clip = frustum matrix @ camera, window from NDC with y from below.
        fx, fy, cx, cy = camera.intrinsics[view]
        frustum = np.array([[2 * fx, 0, 1 - 2 * cx, 0], [0, 2 * fy, 2 * cy - 1, 0], [0, 0, -1.02, -0.2], [0, 0, -1, 0]])
        clip = np.c_[points, np.ones(7)] @ (frustum @ np.linalg.inv(conv.opengl_c2w(camera)[view])).T
        ndc = clip[:, :2] / clip[:, 3:]
        window = (ndc + 1) / 2 * [width, height]
        np.testing.assert_allclose(np.c_[window[:, 0], height - window[:, 1]], pixels, atol=1e-6)


@EXAMPLES
@given(batches())
def test_blender(batch):
    camera, width, height = batch
    camera = square(camera, width, height)
    lens = conv.to_blender(camera, width, height)
    same(conv.from_blender(lens, width, height), camera)


@pytest.mark.blender
def test_blender_itself_projects_to_the_same_pixels(tmp_path):
    """Blender's own `world_to_camera_view` (fractions from the lower left), in a process of its own."""
    rng = np.random.default_rng(3)
    c2w = np.tile(np.eye(4), (6, 1, 1))
    c2w[:, :3, :3] = Rotation.random(6, rng=rng).as_matrix()
    c2w[:, :3, 3] = rng.uniform(-2, 2, (6, 3))
    camera = Camera(c2w, np.c_[rng.uniform(0.5, 4, (6, 2)), rng.uniform(0.3, 0.7, (6, 2))])
    for width, height in ((320, 200), (200, 320), (64, 64)):
        one = square(camera, width, height)
        lens = conv.to_blender(one, width, height)
        laid = [points_and_pixels(one, view, width, height) for view in range(6)]
        np.savez(tmp_path / "in.npz", points=[p for p, _ in laid], size=[width, height], **dataclasses.asdict(lens))
        done = subprocess.run([sys.executable, "-c", IN_BLENDER, str(tmp_path)], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        fractions = np.load(tmp_path / "out.npy")
        pixels = np.stack([fractions[..., 0] * width, (1 - fractions[..., 1]) * height], -1)
        np.testing.assert_allclose(pixels, [p for _, p in laid], atol=2e-3)


def test_blender_refuses_pixels_that_are_not_square():
    with pytest.raises(ValueError, match="focal"):
        conv.to_blender(Camera(np.eye(4)[None], np.array([[1.0, 1.0, 0.5, 0.5]])), 64, 32)


@EXAMPLES
@given(batches())
def test_colmap(batch):
    camera, width, height = batch
    colmap = conv.to_colmap(camera, width, height)
    same(conv.from_colmap(colmap, width, height), camera)
    for view in range(len(camera)):
        points, pixels = points_and_pixels(camera, view, width, height)
        # images.txt: quaternion and translation from the world to the camera; PINHOLE: x = fx X/Z + cx.
        local = Rotation.from_quat(np.roll(colmap.quaternion[view], -1)).apply(points) + colmap.translation[view]
        fx, fy, cx, cy = colmap.pinhole[view]
        np.testing.assert_allclose(local[:, :2] / local[:, 2:] * [fx, fy] + [cx, cy], pixels, atol=1e-6)


@EXAMPLES
@given(batches())
def test_colmap_files(batch):
    camera, width, height = batch
    names = [f"images/view {number}.png" for number in range(len(camera))]
    files = colmap_files(camera, names, width, height)
    read, again = cameras_from_colmap(files["cameras.txt"], files["images.txt"])
    assert read == names
    np.testing.assert_allclose(again.c2w, camera.c2w, atol=1e-9)
    np.testing.assert_allclose(again.intrinsics, camera.intrinsics, rtol=1e-8)


def test_views_of_one_lens_share_a_colmap_camera():
    c2w, one = np.tile(np.eye(4), (3, 1, 1)), [1.0, 1.0, 0.5, 0.5]
    files = colmap_files(Camera(c2w, np.array([one, [2.0, 2.0, 0.5, 0.5], one])), ["a", "b", "c"], 100, 100)
    lenses = [line for line in files["cameras.txt"].splitlines() if not line.startswith("#")]
    assert [line.split()[:5] for line in lenses] == [["1", "PINHOLE", "100", "100", "100"], ["2", "PINHOLE", "100", "100", "200"]]
    assert [line.split()[8] for line in files["images.txt"].splitlines()[1::2]] == ["1", "2", "1"]
    with pytest.raises(ValueError, match="OPENCV"):
        cameras_from_colmap("1 OPENCV 10 10 1 1 5 5 0 0 0 0\n", "")


@EXAMPLES
@given(batches())
def test_nerfstudio(batch):
    camera, width, height = batch
    description = conv.to_nerfstudio(camera, width, height)
    same(conv.from_nerfstudio(description), camera)
    for view, frame in enumerate(description["frames"]):
        points, pixels = points_and_pixels(camera, view, width, height)
        known, matrix = description | frame, np.array(frame["transform_matrix"])
        # docs.nerf.studio: +X right, +Y up, looking along -Z; ray directions are ((x - cx) / fl_x, -(y - cy) / fl_y, -1).
        local = (points - matrix[:3, 3]) @ matrix[:3, :3]
        x = known["fl_x"] * local[:, 0] / -local[:, 2] + known["cx"]
        y = known["cy"] - known["fl_y"] * local[:, 1] / -local[:, 2]
        np.testing.assert_allclose(np.c_[x, y], pixels, atol=1e-6)


def test_the_original_nerf_format_is_read():
    frame = {"transform_matrix": np.eye(4).tolist()}
    camera = conv.from_nerfstudio({"camera_angle_x": np.radians(60), "w": 400, "h": 200, "frames": [frame]})
    np.testing.assert_allclose(camera.intrinsics[0], [0.5 / np.tan(np.radians(30)), 1 / np.tan(np.radians(30)), 0.5, 0.5])
    with pytest.raises(ValueError, match="distortion"):
        conv.from_nerfstudio({"fl_x": 1, "w": 4, "h": 4, "k1": 0.1, "frames": [frame]})


@EXAMPLES
@given(batches())
def test_pytorch3d(batch):
    camera, width, height = batch
    theirs = conv.to_pytorch3d(camera, width, height)
    same(conv.from_pytorch3d(theirs, width, height), camera)
    for view in range(len(camera)):
        points, pixels = points_and_pixels(camera, view, width, height)
        # pytorch3d.org/docs/cameras: row vectors, x_ndc = f X/Z + p; the shorter side is [-1, 1], +1 at the left and top.
        local = points @ theirs.R[view] + theirs.T[view]
        assert (local[:, 2] > 0).all()
        ndc = theirs.focal_length[view] * local[:, :2] / local[:, 2:] + theirs.principal_point[view]
        shorter = min(width, height)
        screen = np.c_[width / 2 - ndc[:, 0] * shorter / 2, height / 2 - ndc[:, 1] * shorter / 2]
        np.testing.assert_allclose(screen, pixels, atol=1e-6)
        np.testing.assert_allclose(np.linalg.det(theirs.R[view]), 1.0)


def test_the_hand_laid_points_agree_with_our_projection():
    camera = Camera(np.eye(4)[None], np.array([[1.2, 0.9, 0.4, 0.6]]))
    points, pixels = points_and_pixels(camera, 0, 200, 100)
    np.testing.assert_allclose(camera.project(points)[0][0] * [200, 100], pixels)
