"""All stages in order: views -> hull -> refined -> clean -> simplified -> baked mesh -> GLB.

A stage that fails leaves what the stage before made, and its reason in the report; only without a hull there is no mesh.
"""

import math
import time
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from evaluation.hull import HullFailure, HullSettings, hull_mesh
from evaluation.mesh_io import glb_bytes, textured_glb_bytes
from evaluation.meshing.bake import TexturedMesh, bake
from evaluation.meshing.clean import clean
from evaluation.meshing.colors import vertex_colors
from evaluation.meshing.consistency import agreement, eikonal_for
from evaluation.meshing.guard import HeldOut, held_out_figures, split_views
from evaluation.meshing.normals import estimator, world_normals
from evaluation.meshing.pictures import shrunk
from evaluation.meshing.refine import RefineSettings, refine
from evaluation.meshing.settings import ReconstructConfig
from evaluation.meshing.simplify import simplify
from evaluation.metrics.image import mask_of
from rendering.cameras import Camera
from rendering.view_set import Mesh

# A second try is stiffer and shorter; the budget is shared so that it still fits in.
SECOND_STIFFNESS, SECOND_EIKONAL, SECOND_STEPS, FIRST_BUDGET = 4.0, 0.2, 0.5, 0.5
# Where more than this share of the views was held out, an accepted fit is done again with all of them.
HELD_SHARE = 0.2


@dataclass
class Report:
    """What was done to one object, for the ledger; figures are None where they were not measured.

    Attributes:
        stages: those that took effect, in order.
        fallbacks: `stage: reason` of those that failed.
        odd_views: indices of views that were left out, being empty or at odds with all others.
        offset: disagreement of the outlines, see `consistency.Agreement`.
        guard: what the guard decided, in words.
        held_out: how many views decided it.
        hull_mask_iou, hull_psnr, refined_mask_iou, refined_psnr: figures on the held-out views.
        eikonal, steps: of the fit that was accepted, or else of the last one.
    """

    stages: list[str] = field(default_factory=list)
    fallbacks: list[str] = field(default_factory=list)
    odd_views: list[int] = field(default_factory=list)
    offset: float | None = None
    guard: str = ""
    held_out: int = 0
    hull_mask_iou: float | None = None
    hull_psnr: float | None = None
    refined_mask_iou: float | None = None
    refined_psnr: float | None = None
    eikonal: float | None = None
    steps: int | None = None

    def failed(self, stage: str, error: Exception) -> None:
        self.fallbacks.append(f"{stage}: {type(error).__name__}: {error}")


@dataclass(frozen=True)
class Reconstruction:
    """A mesh in the cameras' world (outward counter-clockwise), with a texture, or else uint8 vertex colours `[N, 3]`."""

    mesh: Mesh
    colors: np.ndarray | None
    textured: TexturedMesh | None
    report: Report

    def glb(self) -> bytes:
        """Stage `export`: the mesh as GLB, Y up."""
        if self.textured is not None:
            return textured_glb_bytes(self.textured.mesh, self.textured.normals, self.textured.uv, self.textured.texture)
        return glb_bytes(self.mesh, self.colors)


@dataclass(frozen=True)
class _Views:
    rgba: np.ndarray
    camera: Camera
    normals: np.ndarray | None

    def select(self, index: np.ndarray | list[int]) -> "_Views":
        return _Views(self.rgba[index], self.camera[index], None if self.normals is None else self.normals[index])

    def __len__(self) -> int:
        return len(self.rgba)


def reconstruct(
    rgba: np.ndarray,
    camera: Camera,
    config: ReconstructConfig | None = None,
    normals: np.ndarray | None = None,
    device: str | torch.device | None = None,
) -> Reconstruction:
    """Run the stages of `config`.

    Args:
        rgba: uint8 `[V, H, W, 4]`, straight alpha.
        camera: V cameras.
        normals: unit normals `[V, H, W, 3]` in OpenCV camera axes, zero where unknown; instead of the config's estimator.
        device: of the fit; default: the first GPU, else the CPU.

    Raises HullFailure when the views leave no solid, UserError for a normal estimator that cannot be imported.
    """
    config = config or ReconstructConfig()
    estimate = estimator(config.normals) if config.normals and "refine" in config.stages and normals is None else None
    deadline = None if config.budget_s is None else time.monotonic() + config.budget_s
    report = Report(stages=["hull"])
    views, hull = _hull(_Views(rgba, camera, normals), config, report)
    if estimate is not None:
        try:
            views = replace(views, normals=np.asarray(estimate(views.rgba), np.float32))
        except Exception as error:  # a foreign estimator can fail in any way; the fit does without
            report.failed("normals", error)
    mesh, cleaned = hull, False
    if "refine" in config.stages:
        refined = _refined(views, config, report, deadline, device)
        if refined is not None:
            mesh, cleaned = refined, "clean" in config.stages
            report.stages += ["refine", "clean"] if cleaned else ["refine"]
    if "clean" in config.stages and not cleaned:
        mesh = _stage("clean", mesh, lambda: clean(mesh, views.camera, config.smallest_part, config.smoothing_steps), report)
    if "simplify" in config.stages:
        mesh = _stage("simplify", mesh, lambda: simplify(mesh, config.max_faces), report)
    textured = None
    if "bake" in config.stages:
        textured = _stage("bake", None, lambda: bake(mesh, views.rgba, views.camera, config.texture_px), report)
    colors = vertex_colors(mesh, views.rgba, views.camera) if textured is None else None
    report.stages.append("export")
    return Reconstruction(mesh if textured is None else textured.mesh, colors, textured, report)


