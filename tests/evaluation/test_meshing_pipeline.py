"""The stages together: few and many views, empty and odd ones, views cut by the frame, refusals of the guard, failing stages."""

import io
from dataclasses import replace

import numpy as np
import pytest
import trimesh

from evaluation.hull import HullFailure
from evaluation.mesh_bench_objects import OBJECTS
from evaluation.meshing.guard import IOU_TOLERANCE, PSNR_TOLERANCE_DB
from evaluation.meshing.pipeline import Reconstruction, reconstruct
from evaluation.meshing.settings import STAGES, ReconstructConfig
from evaluation.metrics.geometry import GeometrySettings, compare_surfaces
from infra.errors import UserError
from rendering.cameras import Camera, orbit
from rendering.view_set import Mesh
from tests.evaluation.shapes import colored_box, photograph, plain, rig

GEOMETRY = GeometrySettings(points=4000, volume_resolution=40)
FAST = ReconstructConfig(resolution=32, texture_px=128)
REFINED = replace(FAST, stages=STAGES, refine_resolution=32, refine_steps=120, refine_px=64)


@pytest.fixture(scope="module")
def bowl(tmp_path_factory) -> trimesh.Trimesh:
    mesh, colors = OBJECTS["bowl"](tmp_path_factory.mktemp("bowl"))
    body = trimesh.Trimesh(mesh.vertices / 2, mesh.faces, process=False)
    body.visual.face_colors = np.concatenate([colors[mesh.faces].mean(1), np.full((len(mesh.faces), 1), 255)], 1).astype(np.uint8)
    return body


@pytest.fixture(scope="module")
def bowl_views(bowl) -> np.ndarray:
    return photograph(bowl, rig(), 64, samples=2)


@pytest.fixture(scope="module")
def box_views() -> np.ndarray:
    return photograph(colored_box(), rig(), 48, samples=2)


def chamfer(truth: trimesh.Trimesh, made: Reconstruction) -> float:
    return compare_surfaces(plain(truth), made.mesh, GEOMETRY)["chamfer"]


def test_refining_is_accepted_where_it_helps(bowl, bowl_views):
    hull, made = reconstruct(bowl_views, rig(), FAST), reconstruct(bowl_views, rig(), replace(REFINED, refine_steps=160))
    report = made.report
    assert report.stages == list(STAGES) and not report.fallbacks and report.odd_views == []
    assert report.guard.startswith("refined accepted") and report.held_out == 4
    assert report.refined_psnr > report.hull_psnr and report.refined_mask_iou >= report.hull_mask_iou - IOU_TOLERANCE
    assert chamfer(bowl, made) < 0.6 * chamfer(bowl, hull)
    assert (report.eikonal, report.steps) == (0.02, 160)


def test_views_that_contradict_each_other_cost_nothing(bowl, bowl_views):
    """Every view in a colour of its own and no stiffness: what the fit makes of that must not replace the hull unless it is as good."""
    rng = np.random.default_rng(0)
    wild = bowl_views.copy()
    wild[..., :3] = np.where(wild[..., 3:] > 0, rng.integers(0, 256, (32, 8, 8, 3)).repeat(8, 1).repeat(8, 2), 0)
    made = reconstruct(wild, rig(), replace(REFINED, eikonal=0.0, refine_steps=60))
    report = made.report
    assert "refine" in report.stages or report.guard.startswith("hull kept")
    if "refine" in report.stages:
        assert (
            report.refined_mask_iou >= report.hull_mask_iou - IOU_TOLERANCE and report.refined_psnr >= report.hull_psnr - PSNR_TOLERANCE_DB
        )
    else:
        assert np.array_equal(made.mesh.vertices, reconstruct(wild, rig(), FAST).mesh.vertices)
    assert chamfer(bowl, made) < 1.3 * chamfer(bowl, reconstruct(wild, rig(), FAST))


