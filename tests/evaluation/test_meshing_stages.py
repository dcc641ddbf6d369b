"""Clean, simplify, unwrap, bake and their parts, each called alone and checked against shapes whose answer is known."""

import io

import numpy as np
import pytest
import trimesh
from PIL import Image

from evaluation.mesh_io import textured_glb_bytes
from evaluation.meshing.bake import bake, suitable_px, texel_places, unwrap
from evaluation.meshing.clean import NothingVisible, clean, smoothed, visible_parts
from evaluation.meshing.colors import HIDDEN, UNKNOWN, point_colors, vertex_sight
from evaluation.meshing.consistency import agreement, eikonal_for
from evaluation.meshing.guard import HeldOut, held_out_figures, split_views
from evaluation.meshing.look import look_at, look_at_textured
from evaluation.meshing.pictures import premultiplied, resized, shrunk
from evaluation.meshing.simplify import simplify
from rendering.cameras import orbit
from rendering.view_set import Mesh
from tests.evaluation.shapes import photograph, plain, rig


def ball(radius: float, centre=(0, 0, 0), subdivisions: int = 3) -> trimesh.Trimesh:
    return trimesh.creation.icosphere(subdivisions=subdivisions, radius=radius).apply_translation(centre)


def waves(points: np.ndarray) -> np.ndarray:
    """Smooth colours in [0, 1] of places."""
    return 0.5 + 0.4 * np.sin(points @ np.array([[7.0, 1, 0], [0, 6, 2], [2, 0, 8]]).T)


@pytest.fixture(scope="module")
def painted_ball() -> trimesh.Trimesh:
    body = ball(0.5, subdivisions=5)
    colors = np.concatenate([waves(body.triangles_center), np.ones((len(body.faces), 1))], 1)
    body.visual.face_colors = np.round(colors * 255).astype(np.uint8)
    return body


@pytest.fixture(scope="module")
def ball_views(painted_ball) -> np.ndarray:
    return photograph(painted_ball, rig(), 96, samples=2)


def parts(mesh: Mesh) -> list[trimesh.Trimesh]:
    return list(trimesh.Trimesh(mesh.vertices, mesh.faces).split(only_watertight=False))


def test_what_no_camera_sees_goes_and_separate_parts_stay():
    hidden = ball(0.15)
    hidden.invert()  # the inner wall of a hollow
    speck, other = ball(0.01, (0.45, 0, 0.4), 1), ball(0.15, (-0.5, 0, 0))
    kept = visible_parts(plain(trimesh.util.concatenate([ball(0.3), hidden, speck, other])), rig())
    sizes = sorted(part.extents[0] for part in parts(kept))
    assert np.allclose(sizes, [0.3, 0.6], atol=0.02)
    with pytest.raises(NothingVisible):
        visible_parts(plain(ball(0.1, (0, 0, 50))), rig())


def test_triangles_are_turned_outward_part_by_part():
    flipped = ball(0.15, (-0.5, 0, 0))
    flipped.invert()
    kept = visible_parts(plain(trimesh.util.concatenate([ball(0.3), flipped])), rig())
    assert all(part.volume > 0 for part in parts(kept))
    mixed = ball(0.3)
    mixed.faces[::3] = mixed.faces[::3, ::-1]
    assert trimesh.Trimesh(*_arrays(visible_parts(plain(mixed), rig()))).volume == pytest.approx(ball(0.3).volume, rel=1e-4)


def _arrays(mesh: Mesh) -> tuple[np.ndarray, np.ndarray]:
    return mesh.vertices, mesh.faces


def test_smoothing_takes_noise_and_leaves_the_volume():
    body = ball(0.5, subdivisions=4)
    noisy = Mesh(body.vertices * (1 + np.random.default_rng(0).normal(0, 0.01, (len(body.vertices), 1))), body.faces)
    smooth = smoothed(noisy, 5)
    radius = np.linalg.norm(smooth.vertices, axis=1)
    assert radius.std() < 0.5 * float(np.linalg.norm(noisy.vertices, axis=1).std())
    assert trimesh.Trimesh(smooth.vertices, smooth.faces).volume == pytest.approx(body.volume, rel=0.01)


def test_simplifying_keeps_the_shape():
    body = plain(ball(0.5, subdivisions=5))
    slim = simplify(body, 1500)
    assert 1000 < len(slim.faces) <= 1510
    again = trimesh.Trimesh(slim.vertices, slim.faces)
    assert again.is_watertight and again.volume == pytest.approx(4 / 3 * np.pi / 8, rel=0.01)
    assert simplify(slim, 1500) is slim


