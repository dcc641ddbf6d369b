"""How good meshes from views are, and what they cost: real renders of known objects through all stages.

The rig: 32 views on 8 azimuths and elevations -30, 0, 30, 60, distance 2.2, fov 49.13 degrees, and 8 more between them that
nothing is fitted to. A case is what happens to the views before the fit: `clean` nothing; `jitter` moves every view by a normal
draw of 1.5 px and axis (of 256) and one of them by 9 px.
"""

import itertools
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

from evaluation.hull import HullSettings, hull_mesh
from evaluation.mesh_bench_objects import OBJECTS, write_object
from evaluation.mesh_io import load_mesh, world_from_gltf
from evaluation.meshing.look import look_at_textured
from evaluation.meshing.pictures import premultiplied
from evaluation.meshing.pipeline import Reconstruction, reconstruct
from evaluation.meshing.settings import ReconstructConfig
from evaluation.metrics.geometry import GeometrySettings, compare_surfaces
from evaluation.metrics.image import psnr
from infra.errors import UserError
from infra.seeds import rng_for
from infra.storage import Location
from rendering.blender import BlenderWorker, RenderFailure, RenderRequest
from rendering.cameras import Camera
from rendering.rig_views import RigViews, build
from rendering.view_set import Mesh, on_white

VIEWS, HELD = 32, 8
RADIUS, FOV_DEG, SIZE_PX, SAMPLES = 2.2, 49.13, 256, 16
JITTER_PX, BAD_VIEW, BAD_PX = 1.5, 11, 9.0
GEOMETRY = GeometrySettings(points=50_000)
VERSION = 1


@dataclass(frozen=True)
class BenchViews:
    """Real renders of one object: `rgba` uint8 `[40, 256, 256, 4]`, the last 8 never fitted, and the object itself."""

    rgba: np.ndarray
    camera: Camera
    truth: Mesh


def bench_rig() -> RigViews:
    """The cameras: 32 to fit, then 8 between them."""
    azimuth = np.concatenate([np.tile(np.arange(8) * 45.0, 4), np.arange(8) * 45.0 + 22.5])
    elevation = np.concatenate([np.repeat([-30.0, 0.0, 30.0, 60.0], 8), np.tile([15.0, 45.0, -15.0, 30.0], 2)])
    return build("mesh-bench", azimuth, elevation, RADIUS, FOV_DEG, extent=1.0, num_targets=VIEWS)


def bench_views(name: str, folder: Path) -> BenchViews:
    """The renders of an object, from `folder` where they are kept; rendered with Blender the first time (10 to 25 core seconds)."""
    place = folder / f"{name}-v{VERSION}.npz"
    rig = bench_rig()
    if not place.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        source = folder / f"{name}.glb"
        write_object(name, source)
        with BlenderWorker() as worker:
            made = worker.render(RenderRequest(name, source, rig, resolution=SIZE_PX, samples=SAMPLES, want_mesh=True))
        if isinstance(made, RenderFailure) or made.views.mesh is None:
            raise UserError(f"Blender could not render {source}: {made}", "see the reason")
        part = place.with_suffix(".part.npz")
        np.savez_compressed(part, rgba=made.views.rgba, vertices=made.views.mesh.vertices, faces=made.views.mesh.faces)
        part.replace(place)
    with np.load(place) as data:
        return BenchViews(data["rgba"], rig.camera, Mesh(data["vertices"], data["faces"]))


def jittered(rgba: np.ndarray, seed: int = 0) -> np.ndarray:
    """Views moved in their frames, one of them far: what generators that disagree with themselves make."""
    rng = rng_for(seed, "mesh bench jitter")
    shifts = rng.normal(0.0, JITTER_PX, (len(rgba), 2))
    turn = rng.uniform(0, 2 * np.pi)
    shifts[BAD_VIEW] = BAD_PX * np.array([np.cos(turn), np.sin(turn)])
    return np.stack([_moved(image, shift) for image, shift in zip(rgba, shifts, strict=True)])


def _moved(image: np.ndarray, shift: np.ndarray) -> np.ndarray:
    values = ndimage.shift(premultiplied(image), (*shift, 0.0), order=1)
    values[..., :3] /= np.maximum(values[..., 3:], 1e-6)
    values[values[..., 3] < 1 / 512] = 0.0
    return np.round(np.clip(values, 0.0, 1.0) * 255).astype(np.uint8)


