"""The distance field, its rays and its fit, each against closed forms or a slow reference, and the fit on shapes that hulls get wrong."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import trimesh
from scipy import ndimage

from evaluation.hull import Grid, HullSettings, hull_mesh
from evaluation.mesh_bench_objects import OBJECTS
from evaluation.meshing.clean import clean
from evaluation.meshing.normals import world_normals
from evaluation.meshing.pictures import shrunk
from evaluation.meshing.rays import ray_pool
from evaluation.meshing.refine import RefineFailure, RefineSettings, hull_distance, refine, surface
from evaluation.meshing.sdf_grid import SdfGrid, _Blur, _sum_of_neighbours
from evaluation.meshing.volume_rendering import _weights
from evaluation.metrics.geometry import GeometrySettings, compare_surfaces
from rendering.view_set import Mesh
from tests.evaluation.shapes import photograph, plain, rig

CPU = torch.device("cpu")
GEOMETRY = GeometrySettings(points=4000, volume_resolution=40)
QUICK = RefineSettings(resolution=32, steps=140, rays=512, coarse_share=0.0)


def painted(mesh: Mesh, colors: np.ndarray) -> trimesh.Trimesh:
    body = trimesh.Trimesh(mesh.vertices, mesh.faces, process=False)
    body.visual.face_colors = np.concatenate([colors[mesh.faces].mean(1), np.full((len(mesh.faces), 1), 255)], 1).astype(np.uint8)
    return body


@pytest.fixture(scope="module")
def bowl(tmp_path_factory) -> trimesh.Trimesh:
    mesh, colors = OBJECTS["bowl"](tmp_path_factory.mktemp("bowl"))
    return painted(Mesh(mesh.vertices / 2, mesh.faces), colors)


@pytest.fixture(scope="module")
def bowl_views(bowl) -> np.ndarray:
    return photograph(bowl, rig(), 64, samples=2)


@pytest.fixture(scope="module")
def bowl_hull(bowl_views) -> Mesh:
    return hull_mesh(bowl_views, rig(), HullSettings(32))


def test_blur_keeps_constants_and_its_gradient_is_exact():
    shape = (1, 1, 5, 4, 6)
    share = 1.0 / _sum_of_neighbours(torch.ones(shape, dtype=torch.float64))
    constant = _Blur.apply(torch.full(shape, 3.0, dtype=torch.float64), share)
    assert torch.allclose(constant, torch.full(shape, 3.0, dtype=torch.float64))
    raw = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: _Blur.apply(x, share), (raw,))
    slow = raw.detach().numpy()[0, 0]
    for _ in range(2):
        count = ndimage.convolve(np.ones_like(slow), np.ones((3, 3, 3)), mode="constant")
        slow = ndimage.convolve(slow, np.ones((3, 3, 3)), mode="constant") / count
    assert np.abs(_Blur.apply(raw, share).detach().numpy()[0, 0] - slow).max() < 1e-12


def test_the_field_is_read_where_the_grid_says():
    """Against scipy's interpolation, at points of a grid that is neither centred nor cubic."""
    grid = Grid(np.array([-0.3, 0.1, 2.0]), 0.05, (9, 12, 7))
    values = np.random.default_rng(0).normal(size=grid.shape)
    field = SdfGrid.of(grid, values, CPU)
    inner = np.random.default_rng(1).uniform(0, 1, (200, 3)) * (np.array(grid.shape) - 1)
    points = torch.tensor(grid.low + inner * grid.size, dtype=torch.float32)
    found = field.at(field.raw.detach(), points)[0].numpy()
    assert np.abs(found - ndimage.map_coordinates(values, inner.T, order=1)).max() < 1e-3


def test_a_finer_grid_holds_the_same_field_in_its_own_cells():
    grid = Grid(np.full(3, -0.5), 0.1, (11, 11, 11))
    plane = (grid.points() @ [0.6, 0.0, 0.8]).reshape(grid.shape) / grid.size
    finer = SdfGrid.of(grid, plane, CPU).finer(Grid(np.full(3, -0.2), 0.05, (9, 9, 9)))
    expected = (finer.grid.points() @ [0.6, 0.0, 0.8]).reshape(9, 9, 9) / 0.05
    assert np.abs(finer.raw.detach().numpy()[0, 0] - expected).max() < 1e-3


def test_weights_end_the_light_at_the_first_surface():
    """Two walls on one ray: the first takes all the light, and the mean place of its end is where the distance is 0."""
    t = torch.linspace(0, 10, 400)
    distance = torch.minimum((t - 3.0).abs(), (t - 7.0).abs()) - 0.5
    weights = _weights(distance[None], sharpness=40.0)[0]
    middle = 0.5 * (t[1:] + t[:-1])
    assert weights.sum() == pytest.approx(1.0, abs=1e-3) and weights.min() >= 0
    assert (weights * middle).sum() == pytest.approx(2.5, abs=0.02)
    assert _weights(torch.full((1, 50), 4.0), 40.0).sum() < 1e-4