def _stage(name, before, make, report: Report):  # type: ignore[no-untyped-def]
    """What `make()` gives, or `before` with the reason in the report."""
    try:
        after = make()
    except Exception as error:  # the stages rest on foreign code; any failure of one leaves the stage before
        report.failed(name, error)
        return before
    report.stages.append(name)
    return after


def _hull(views: _Views, config: ReconstructConfig, report: Report) -> tuple[_Views, Mesh]:
    """The hull, and the views that count: not empty ones, and not those at odds with all others."""
    filled = mask_of(views.rgba).any((1, 2))
    if filled.any():  # with nothing in any view the hull says so
        report.odd_views += [int(i) for i in np.flatnonzero(~filled)]
        views = views.select(np.flatnonzero(filled))
    index = np.flatnonzero(filled)
    settings = HullSettings(config.resolution, config.votes)
    hull = hull_mesh(views.rgba, views.camera, settings)
    agreed = agreement(hull, views.rgba, views.camera)
    if agreed.odd:
        kept = np.setdiff1d(np.arange(len(views)), agreed.odd)
        try:
            hull = hull_mesh(views.rgba[kept], views.camera[kept], settings)
        except HullFailure as failure:
            report.failed("odd views", failure)
        else:
            report.odd_views += [int(index[i]) for i in agreed.odd]
            views = views.select(kept)
    report.offset = round(agreed.offset, 5)
    return views, hull


def _refined(
    views: _Views, config: ReconstructConfig, report: Report, deadline: float | None, device: str | torch.device | None
) -> Mesh | None:
    """A fit that the guard accepts, cleaned; None, with the reason in the report, where there is none."""
    fit, held = split_views(len(views), config.hold_out, config.seed)
    report.held_out = len(held)
    if len(held) == 0:
        report.guard = f"hull kept: {len(views)} views are too few to hold any out" if config.hold_out else "hull kept: no view held out"
        return None
    try:
        return _guarded(views, views.select(fit), views.select(held), config, report, deadline, device)
    except Exception as error:  # the fit must not cost the object its hull
        report.failed("refine", error)
        report.guard = report.guard or "hull kept: refine failed"
        return None


def _guarded(
    views: _Views,
    fitted: _Views,
    held: _Views,
    config: ReconstructConfig,
    report: Report,
    deadline: float | None,
    device: str | torch.device | None,
) -> Mesh | None:
    held_pictures = shrunk(held.rgba, config.refine_px)

    def figures(mesh: Mesh) -> HeldOut:
        return held_out_figures(mesh, fitted.rgba, fitted.camera, held_pictures, held.camera)

    start = hull_mesh(fitted.rgba, fitted.camera, HullSettings(config.resolution, config.votes))
    hull = figures(clean(start, fitted.camera, config.smallest_part, config.smoothing_steps))
    report.hull_mask_iou, report.hull_psnr = round(hull.mask_iou, 5), round(hull.psnr_foreground, 3)
    eikonal = config.eikonal if config.eikonal is not None else eikonal_for(report.offset or 0.0)
    tries = [(eikonal, config.refine_steps), (max(SECOND_STIFFNESS * eikonal, SECOND_EIKONAL), round(config.refine_steps * SECOND_STEPS))]
    for number, (weight, steps) in enumerate(tries):
        left = math.inf if deadline is None else deadline - time.monotonic()
        if left <= 0:
            report.guard = f"hull kept: out of time after {number} fits"
            return None
        budget = None if deadline is None else left * (FIRST_BUDGET if number == 0 else 1.0)
        settings = RefineSettings(config.refine_resolution, steps=steps, eikonal=weight, budget_s=budget, seed=config.seed)
        try:
            mesh, taken = _fit(start, fitted, settings, config, device)
        except Exception as error:  # a collapsed fit: the stiffer one may hold
            report.failed(f"refine (eikonal {weight:g})", error)
            continue
        made = figures(mesh)
        report.refined_mask_iou, report.refined_psnr = round(made.mask_iou, 5), round(made.psnr_foreground, 3)
        report.eikonal, report.steps = round(weight, 4), taken
        if made.not_worse_than(hull):
            report.guard = f"refined accepted, fit {number + 1}"
            return _with_all(mesh, views, held, settings, config, report, deadline, device)
        report.guard = "hull kept: refined is worse on held-out views"
    return None


def _with_all(
    mesh: Mesh,
    views: _Views,
    held: _Views,
    settings: RefineSettings,
    config: ReconstructConfig,
    report: Report,
    deadline: float | None,
    device: str | torch.device | None,
) -> Mesh:
    """The accepted mesh, or where few views were left to fit it, one fitted to all views in the way that was accepted."""
    left = math.inf if deadline is None else deadline - time.monotonic()
    if len(held) <= HELD_SHARE * len(views) or left <= 0:
        return mesh
    try:
        start = hull_mesh(views.rgba, views.camera, HullSettings(config.resolution, config.votes))
        again, _ = _fit(start, views, replace(settings, budget_s=None if deadline is None else left), config, device)
    except Exception as error:  # the accepted mesh is at hand
        report.failed("refine with all views", error)
        return mesh
    report.guard += ", then fitted to all views"
    return again


def _fit(
    start: Mesh, views: _Views, settings: RefineSettings, config: ReconstructConfig, device: str | torch.device | None
) -> tuple[Mesh, int]:
    pictures = shrunk(views.rgba, config.refine_px)
    normals = None if views.normals is None else world_normals(views.normals, views.camera, config.refine_px)
    refined = refine(start, pictures, views.camera, settings, normals, device)
    return clean(refined.mesh, views.camera, config.smallest_part, config.smoothing_steps), refined.steps