def test_every_texel_knows_its_place():
    """Against a slow search through all triangles; charts do not overlap."""
    mesh = plain(ball(0.5, subdivisions=2))
    index, faces, uv = unwrap(mesh, 64)
    assert uv.min() >= 0 and uv.max() <= 1 and len(faces) == len(mesh.faces)
    assert np.array_equal(np.sort(index[faces], 1), np.sort(mesh.faces, 1))  # the same triangles, in the same order
    triangle, weight = texel_places(uv, faces, 64)
    centres = (np.stack(np.meshgrid(np.arange(64), np.arange(64), indexing="xy"), -1) + 0.5) / 64
    inside = np.zeros((64, 64), int)
    for number, (a, b, c) in enumerate(uv[faces].astype(np.float64)):
        system = np.linalg.inv(np.stack([b - a, c - a], -1))
        u, v = np.moveaxis((centres - a) @ system.T, -1, 0)
        within = (u > 1e-4) & (v > 1e-4) & (u + v < 1 - 1e-4)
        inside += within
        assert (triangle[within] == number).all()
        assert np.abs(weight[within] - np.stack([1 - u - v, u, v], -1)[within]).max(initial=0) < 1e-3
    assert inside.max() == 1 and 0.3 < (triangle >= 0).mean() < 1


def test_a_baked_ball_has_the_colours_of_its_places(painted_ball, ball_views):
    baked = bake(plain(ball(0.5, subdivisions=3)), ball_views, rig(), 256)
    triangle, weight = texel_places(baked.uv, baked.mesh.faces, 256)
    covered = triangle >= 0
    places = (baked.mesh.vertices[baked.mesh.faces[triangle[covered]]] * weight[covered][..., None]).sum(1)
    error = baked.texture[covered] / 255.0 - waves(places)
    assert -10 * np.log10((error**2).mean()) > 30
    assert np.abs(np.linalg.norm(baked.normals, axis=1) - 1).max() < 1e-4
    assert (baked.normals * baked.mesh.vertices).sum(1).min() > 0.45  # outward, also on seams
    seen = look_at_textured(baked, orbit(33.0, 20.0, 1.5, 60.0), 96, 96)[0]
    truth = photograph(painted_ball, orbit(33.0, 20.0, 1.5, 60.0), 96, samples=2)[0]
    both = (seen[..., 3] == 1) & (truth[..., 3] == 255)
    assert -10 * np.log10(((seen[..., :3] - truth[..., :3] / 255.0)[both] ** 2).mean()) > 27


def test_texture_side_follows_the_pictures():
    assert [suitable_px(n) for n in (16, 64, 200, 256, 4000)] == [128, 128, 512, 512, 2048]


def test_known_sight_gives_the_same_colours_as_rays(ball_views):
    mesh = plain(ball(0.5))
    normals = mesh.vertices / 0.5
    sight = vertex_sight(mesh, normals, rig())
    plainly = point_colors(mesh.vertices, normals, mesh, ball_views, rig())
    known = point_colors(mesh.vertices, normals, mesh, ball_views, rig(), sight=sight.astype(np.int8))
    assert np.array_equal(plainly, known)
    none = point_colors(mesh.vertices, normals, mesh, ball_views, rig(), sight=np.full_like(sight, HIDDEN, np.int8))
    assert (none == 255).all()
    assert np.array_equal(
        plainly, point_colors(mesh.vertices, normals, mesh, ball_views, rig(), sight=np.full(sight.shape, UNKNOWN, np.int8))
    )


def test_looking_at_a_mesh_gives_its_pictures(painted_ball):
    camera = rig()[3:6]
    body = ball(0.5, subdivisions=5)
    colors = np.round(waves(body.vertices) * 255).astype(np.uint8)
    seen, truth = look_at(plain(body), colors, camera, 48, 48, samples=4), premultiplied(photograph(painted_ball, camera, 48))
    assert np.abs(seen - truth).mean() < 0.005 and np.abs(seen[..., 3] - truth[..., 3]).max() < 0.2


def test_shrinking_is_the_mean_of_premultiplied_areas():
    rgba = np.zeros((1, 6, 8, 4), np.uint8)
    rgba[0, :, :4] = (200, 100, 50, 255)
    rgba[0, :, 4:, :3] = 77  # colour of nothing must not count
    small = shrunk(rgba, 4)
    assert small.shape == (1, 3, 4, 4) and np.allclose(small[0, :, :2], np.array([200, 100, 50, 255]) / 255, atol=1e-6)
    assert (small[0, :, 2:] == 0).all()
    values = np.random.default_rng(0).random((2, 9, 12, 3)).astype(np.float32)
    assert np.allclose(resized(values, 4), values.reshape(2, 3, 3, 4, 3, 3).mean((2, 4)), atol=1e-6)
    assert resized(values, 12) is values


