"""Stage `refine`: from the hull to the surface that the colours ask for, by volume rendering of a voxel field.

A hull cannot show hollows, and stands off from flat faces that no camera sees edge-on. Here a signed distance field that
starts as the hull is fitted to colours and masks of all views (NeuS, Wang et al. 2021, without the network), coarse grid first,
because the coarse one carves far in few steps.

The eikonal weight decides how freely the surface moves: a strong one keeps hollows filled, a weak one lets contradicting views
hollow the object out. Odd views that are left out before, and backgrounds that change from ray to ray, make that rare.
"""

import time
from dataclasses import dataclass

import igl
import numpy as np
import torch
from skimage.measure import marching_cubes
from torch import Tensor
from torch.nn import functional

from evaluation.hull import Grid
from evaluation.meshing.rays import RayPool, ray_pool
from evaluation.meshing.sdf_grid import SdfGrid
from evaluation.meshing.volume_rendering import render_rays
from evaluation.metrics.geometry import occupancy
from infra.seeds import seed_for
from rendering.cameras import Camera
from rendering.view_set import Mesh

MARGIN_CELLS = 4
DILATION_CELLS = 3
WARM_UP_STEPS = 20
COLOR_RATE, MASK_WEIGHT, NORMAL_WEIGHT = 0.2, 0.5, 0.1
LAST_RATE = 0.05
FIRST_SHARPNESS, LAST_SHARPNESS = 2.0, 5.0
SHARP_FROM = 0.8
CLOCK_FROM = 10


@dataclass(frozen=True)
class RefineSettings:
    """How the field is fitted.

    Attributes:
        resolution: cells along the longest side of the hull's box, at the end.
        coarse_share: share of the steps on a grid of half that resolution.
        steps: optimiser steps.
        eikonal: weight of the term that keeps the field a distance; .02 carves well, .2 hardly (docs/benchmarks.md).
        rate: cells that a corner may move in one step, at the start; it falls to a twentieth.
        rays: per step.
        budget_s: seconds after which the fit must have ended: the schedule is shortened to fit. None: no limit.
        seed: of the rays and samples.
    """

    resolution: int = 64
    coarse_share: float = 0.5
    steps: int = 600
    eikonal: float = 0.02
    rate: float = 1.0
    rays: int = 1024
    budget_s: float | None = None
    seed: int = 0


@dataclass(frozen=True)
class Refined:
    """The fitted surface, the steps that were done and whether the budget shortened the schedule."""

    mesh: Mesh
    steps: int
    shortened: bool


class RefineFailure(Exception):
    """The field lost its surface or its numbers."""