CASES: dict[str, Callable[[np.ndarray], np.ndarray]] = {"clean": lambda rgba: rgba, "jitter": jittered}


def bench(
    objects: list[str],
    cases: list[str],
    configs: list[ReconstructConfig],
    cache: Path,
    out: Path | None,
    say: Callable[[dict[str, Any]], None],
) -> list[dict[str, Any]]:
    """A row per object, case and configuration; rows that `out` holds already are not measured again.

    Raises UserError for unknown objects and cases, and where Blender fails.
    """
    for names, known, what in ((objects, OBJECTS, "object"), (cases, CASES, "case")):
        for name in names:
            if name not in known:
                raise UserError(f"there is no bench {what} '{name}'", f"choose from {', '.join(known)}")
    rows: list[dict[str, Any]] = json.loads(out.read_text()) if out is not None and out.is_file() else []
    wanted = []
    for name, case, config in itertools.product(objects, cases, configs):
        key = {"object": name, "case": case, "eikonal": config.eikonal, "steps": config.refine_steps, "cells": config.refine_resolution}
        found = next((row for row in rows if all(row[k] == v for k, v in key.items())), None)
        if found is None:
            found = key | measure(bench_views(name, cache), case, config)
            rows.append(found)
            if out is not None:
                Location(str(out.absolute())).write_json(rows)
        say(found)
        wanted.append(found)
    return wanted


def measure(views: BenchViews, case: str, config: ReconstructConfig) -> dict[str, Any]:
    """One row: the written file against the object, its hull for comparison, and its texture from the held-out cameras."""
    rgba, camera = CASES[case](views.rgba[:VIEWS]), views.camera[:VIEWS]
    hull = compare_surfaces(views.truth, hull_mesh(rgba, camera, HullSettings(config.resolution, config.votes)), GEOMETRY)
    wall, processor = time.monotonic(), time.process_time()
    made = reconstruct(rgba, camera, config)
    glb = made.glb()
    wall, processor = time.monotonic() - wall, time.process_time() - processor
    figures = compare_surfaces(views.truth, _read(glb), GEOMETRY)
    report = made.report
    return {
        "chamfer": figures["chamfer"],
        "volume_iou": figures["volume_iou"],
        "normal_consistency": figures["normal_consistency"],
        "hull_chamfer": hull["chamfer"],
        "hull_iou": hull["volume_iou"],
        "texture_db": texture_db(made, views),
        "guard": report.guard,
        "eikonal_used": report.eikonal,
        "offset": report.offset,
        "odd_views": report.odd_views,
        "fallbacks": report.fallbacks,
        "held_out": [report.hull_mask_iou, report.refined_mask_iou, report.hull_psnr, report.refined_psnr],
        "faces": len(made.mesh.faces),
        "glb_kb": round(len(glb) / 1024),
        "core_s": round(processor, 1),
        "wall_s": round(wall, 1),
    }


def _read(glb: bytes) -> Mesh:
    import tempfile

    with tempfile.NamedTemporaryFile(suffix=".glb") as file:
        file.write(glb)
        file.flush()
        return world_from_gltf(load_mesh(Path(file.name)))


def texture_db(made: Reconstruction, views: BenchViews) -> float | None:
    """Mean foreground PSNR of the texture on the held-out renders, in dB; None without a texture."""
    if made.textured is None:
        return None
    truth, camera = views.rgba[VIEWS:], views.camera[VIEWS:]
    seen = look_at_textured(made.textured, camera, SIZE_PX, SIZE_PX)
    return float(np.mean([psnr(on_white(a), b[..., :3] + 1.0 - b[..., 3:], a[..., 3] > 127) for a, b in zip(truth, seen, strict=True)]))


def variants(config: ReconstructConfig, eikonals: list[float | None], steps: list[int], cells: list[int]) -> list[ReconstructConfig]:
    """All combinations, in that order."""
    return [replace(config, eikonal=e, refine_steps=s, refine_resolution=c) for e, s, c in itertools.product(eikonals, steps, cells)]
