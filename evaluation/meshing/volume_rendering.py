"""Colour and coverage of rays through a signed distance field: NeuS (Wang et al. 2021, eq. 13), in two passes.

The first pass looks where along the ray the surface is, without gradients; the second puts most samples there.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from evaluation.meshing.rays import RayPool
from evaluation.meshing.sdf_grid import SdfGrid

COARSE, FINE, SPREAD = 32, 20, 8


@dataclass(frozen=True)
class Rendering:
    """R rays of S intervals.

    Attributes:
        color: premultiplied `[R, 3]`.
        coverage: `[R]`, the sum of the weights.
        weights: `[R, S]`, the share of the light that ends in each interval.
        points: `[R, S, 3]`, the middle of each interval, in the world.
    """

    color: Tensor
    coverage: Tensor
    weights: Tensor
    points: Tensor


def render_rays(field: SdfGrid, distance: Tensor, rays: RayPool, sharpness: float, generator: torch.Generator) -> Rendering:
    """`distance` is the field's, with graph; `sharpness` is the slope of the logistic in 1 / cells."""
    with torch.no_grad():
        t = _stratified(rays, COARSE, generator)
        weights = _weights(field.at(distance, _points(rays, t))[0], sharpness)
        fine = _more_where(t, weights, FINE, generator)
        t = torch.sort(torch.cat([fine, _stratified(rays, SPREAD, generator)], -1), -1).values
        points = _points(rays, t)
        middle = _points(rays, 0.5 * (t[:, 1:] + t[:, :-1]))
    weights = _weights(field.at(distance, points)[0], sharpness)
    color = torch.sigmoid(field.at(field.colors, middle))
    return Rendering((weights * color).sum(-1).t(), weights.sum(-1), weights, middle)


def _points(rays: RayPool, t: Tensor) -> Tensor:
    return rays.origin[:, None] + t[..., None] * rays.direction[:, None]


def _stratified(rays: RayPool, count: int, generator: torch.Generator) -> Tensor:
    jitter = torch.rand((len(rays), count), generator=generator, device=rays.near.device)
    share = (torch.arange(count, device=rays.near.device) + jitter) / count
    return rays.near[:, None] + (rays.far - rays.near)[:, None] * share


def _weights(distance: Tensor, sharpness: float) -> Tensor:
    """Share of the light that ends in each interval between samples, `[R, S]` distances in cells -> `[R, S - 1]`."""
    outside = torch.sigmoid(sharpness * distance)
    alpha = ((outside[:, :-1] - outside[:, 1:]) / (outside[:, :-1] + 1e-5)).clamp(0.0, 1.0)
    through = torch.cumprod(1.0 - alpha + 1e-7, -1)
    return alpha * torch.cat([torch.ones_like(through[:, :1]), through[:, :-1]], -1)


def _more_where(t: Tensor, weights: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """`count` positions drawn in proportion to the intervals' weights, by inversion of their sum."""
    share = weights + 1e-4
    edges = torch.cumsum(share, -1)
    edges = torch.cat([torch.zeros_like(edges[:, :1]), edges / edges[:, -1:]], -1)
    jitter = torch.rand((len(t), count), generator=generator, device=t.device)
    wanted = (torch.arange(count, device=t.device) + jitter) / count
    right = torch.searchsorted(edges, wanted.contiguous(), right=True).clamp(1, edges.shape[1] - 1)
    low, high = edges.gather(1, right - 1), edges.gather(1, right)
    start, end = t.gather(1, right - 1), t.gather(1, right)
    return start + (end - start) * ((wanted - low) / (high - low).clamp_min(1e-8)).clamp(0.0, 1.0)
