"""A known corner of a known object lands where our cameras say, in real renders of every rig."""

import json
from collections.abc import Iterator
from itertools import product

import numpy as np
import pytest
import trimesh
from scipy.spatial import ConvexHull

from rendering.blender import BlenderLimits, BlenderWorker, Rendered, RenderRequest
from rendering.cameras import Camera
from rendering.rigs import RIGS, RigConfig, RigViews, rig_named
from rendering.view_set import ViewSet
from tests.rendering import glbs

pytestmark = pytest.mark.blender
UNLIT = glbs.each_material(KHR_materials_unlit={})
SIZE = 128
CORNER_COLOURS = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0], [1, 0, 1], [0, 1, 1], [1, 1, 1], [0, 0, 0]], float)
BOX, MARK = np.array([1.0, 0.62, 0.35]), 0.05  # glTF extents (Y up) and the side of each corner cube
CORNERS = np.array(list(product((-1, 1), repeat=3))) * (BOX - MARK) / 2
WORLD = np.stack([CORNERS[:, 0], -CORNERS[:, 2], CORNERS[:, 1]], -1)  # glTF (x, y, z) -> Blender (x, -z, y)
CUBE = np.array(list(product((-MARK / 2, MARK / 2), repeat=3)))
OWN_RIG = {
    "fov_deg": 35,
    "radius": 2.4,
    "grids": {"azimuths": 5, "elevation_deg": [-40, 75]},
    "views": {"azimuth_deg": 123.4, "elevation_deg": 5.6, "radius": 1.9, "fov_deg": 47},
    "random": {"count": 2, "elevation_deg": [-10, 45], "radius": [2, 3], "role": "condition", "light_set": 1},
}


@pytest.fixture(scope="module")
def worker() -> Iterator[BlenderWorker]:
    with BlenderWorker(BlenderLimits(deadline_s=300)) as running:
        yield running


@pytest.fixture(scope="module")
def marked_box(tmp_path_factory):
    """Eight small cubes of eight colours sit in the corners of a box that is moved and scaled before export."""
    cubes = []
    for corner, colour in zip(CORNERS, CORNER_COLOURS, strict=True):
        cube = trimesh.creation.box([MARK] * 3, trimesh.transformations.translation_matrix(corner))
        cubes.append(glbs.coloured(cube.apply_scale(7.0).apply_translation([40.0, -3.0, 8.0]), colour))
    return glbs.write(tmp_path_factory.mktemp("box") / "corners.glb", *cubes, edit=UNLIT)


def rendered(worker: BlenderWorker, mesh, cameras: RigViews, size: int = SIZE, samples: int = 16) -> ViewSet:
    result = worker.render(RenderRequest("u", mesh, cameras, resolution=size, samples=samples, denoise="none"))
    assert isinstance(result, Rendered), result
    return result.views


def corner_errors(views: ViewSet, camera: Camera) -> np.ndarray:
    """Pixels between each corner cube's centroid in the picture and its projection: `[N, 2]` over all cubes seen whole.

    A cube is found by its colour anywhere in the picture, not near its projection, so a wrong camera shows.
    """
    size, errors = views.rgba.shape[1], []
    y, x = np.mgrid[:size, :size] + 0.5
    for view, rgba in enumerate(views.rgba):
        colour, alpha = rgba[..., :3] / 255.0, rgba[..., 3] / 255.0
        for corner_colour, middle in zip(CORNER_COLOURS, WORLD, strict=True):
            weight = alpha * (np.abs(colour - corner_colour).max(-1) < 0.02)
            outline = camera[view].project(middle + CUBE)[0] * size
            if weight.sum() < 0.95 * ConvexHull(outline).volume:
                continue  # partly hidden by a nearer cube
            place = camera[view].project(middle[None])[0][0] * size
            errors.append(np.array([(weight * x).sum(), (weight * y).sum()]) / weight.sum() - place)
    return np.array(errors)


def check(worker: BlenderWorker, mesh, cameras: RigViews) -> None:
    views = rendered(worker, mesh, cameras)
    errors = corner_errors(views, cameras.camera)
    assert len(errors) > 0.6 * 8 * len(views)
    assert np.abs(errors).max() < 0.5
    assert np.abs(errors.mean(0)).max() < 0.1  # no half-pixel habit either