def test_rays_begin_before_and_end_behind_the_surface():
    ball = trimesh.creation.icosphere(subdivisions=4, radius=0.4)
    grid = Grid(np.full(3, -0.6), 0.04, (31, 31, 31))
    distance = hull_distance(plain(ball), grid)
    centres = np.linalg.norm(grid.points(), axis=1).reshape(grid.shape)
    assert np.abs(distance * grid.size - (centres - 0.4)).max() < 0.002  # the closed form, negative inside
    views = photograph(ball, rig(), 24, samples=1)
    rays = ray_pool(shrunk(views, 24), rig(), grid, distance < 3, None, CPU)
    along = (rays.origin * rays.direction).sum(1)
    inside = along**2 - (rays.origin**2).sum(1) + 0.4**2
    hit = inside > 1e-3
    assert int((rays.target[:, 3] > 0.5).sum()) == int((views[..., 3] > 127).sum())  # no pixel of the object is lost
    assert (rays.near[hit] <= (-along - inside.clamp_min(0).sqrt())[hit]).all()
    assert (rays.far[hit] >= (-along + inside.clamp_min(0).sqrt())[hit]).all()


def test_surface_of_a_ball_and_of_nothing():
    grid = Grid(np.full(3, -0.6), 0.04, (31, 31, 31))
    distance = (np.linalg.norm(grid.points(), axis=1).reshape(grid.shape) - 0.4) / grid.size
    mesh = surface(SdfGrid.of(grid, distance, CPU))
    body = trimesh.Trimesh(mesh.vertices, mesh.faces)
    assert body.is_watertight and body.volume == pytest.approx(4 / 3 * np.pi * 0.4**3, rel=0.06)  # the blur rounds a coarse ball off
    for broken, words in ((np.full(grid.shape, 2.0), "no inside"), (np.full(grid.shape, np.nan), "not finite")):
        with pytest.raises(RefineFailure, match=words):
            surface(SdfGrid.of(grid, broken, CPU))


def test_colours_carve_the_hollow_that_masks_cannot_show(bowl, bowl_views, bowl_hull):
    before = compare_surfaces(plain(bowl), bowl_hull, GEOMETRY)
    made = refine(bowl_hull, shrunk(bowl_views, 64), rig(), QUICK, device="cpu")
    after = compare_surfaces(plain(bowl), clean(made.mesh, rig()), GEOMETRY)
    assert (made.steps, made.shortened) == (140, False)
    assert after["chamfer"] < 0.5 * before["chamfer"]
    assert after["volume_iou"] > before["volume_iou"] + 0.2


def test_equal_seeds_give_equal_meshes_and_a_budget_ends_the_fit(bowl_views, bowl_hull):
    pictures, short = shrunk(bowl_views, 64), replace(QUICK, steps=20)
    first, second = (refine(bowl_hull, pictures, rig(), short, device="cpu").mesh for _ in range(2))
    assert np.array_equal(first.vertices, second.vertices) and np.array_equal(first.faces, second.faces)
    other = refine(bowl_hull, pictures, rig(), replace(short, seed=1), device="cpu").mesh
    assert not np.array_equal(first.vertices, other.vertices)
    cut = refine(bowl_hull, pictures, rig(), replace(QUICK, steps=100_000, budget_s=1.0), device="cpu")
    assert cut.shortened and 0 < cut.steps < 100_000


def test_one_colour_gives_no_reason_to_move():
    """Photometry says nothing about a white ball: it must stay a ball."""
    ball = trimesh.creation.icosphere(subdivisions=4, radius=0.45)
    ball.visual.face_colors = (255, 255, 255, 255)
    views = photograph(ball, rig(), 48, samples=2)
    hull = hull_mesh(views, rig(), HullSettings(32))
    made = clean(refine(hull, shrunk(views, 48), rig(), replace(QUICK, steps=100), device="cpu").mesh, rig())
    assert compare_surfaces(plain(ball), made, GEOMETRY)["volume_iou"] > 0.93  # .89 when compositing on white alone


def test_normals_turn_into_the_world_and_bend_the_surface(bowl, bowl_hull):
    """Without any colour the masks of a bowl leave it filled; true normals say that there is a hollow."""
    bare = bowl.copy()
    bare.visual.face_colors = (120, 120, 120, 255)
    camera, size = rig(), 48
    views = photograph(bare, camera, size, samples=1)
    in_camera = np.zeros((32, size * size, 3))
    world = np.zeros_like(in_camera)
    for i in range(32):
        origin, direction = (a.reshape(-1, 3) for a in camera[i].rays(size, size))
        face = bare.ray.intersects_first(origin, direction)
        world[i, face >= 0] = bare.face_normals[face[face >= 0]]
        in_camera[i] = world[i] @ camera.c2w[i, :3, :3]
    shape = (32, size, size, 3)
    turned = world_normals(in_camera.reshape(shape), camera, size)
    assert np.abs(turned - world.reshape(shape)).max() < 1e-5
    with pytest.raises(ValueError, match="shape"):
        world_normals(in_camera, camera, size)
    pictures = shrunk(views, size)
    without = clean(refine(bowl_hull, pictures, camera, QUICK, device="cpu").mesh, camera)
    given = clean(refine(bowl_hull, pictures, camera, QUICK, turned, device="cpu").mesh, camera)
    figures = [compare_surfaces(plain(bare), mesh, GEOMETRY)["volume_iou"] for mesh in (without, given)]
    assert figures[1] > figures[0] + 0.03, figures
