"""The `reconstruct` and `bench mesh` verbs."""

import argparse
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from infra.errors import UserError
from infra.provenance import git_commit

T = TypeVar("T")

COLUMNS = {
    "object": "object",
    "case": "views",
    "eikonal_used": "eikonal",
    "steps": "steps",
    "hull_chamfer": "hull CD",
    "hull_iou": "hull IoU",
    "chamfer": "CD",
    "volume_iou": "IoU",
    "normal_consistency": "NC",
    "texture_db": "texture dB",
    "core_s": "core s",
    "guard": "guard",
}
FORMATS = {"hull_chamfer": "{:.4f}", "chamfer": "{:.4f}", "texture_db": "{:.1f}", "core_s": "{:.0f}", "eikonal_used": "{:.3g}"}


def reconstruct(options: argparse.Namespace) -> dict[str, Any]:
    """Mesh a folder of views; prints what was done, stage by stage."""
    from evaluation.meshing.settings import ReconstructConfig
    from evaluation.reconstruct_folder import reconstruct_folder

    config = ReconstructConfig(
        stages=tuple(_listed(options.stages, str, "--stages")),  # type: ignore[arg-type]
        resolution=options.resolution,
        votes=options.votes,
        refine_resolution=options.refine_resolution,
        refine_steps=options.steps,
        eikonal=options.eikonal,
        normals=options.normals,
        max_faces=options.max_faces,
        texture_px=options.texture,
        budget_s=options.budget,
        seed=options.seed,
    )
    result = reconstruct_folder(options.views, options.out, config)
    if not options.json:
        for key, value in result.items():
            shown = ", ".join(map(str, value)) if isinstance(value, list) else value
            if shown not in (None, ""):
                print(f"{key:20} {shown:.6g}" if isinstance(shown, float) else f"{key:20} {shown}")
    return result


def bench_mesh(options: argparse.Namespace) -> dict[str, Any]:
    """Measure objects and cases through all stages; rows are kept in `--out` and not measured again."""
    from evaluation.mesh_bench import bench, variants
    from evaluation.meshing.settings import STAGES, ReconstructConfig
    from rendering.bench import machine

    eikonals = [None if text == "auto" else _parsed(text, float, "--eikonal") for text in _listed(options.eikonal, str, "--eikonal")]
    configs = variants(
        ReconstructConfig(stages=STAGES),
        eikonals,
        _listed(options.steps, int, "--steps"),
        _listed(options.cells, int, "--cells"),
    )
    cache = options.cache or Path.home() / ".mvforge" / "bench" / "mesh"
    if not options.json:
        print("  ".join(title.rjust(_width(name)) for name, title in COLUMNS.items()))

    def say(row: dict[str, Any]) -> None:
        if not options.json:
            print("  ".join(_cell(name, row[name]).rjust(_width(name)) for name in COLUMNS), flush=True)

    rows = bench(_listed(options.objects, str, "--objects"), _listed(options.cases, str, "--cases"), configs, cache, options.out, say)
    if not options.json:
        facts = machine()
        print(f"\n{facts['cpu']}, {facts['cores']} cores, OMP_NUM_THREADS={os.environ.get('OMP_NUM_THREADS', 'not set')}, ", end="")
        print(f"commit {git_commit()[:12]}")
    return {"rows": rows, "machine": machine(), "git_commit": git_commit()}


def _listed(text: str, kind: Callable[[str], T], option: str) -> list[T]:
    return [_parsed(part.strip(), kind, option) for part in text.split(",") if part.strip()]


def _parsed(text: str, kind: Callable[[str], T], option: str) -> T:
    try:
        return kind(text)
    except ValueError as error:
        raise UserError(f"{option} has '{text}', which is no number", f"for example {option} 1") from error


def _width(name: str) -> int:
    return max(len(COLUMNS[name]), 8)


def _cell(name: str, value: Any) -> str:
    if value is None:
        return "-"
    return FORMATS.get(name, "{:.3f}").format(value) if isinstance(value, float) else str(value)
