"""The `bench` verbs: what rendering, training and scoring cost, printed with the machine it was measured on."""

import argparse
import dataclasses
import os
import sys
from pathlib import Path
from typing import Any

from infra.errors import UserError
from infra.provenance import git_commit

# The goals of the profiles are means over these: textures, fine detail, glass, a skinned figure.
GOAL_ASSETS = ("milk_truck.glb", "chess_board_draco.glb", "sunglasses_transmission.glb", "lumberjack_skinned.glb")
COLUMNS = {
    "profile": "profile",
    "samples": "spp",
    "seconds": "core-s/view",
    "views_per_s": "views/s/core",
    "speedup": "speed-up",
    "sample": "sampling",
    "denoise": "denoising",
    "around": "around",
    "once": "per object/42",
    "rest": "outside",
    "foreground_db": "fg PSNR",
    "worst_db": "worst",
    "foreground_ssim": "fg SSIM",
    "alpha_db": "alpha PSNR",
    "peak_rss_mb": "RSS MB",
}


def bench_train(options: argparse.Namespace) -> dict[str, Any]:
    """Measure training steps, attention and sampling; with `--json` the rows go to stderr as they finish."""
    from training.bench import bench

    return bench(options, lambda text: print(text, file=sys.stderr if options.json else sys.stdout, flush=True))


def bench_render(options: argparse.Namespace) -> dict[str, Any]:
    """Measure profiles, the graph without Blender, or the memory of one process."""
    if options.dry_run:
        return _dry_run(options)
    if options.memory:
        return _memory(options)
    from rendering.bench import bench, machine, summary

    cache = options.cache or Path.home() / ".mvforge" / "bench"
    costs = bench(
        options.files or _goal_assets(),
        [name.strip() for name in options.profiles.split(",") if name.strip()],
        cache,
        views=[int(view) for view in options.views.split(",")],
        resolution=options.resolution,
        rounds=options.rounds,
        say=(lambda line: None) if options.json else (lambda line: print(line, flush=True)),
    )
    rows = summary(costs)
    if not options.json:
        print(f"\nmean over {len({cost.asset for cost in costs})} files, {options.resolution} px; seconds are core seconds per view\n")
        _print_rows(rows)
        _print_machine(machine())
    return {"costs": [dataclasses.asdict(cost) for cost in costs], "summary": rows, "machine": machine(), "git_commit": git_commit()}


def bench_score(options: argparse.Namespace) -> dict[str, Any]:
    """Score made-up objects on Ray with each number of workers."""
    from evaluation.score_bench import bench
    from infra import cluster
    from rendering.bench import machine

    try:
        workers = [int(count) for count in options.workers.split(",")]
    except ValueError as error:
        raise UserError(f"--workers {options.workers} is no list of numbers", "for example --workers 1,2") from error
    cluster.attach()
    rows = bench(options.objects, options.views, options.resolution, workers, options.rounds)
    if not options.json:
        for row in rows:
            print(f"{row['workers']} workers  {row['seconds']:7.2f} s  {row['seconds_per_object']:6.2f} s/object  {row['speedup']:.2f}x")
        print(f"{options.objects} objects of {options.views} views at {options.resolution} px, default protocol, {options.rounds} rounds")
        _print_machine(machine())
    return {"rows": rows, "machine": machine(), "git_commit": git_commit()}


def _goal_assets() -> list[Path]:
    folder = os.environ.get("MVFORGE_ASSETS")
    if not folder:
        raise UserError("no file to render", "name some .glb files, or set MVFORGE_ASSETS to the folder of the test assets")
    return [Path(folder) / name for name in GOAL_ASSETS]


def _dry_run(options: argparse.Namespace) -> dict[str, Any]:
    from infra import cluster
    from rendering.bench import machine
    from rendering.dry_run import dry_run

    cluster.attach()
    facts = dry_run(options.dry_run, options.workers)
    if not options.json:
        for name, value in facts.items():
            print(f"{name:28s} {value}")
        _print_machine(machine())
    return {**facts, "machine": machine()}


def _memory(options: argparse.Namespace) -> dict[str, Any]:
    from rendering.bench import machine
    from rendering.bench_memory import bench_memory

    facts = bench_memory(options.memory, options.files)
    if not options.json:
        for name, value in facts.items():
            print(f"{name:28s} {value}")
        _print_machine(machine())
    return {**facts, "machine": machine()}


def _print_rows(rows: list[dict[str, Any]]) -> None:
    cells = [list(COLUMNS.values())] + [[_cell(name, row[name]) for name in COLUMNS] for row in rows]
    widths = [max(len(line[column]) for line in cells) for column in range(len(COLUMNS))]
    for line in cells:
        print("  ".join(text.rjust(width) for text, width in zip(line, widths, strict=True)))


def _cell(name: str, value: Any) -> str:
    if not isinstance(value, float):
        return str(value)
    formats = {"samples": "{:.0f}", "speedup": "{:.1f}x", "rest": "{:.1%}", "peak_rss_mb": "{:.0f}", "foreground_ssim": "{:.4f}"}
    digits = "{:.2f}" if name.endswith("_db") else "{:.3f}"
    return formats.get(name, digits).format(value)


def _print_machine(facts: dict[str, Any]) -> None:
    load = ", ".join(f"{value:.1f}" for value in facts["load"])
    print(f"\n{facts['cpu']}, {facts['cores']} cores, {facts['memory_gb']} GB, load average {load}, commit {git_commit()[:12]}")