@pytest.mark.parametrize("name", [*sorted(RIGS), "own"])
def test_known_corners_land_within_half_a_pixel(worker, marked_box, name):
    cameras = rig_named(json.dumps(OWN_RIG) if name == "own" else name)("u", RigConfig(num_conditions=3))
    check(worker, marked_box, cameras.select([0, len(cameras) // 2 + 1, len(cameras) - 1]))


@pytest.mark.long
@pytest.mark.parametrize("name", [*sorted(RIGS), "own"])
@pytest.mark.parametrize("uid", ["u", "another"])
def test_known_corners_land_within_half_a_pixel_in_every_view(worker, marked_box, name, uid):
    check(worker, marked_box, rig_named(json.dumps(OWN_RIG) if name == "own" else name)(uid, RigConfig(num_conditions=10)))


def test_the_corner_test_notices_a_camera_that_is_one_pixel_off(worker, marked_box):
    cameras = RIGS["syncdreamer16"]("u", RigConfig()).select([3, 7])
    views = rendered(worker, marked_box, cameras)
    moved = cameras.camera.intrinsics.copy()
    moved[:, 2] += 0.7 / SIZE
    assert np.abs(corner_errors(views, Camera(cameras.camera.c2w, moved))).max(0)[0] > 0.5
    wider = cameras.camera.intrinsics * [1.03, 1.03, 1, 1]
    assert np.abs(corner_errors(views, Camera(cameras.camera.c2w, wider))).max() > 0.5
    assert np.abs(corner_errors(views, cameras.camera.turned(1.5))).max() > 0.5


def silhouette_corners(alpha: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """Corners of a convex silhouette `[N, 2]`, from straight lines fitted to where alpha crosses one half along its edges.

    `expected` `[N, 2]` (in order around the silhouette) only says which edge a crossing belongs to.
    """
    crossings = []
    for axis in (0, 1):
        values = np.moveaxis(alpha, axis, 0)
        row, column = np.nonzero((values[:-1] - 0.5) * (values[1:] - 0.5) < 0)
        before, after = values[row, column], values[row + 1, column]
        along = row + 0.5 + (0.5 - before) / (after - before)
        crossings.append(np.stack([column + 0.5, along] if axis == 0 else [along, column + 0.5], -1))
    points, following = np.concatenate(crossings), np.roll(expected, -1, 0)
    direction = following - expected
    length = np.linalg.norm(direction, axis=-1, keepdims=True)
    normal = np.stack([direction[:, 1], -direction[:, 0]], -1) / length
    distance = np.abs(np.einsum("pec,ec->pe", points[:, None] - expected, normal))
    part = np.einsum("pec,ec->pe", points[:, None] - expected, direction) / length[:, 0] ** 2
    lines = []
    for edge in range(len(expected)):
        near = points[(distance[:, edge] < 4) & (part[:, edge] > 0.1) & (part[:, edge] < 0.9)]
        assert len(near) > 8
        middle = near.mean(0)
        across = np.linalg.svd(near - middle)[2][1]
        lines.append((*across, across @ middle))
    return np.array([np.linalg.solve([lines[k - 1][:2], lines[k][:2]], [lines[k - 1][2], lines[k][2]]) for k in range(len(lines))])


def bends_deg(outline: np.ndarray) -> np.ndarray:
    """By how much the outline changes direction at each of its corners."""
    arriving, leaving = outline - np.roll(outline, 1, 0), np.roll(outline, -1, 0) - outline
    turn = np.arctan2(leaving[:, 1], leaving[:, 0]) - np.arctan2(arriving[:, 1], arriving[:, 0])
    return np.abs(np.degrees((turn + np.pi) % (2 * np.pi) - np.pi))


@pytest.mark.parametrize("name", ["mvdiffusionpp", "zero123pp"])
def test_the_corners_of_a_solid_box_are_where_its_edges_meet(worker, tmp_path, name):
    box = trimesh.creation.box([0.7, 1.0, 0.4])
    mesh = glbs.write(tmp_path / "box.glb", glbs.coloured(box, [0.2, 0.2, 0.2]))
    cameras = rig_named(name)("u", RigConfig(num_conditions=3)).select([1, 4, 8])
    views = rendered(worker, mesh, cameras, size=160, samples=32)
    corners = np.array(list(product((-0.35, 0.35), (-0.2, 0.2), (-0.5, 0.5))))
    measured = 0
    for view in range(len(views)):
        places = cameras.camera[view].project(corners)[0] * 160
        outline = places[ConvexHull(places).vertices]
        if np.linalg.norm(outline - np.roll(outline, 1, 0), axis=-1).min() < 20:
            continue  # an edge too short to fit a line to
        found = silhouette_corners(views.rgba[view, ..., 3] / 255.0, outline)
        sharp = bends_deg(outline) > 20  # where two edges are nearly one line, their meeting point is not defined
        assert np.abs(found - outline)[sharp].max() < 0.25
        measured += sharp.sum()
    assert measured >= 6