def refine(
    hull: Mesh,
    pictures: np.ndarray,
    camera: Camera,
    settings: RefineSettings,
    normals: np.ndarray | None = None,
    device: str | torch.device | None = None,
) -> Refined:
    """Fit a field that starts as `hull` to the views and return its surface, outward counter-clockwise.

    Args:
        hull: closed surface in the cameras' world that contains the object.
        pictures: premultiplied float32 `[V, h, w, 4]` in [0, 1] (`pictures.shrunk`).
        camera: V cameras.
        normals: unit world normals `[V, h, w, 3]`, zero where unknown.
        device: default: the first GPU, else the CPU.

    Raises RefineFailure when nothing is left of the surface or the numbers are not finite.
    """
    started = time.monotonic()
    where = torch.device(device) if device is not None else torch.device("cuda" if torch.cuda.is_available() else "cpu")
    generator = torch.Generator(where).manual_seed(seed_for(settings.seed, "refine") % 2**31)
    levels = [max(settings.resolution // 2, 16), settings.resolution] if settings.coarse_share > 0 else [settings.resolution]
    grids = [_grid_about(hull, cells) for cells in levels]
    distance = hull_distance(hull, grids[0])
    field = SdfGrid.of(grids[0], distance, where)
    rays = ray_pool(pictures, camera, grids[0], distance < DILATION_CELLS, normals, where)
    if len(rays) == 0:
        raise RefineFailure("no pixel sees the hull")
    share = settings.coarse_share if len(grids) > 1 else 0.0
    left = None if settings.budget_s is None else settings.budget_s - (time.monotonic() - started)
    done, shortened = 0, False
    for grid, part in zip(grids, (share, 1.0 - share) if share else (1.0,), strict=True):
        if grid is not field.grid:
            field = field.finer(grid)
        begin = done / settings.steps if settings.steps else 0.0
        seconds = None if left is None else left * part
        count, cut = _fit(field, rays, settings, generator, round(settings.steps * part), seconds, begin, begin + part)
        done, shortened = done + count, shortened or cut
    return Refined(surface(field), done, shortened)


def hull_distance(hull: Mesh, grid: Grid) -> np.ndarray:
    """Distance in cells from the corners of `grid` to `hull`, `[X, Y, Z]`, positive outside."""
    points = grid.points()
    vertices, faces = np.asarray(hull.vertices, np.float64), np.asarray(hull.faces, np.int64)
    squared, _, _ = igl.point_mesh_squared_distance(points, vertices, faces)
    return (np.sqrt(squared) / grid.size * np.where(occupancy(hull, points), -1.0, 1.0)).reshape(grid.shape)


def surface(field: SdfGrid) -> Mesh:
    """The zero level of the field, closed at the grid's border. Raises RefineFailure where there is none."""
    with torch.no_grad():
        values = field.distance()[0, 0].cpu().numpy()
    if not np.isfinite(values).all():
        raise RefineFailure("the field is not finite")
    if not (values < 0).any():
        raise RefineFailure("the field has no inside left")
    closed = np.pad(values, 1, constant_values=1.0)
    vertices, faces, _, _ = marching_cubes(closed, level=0.0, gradient_direction="descent")
    return Mesh((field.grid.low + (vertices - 1) * field.grid.size).astype(np.float32), faces.astype(np.int32))


def _grid_about(mesh: Mesh, cells: int) -> Grid:
    low, high = mesh.vertices.min(0).astype(np.float64), mesh.vertices.max(0).astype(np.float64)
    size = float((high - low).max()) / cells
    counts = np.ceil((high - low) / size).astype(int) + 2 * MARGIN_CELLS
    start = (low + high) / 2 - counts * size / 2
    return Grid(start, size, (int(counts[0]) + 1, int(counts[1]) + 1, int(counts[2]) + 1))


def _fit(
    field: SdfGrid,
    rays: RayPool,
    settings: RefineSettings,
    generator: torch.Generator,
    steps: int,
    seconds: float | None,
    begin: float,
    end: float,
) -> tuple[int, bool]:
    """Take steps; rates and sharpness follow the progress from `begin` to `end` (of 1). Returns steps taken, whether shortened."""
    groups = [
        {"params": [field.raw], "lr": settings.rate, "base": settings.rate},
        {"params": [field.colors], "lr": COLOR_RATE, "base": COLOR_RATE},
    ]
    optimiser = torch.optim.Adam(groups, betas=(0.9, 0.99), fused=True)
    started, planned, step = time.monotonic(), steps, 0
    while step < planned:
        progress = begin + (end - begin) * step / planned
        for group in optimiser.param_groups:
            group["lr"] = group["base"] * LAST_RATE**progress * min(1.0, (step + 1) / WARM_UP_STEPS)
        sharpness = FIRST_SHARPNESS * (LAST_SHARPNESS / FIRST_SHARPNESS) ** min(1.0, progress / SHARP_FROM)
        index = torch.randint(len(rays), (settings.rays,), generator=generator, device=rays.near.device)
        loss = _loss(field, rays.batch(index), sharpness, settings.eikonal, generator)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        step += 1
        if seconds is not None and step >= CLOCK_FROM:
            spent = time.monotonic() - started
            planned = min(planned, max(step, int(step * seconds / max(spent, 1e-9))))
    return step, planned < steps


def _loss(field: SdfGrid, rays: RayPool, sharpness: float, eikonal: float, generator: torch.Generator) -> Tensor:
    distance = field.distance()
    made = render_rays(field, distance, rays, sharpness, generator)
    # A background of its own for every ray: before white, a white object could fade without any error of colour.
    background = torch.rand((len(rays), 3), generator=generator, device=rays.near.device)
    shown = made.color + (1.0 - made.coverage)[:, None] * background
    wanted = rays.target[:, :3] + (1.0 - rays.target[:, 3:]) * background
    coverage = made.coverage.clamp(1e-4, 1.0 - 1e-4)
    loss = (shown - wanted).abs().mean() + MASK_WEIGHT * functional.binary_cross_entropy(coverage, rays.target[:, 3])
    slope = _slopes(distance)
    loss = loss + eikonal * ((torch.sqrt((slope**2).sum(1) + 1e-8) - 1.0) ** 2).mean()
    if rays.normal is not None:
        known = (rays.normal**2).sum(-1)
        at_points = field.at(functional.pad(slope, (1, 1, 1, 1, 1, 1)), made.points)
        facing = functional.normalize((made.weights.detach() * at_points).sum(-1), dim=0, eps=1e-6)
        loss = loss + NORMAL_WEIGHT * (known * (1.0 - (facing.t() * rays.normal).sum(-1))).mean()
    return loss


def _slopes(distance: Tensor) -> Tensor:
    """Central differences at the inner corners, `[1, 1, X, Y, Z]` -> `[1, 3, X - 2, Y - 2, Z - 2]`, 1 for a true distance in cells."""
    d, inner = distance, slice(1, -1)
    x = d[:, :, 2:, inner, inner] - d[:, :, :-2, inner, inner]
    y = d[:, :, inner, 2:, inner] - d[:, :, inner, :-2, inner]
    z = d[:, :, inner, inner, 2:] - d[:, :, inner, inner, :-2]
    return 0.5 * torch.cat([x, y, z], 1)