def test_the_odd_view_is_named_and_disagreement_stiffens_the_fit(ball_views):
    mesh = plain(ball(0.5, subdivisions=5))
    clean_set = agreement(mesh, ball_views, rig())
    assert clean_set.odd == () and clean_set.offset < 0.003
    assert eikonal_for(clean_set.offset) == pytest.approx(0.02)
    bad = ball_views.copy()
    bad[7] = np.roll(bad[7], 12, axis=1)
    assert agreement(mesh, bad, rig()).odd == (7,)
    moved = np.stack([np.roll(view, (i % 3 - 1, (i + 1) % 3 - 1), (0, 1)) for i, view in enumerate(ball_views)])
    assert agreement(mesh, moved, rig()).offset > clean_set.offset + 0.002
    weights = [eikonal_for(offset) for offset in (0.0, 0.003, 0.006, 0.010, 1.0)]
    assert weights == sorted(weights) and weights[-1] == pytest.approx(0.04)


def test_held_out_views_are_apart_and_tell_a_good_mesh_from_a_bad_one(ball_views):
    fit, held = split_views(32, 4, 0)
    assert len(held) == 4 and sorted([*fit, *held]) == list(range(32))
    assert not np.array_equal(held, split_views(32, 4, 1)[1])
    assert [len(split_views(n, 4, 0)[1]) for n in (4, 5, 6, 12, 15, 16, 64)] == [0, 0, 1, 2, 2, 4, 4]
    camera = rig()
    pictures = shrunk(ball_views[held], 96)

    def figures(body: trimesh.Trimesh) -> HeldOut:
        return held_out_figures(plain(body), ball_views[fit], camera[fit], pictures, camera[held])

    good, fat, moved = figures(ball(0.5)), figures(ball(0.6)), figures(ball(0.5, (0.02, 0, 0)))
    assert good.mask_iou > 0.97 and good.psnr_foreground > 22
    assert good.not_worse_than(good) and good.not_worse_than(fat) and not fat.not_worse_than(good)
    assert not moved.not_worse_than(good)


def test_textured_glb_is_what_others_read():
    """Two triangles, four colours: position, orientation and the corner a colour belongs to, as trimesh reads them."""
    square = Mesh(np.array([[0, 0, 0], [1, 0, 0], [1, 0, 1], [0, 0, 1]], np.float32), np.array([[0, 1, 2], [0, 2, 3]], np.int32))
    uv = np.array([[0, 1], [1, 1], [1, 0], [0, 0]], np.float32)  # (0, 0) is the upper left: our vertex 3
    texture = np.array([[(255, 0, 0), (0, 255, 0)], [(0, 0, 255), (250, 250, 0)]], np.uint8)
    normals = np.tile([0.0, -1.0, 0.0], (4, 1))
    data = textured_glb_bytes(square, normals, uv, texture)
    assert data == textured_glb_bytes(square, normals, uv, texture) and len(data) % 4 == 0
    body = trimesh.load(io.BytesIO(data), file_type="glb", force="mesh", process=False)
    assert np.allclose(body.vertices, square.vertices[:, [0, 2, 1]] * [1, 1, -1])  # Y up
    assert np.allclose(body.vertex_normals, [0, 0, 1]) and np.allclose(body.face_normals, [0, 0, 1])
    material = body.visual.material
    image = material.baseColorTexture
    assert isinstance(image, Image.Image) and np.array_equal(np.asarray(image.convert("RGB")), texture)
    assert material.metallicFactor == 0.0 and material.roughnessFactor == 1.0
    # trimesh turns v about: its (0, 1) is the upper left corner.
    corner_colors = trimesh.visual.color.uv_to_color(np.clip(body.visual.uv, 0.01, 0.99), image)[:, :3]
    assert corner_colors.tolist() == [[0, 0, 255], [250, 250, 0], [0, 255, 0], [255, 0, 0]]


def test_clean_is_both():
    mesh = clean(plain(trimesh.util.concatenate([ball(0.4), ball(0.1)])), rig())
    assert len(parts(mesh)) == 1 and len(mesh.vertices) == len(ball(0.4).vertices)


def test_unwrapping_ends_however_often_it_is_done():
    """xatlas in this process would now and then wait for ever for a thread that it had not woken."""
    cube = trimesh.creation.box()
    for _ in range(3):
        index, faces, uv = unwrap(Mesh(np.asarray(cube.vertices), np.asarray(cube.faces)), 64)
        assert faces.shape == (12, 3) and uv.min() >= 0 and uv.max() <= 1
        np.testing.assert_array_equal(cube.vertices[index][faces], cube.vertices[cube.faces])
    with pytest.raises(RuntimeError, match="xatlas ended with status"):
        unwrap(Mesh(np.zeros((3, 3)), np.array([[0, 1, 7]])), 64)