@pytest.mark.parametrize("count", [4, 8, 64])
def test_any_number_of_views(count):
    ball = trimesh.creation.icosphere(subdivisions=4, radius=0.45)
    ball.visual.face_colors = np.concatenate([0.5 + 0.4 * np.sin(9 * ball.triangles_center), np.ones((len(ball.faces), 1))], 1)
    camera = orbit(np.arange(count) * 360.0 * 0.382, np.tile([20.0, -15.0, 50.0, 5.0], count // 4), 1.5, 60.0)
    made = reconstruct(photograph(ball, camera, 40, samples=2), camera, replace(REFINED, refine_steps=20))
    assert made.textured is not None and not made.report.fallbacks
    assert compare_surfaces(plain(ball), made.mesh, GEOMETRY)["volume_iou"] > (0.6 if count == 4 else 0.85)
    assert made.report.held_out == {4: 0, 8: 1, 64: 4}[count]
    if count == 4:
        assert made.report.guard == "hull kept: 4 views are too few to hold any out"


def test_empty_and_odd_views_are_left_out_and_named(box_views):
    """One view of 32 shifted, two empty; with 8 views, where no vote protects the hull, an empty one."""
    wrong = box_views.copy()
    wrong[3] = np.roll(wrong[3], 10, axis=1)
    wrong[[8, 20]] = 0
    made = reconstruct(wrong, rig(), FAST)
    assert sorted(made.report.odd_views) == [3, 8, 20]
    assert chamfer(colored_box(), made) < chamfer(colored_box(), reconstruct(box_views, rig(), FAST)) + 0.005
    few = box_views[::4].copy()
    few[2] = 0
    assert reconstruct(few, rig()[::4], FAST).report.odd_views == [2]
    with pytest.raises(HullFailure):
        reconstruct(np.zeros_like(box_views), rig(), FAST)


def test_an_object_cut_by_the_frame_is_not_cut_off():
    """Half of the cameras are so near that the ball leaves their frame; what they do not see they do not deny."""
    ball = trimesh.creation.icosphere(subdivisions=4, radius=0.45)
    ball.visual.face_colors = np.concatenate([0.5 + 0.4 * np.sin(9 * ball.triangles_center), np.ones((len(ball.faces), 1))], 1)
    far, near = rig(), orbit(np.arange(8) * 45.0 + 20.0, 10.0, 0.9, 40.0)
    camera = Camera(np.concatenate([far.c2w, near.c2w]), np.concatenate([far.intrinsics, near.intrinsics]))
    views = photograph(ball, camera, 40, samples=2)
    assert (views[-8:, 0, :, 3] > 0).any(1).all()
    made = reconstruct(views, camera, replace(REFINED, refine_steps=60))
    assert compare_surfaces(plain(ball), made.mesh, GEOMETRY)["volume_iou"] > 0.9


def test_stages_can_be_left_out(box_views):
    bare = reconstruct(box_views, rig(), replace(FAST, stages=("hull",)))
    assert bare.report.stages == ["hull", "export"] and bare.textured is None
    assert bare.colors is not None and bare.colors.shape == bare.mesh.vertices.shape
    slim = reconstruct(box_views, rig(), replace(FAST, stages=("hull", "simplify"), max_faces=400))
    assert slim.report.stages == ["hull", "simplify", "export"] and len(slim.mesh.faces) <= 410
    for made in (bare, slim):
        assert trimesh.load(io.BytesIO(made.glb()), file_type="glb", force="mesh").volume > 0
    with pytest.raises(UserError, match="no meshing stage 'polish'"):
        replace(FAST, stages=("hull", "polish"))


def failing(rgba: np.ndarray) -> np.ndarray:
    raise RuntimeError("no weights here")


def flat(rgba: np.ndarray) -> np.ndarray:
    """An estimator that says that all surfaces face the camera."""
    normals = np.zeros((*rgba.shape[:3], 3), np.float32)
    normals[rgba[..., 3] > 127] = (0, 0, -1)
    return normals


def test_a_normal_estimator_is_a_plug_in_and_may_fail(box_views):
    config = replace(REFINED, refine_steps=10, hold_out=4)
    name = f"{__name__}:"
    made = reconstruct(box_views, rig(), replace(config, normals=name + "flat"))
    assert not made.report.fallbacks and made.report.steps
    other = reconstruct(box_views, rig(), config)
    assert made.report.refined_psnr != other.report.refined_psnr  # it was listened to
    broken = reconstruct(box_views, rig(), replace(config, normals=name + "failing"))
    assert broken.report.fallbacks == ["normals: RuntimeError: no weights here"]
    assert np.array_equal(broken.mesh.vertices, other.mesh.vertices)
    with pytest.raises(UserError, match="cannot be imported"):
        reconstruct(box_views, rig(), replace(config, normals="no.such:thing"))


def test_a_stage_that_fails_leaves_the_one_before(box_views):
    """A texture too large to hold: the mesh keeps vertex colours, and the report says why."""
    made = reconstruct(box_views, rig(), replace(FAST, texture_px=-1))
    assert made.textured is None and made.colors is not None
    assert "bake" not in made.report.stages and made.report.fallbacks[0].startswith("bake: ")
    assert Mesh(made.mesh.vertices, made.mesh.faces) and made.glb()[:4] == b"glTF"


def test_a_budget_ends_the_fit(box_views):
    made = reconstruct(box_views, rig(), replace(REFINED, refine_steps=100_000, budget_s=2.0))
    assert made.report.steps is None or made.report.steps < 100_000
    assert made.report.guard
