"""From real renders to a mesh and back into Blender: axes, scale, colours and texture of the GLB as another program sees them."""

import numpy as np
import pytest

from evaluation.hull import HullSettings, visual_hull
from evaluation.mesh_io import glb_bytes
from evaluation.meshing.pipeline import reconstruct
from evaluation.meshing.settings import ReconstructConfig
from evaluation.metrics.geometry import GeometrySettings, compare_surfaces
from evaluation.metrics.image import compare_images
from rendering.blender import BlenderWorker, Rendered, RenderRequest
from rendering.rigs import RigConfig, mvdiffusionpp
from rendering.sources.procedural import list_objects, make_glb
from rendering.view_set import TARGET, ViewSet

pytestmark = pytest.mark.blender


def render(worker: BlenderWorker, uid: str, path) -> ViewSet:
    request = RenderRequest(uid, path, mvdiffusionpp("any", RigConfig(num_conditions=1)), resolution=48, samples=4, want_mesh=True)
    rendered = worker.render(request)
    assert isinstance(rendered, Rendered), rendered
    return rendered.views


def test_a_hull_of_renders_looks_like_the_object_in_blender(tmp_path):
    tree = next(one for one in list_objects(8, seed=0, families=("tree",)))
    (tmp_path / "tree.glb").write_bytes(make_glb(tree.uri))
    with BlenderWorker() as worker:
        truth = render(worker, "tree", tmp_path / "tree.glb")
        targets = truth.with_role(TARGET)
        mesh, colors = visual_hull(targets.rgba, targets.camera, HullSettings(48))
        (tmp_path / "hull.glb").write_bytes(glb_bytes(mesh, colors))
        again = render(worker, "hull", tmp_path / "hull.glb").with_role(TARGET)
        made = reconstruct(targets.rgba, targets.camera, ReconstructConfig(resolution=48))
        (tmp_path / "textured.glb").write_bytes(made.glb())
        textured = render(worker, "textured", tmp_path / "textured.glb").with_role(TARGET)

    figures = compare_surfaces(truth.mesh, mesh, GeometrySettings(5000, 40))
    assert figures["accuracy"] < 0.03 and figures["volume_iou"] > 0.6

    def mean(metric: str, order, views: ViewSet = again) -> float:
        return float(np.mean([compare_images(targets.rgba[i], views.rgba[j])[metric] for i, j in enumerate(order)]))

    same, turned = np.arange(32), np.arange(32).reshape(4, 8)[:, [4, 5, 6, 7, 0, 1, 2, 3]].reshape(-1)
    assert mean("mask_iou", same) > 0.85
    assert mean("psnr_foreground", same) > 15
    assert mean("psnr_foreground", same) > mean("psnr_foreground", turned) + 3  # front and back differ, and stay where they were

    assert made.textured is not None and "bake" in made.report.stages
    assert mean("mask_iou", same, textured) > 0.85
    assert mean("psnr_foreground", same, textured) > mean("psnr_foreground", same) - 1
    assert mean("psnr_foreground", same, textured) > mean("psnr_foreground", turned, textured) + 3
