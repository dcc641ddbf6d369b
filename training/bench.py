"""Benchmark of training and sampling on this machine: `python -m training.bench`, from a plain checkout.

Needs torch, diffusers and transformers, and neither Ray nor an installed mvforge nor a network. On a CUDA device it
measures the full-size shapes (SD-2 U-Net, 64x64 latents), on a CPU tiny ones, and says so.
"""

import argparse
import fnmatch
import os
import platform
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from infra.errors import UserError
from infra.provenance import git_commit
from training.bench_kernels import BACKENDS, REFERENCE_TOKENS, attention_rate, attention_shapes, matmul_rate
from training.bench_options import add_options
from training.bench_rows import Figures, Results, Row, measure_all
from training.bench_unet import FULL, TINY, Options, Shapes, sampling, train_step
from training.flops import train_flops

TARGETS = 32
ATTENTION_VIEWS = (9, 33)
OPTION_VIEWS = (9, 33)
RAGGED_VIEWS = (9, 12, 15, 18)  # one batch of objects with 1, 4, 7 and 10 conditions
OPTIONS = {
    "fused": Options(fused=True),
    "channels_last": Options(channels_last=True),
    "cudnn": Options(attention="cudnn"),
    "flash": Options(attention="flash"),
    "no optimiser": Options(optimizer=False),
}
COMPILED = {
    "compile": Options(compile="default"),
    "compile+fused": Options(compile="default", fused=True),
    "compile+fused+cudnn": Options(compile="default", fused=True, attention="cudnn"),
    "cuda graphs": Options(compile="reduce-overhead"),
}
GOAL_MFU, GOAL_DROPOUT, GOAL_SAMPLING_S = 0.5, 7.0, 15.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; 1 when a row failed for another reason than memory, 2 for a mistake in the arguments."""
    parser = argparse.ArgumentParser("python -m training.bench", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    add_options(parser)
    options = parser.parse_args(arguments)
    try:
        outcome = bench(options, lambda text: print(text, flush=True))
    except UserError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2
    return outcome["exit"]


def bench(options: argparse.Namespace, say: Callable[[str], None]) -> dict[str, Any]:
    """Everything the options ask for; returns machine, rows, goals, names of rows left and the exit status."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    shapes = {"full": FULL, "tiny": TINY}[options.shapes or ("full" if device.type == "cuda" else "tiny")]
    facts = machine(device, shapes)
    results = Results(options.out, facts)
    try:
        views = [int(count) for count in options.views.split(",")]
    except ValueError:
        raise UserError(f"--views {options.views}", "numbers separated by commas, for example 9,33") from None
    rows = [row for row in plan(shapes, views, device, results) if fnmatch.fnmatchcase(row.name, options.rows)]
    if options.list:
        for row in rows:
            say(row.name)
        return {"machine": facts, "rows": results.rows, "goals": [], "left": [], "exit": 0}
    say("  ".join(f"{name} {value}" for name, value in facts.items()))
    if shapes is TINY:
        say("tiny shapes: they show that the benchmark works; the goals are for the full size on a GPU")
    left = measure_all(rows, results, options.budget, say)
    reached = goals(shapes, results.rows)
    for goal in reached:
        say(f"goal  {goal.text}: {goal.outcome}")
    if left:
        say(f"{len(left)} rows left; the same command with the same --out goes on: {', '.join(left[:5])}{' ...' if len(left) > 5 else ''}")
    failed = any(figures["status"] == "failed" for figures in results.rows.values())
    return {"machine": facts, "rows": results.rows, "goals": [goal.__dict__ for goal in reached], "left": left, "exit": int(failed)}


def machine(device: torch.device, shapes: Shapes) -> Figures:
    """What the figures were measured on."""
    cuda = device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name(device) if cuda else f"cpu {platform.machine()}, {torch.get_num_threads()} threads",
        "memory_gib": round(torch.cuda.get_device_properties(device).total_memory / 2**30, 1) if cuda else None,
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "shapes": shapes.name,
        "load": round(os.getloadavg()[0], 1),
        "commit": git_commit()[:12],
    }


def plan(shapes: Shapes, views: list[int], device: torch.device, results: Results) -> list[Row]:
    """All rows: rates first, because MFU refers to them; what compiles, and takes minutes, last."""
    sizes = (2048, 4096, 8192, 16384) if shapes is FULL else (256, 512)
    rows = [Row(f"matmul {size}", partial(matmul_rate, size, device), 5) for size in sizes]

    def step(count: int, name: str, chosen: Options) -> None:
        measure = partial(train_step, shapes, (count,) * chosen.objects, chosen, device)
        rows.append(Row(f"step V={count} {name}".rstrip(), partial(_with_rate, measure, results), 180 if chosen.compile else 25))

    def sampled(name: str, sampler: str, steps: int, chosen: Options) -> None:
        measure = partial(sampling, shapes, TARGETS, sampler, steps, chosen, device)
        rows.append(Row(f"sample {TARGETS} views {name}", partial(_with_rate, measure, results), 180 if chosen.compile else 90))

    for count in views:
        step(count, "", Options())
    sampled("dpm++ 25", "dpm++", 25, Options())
    sampled("ddpm 75", "ddpm", 75, Options())
    for count in views:
        step(count, "recompute", Options(recompute=True))
    for count in OPTION_VIEWS:
        for name, chosen in OPTIONS.items():
            step(count, name, chosen)
    step(9, "4 objects", Options(objects=4))
    for how in ("packed", "masked"):
        measure = partial(train_step, shapes, RAGGED_VIEWS, Options(objects=len(RAGGED_VIEWS), ragged=how), device)
        rows.append(Row(f"step ragged {how}", partial(_with_rate, measure, results)))
    sampled("dpm++ 25 channels_last", "dpm++", 25, OPTIONS["channels_last"])
    for count in ATTENTION_VIEWS:
        for level, tokens, heads in attention_shapes(shapes.unet, count, shapes.latent_size):
            width = shapes.unet.block_out_channels[level] // heads
            for backend in BACKENDS:
                measure = partial(attention_rate, backend, tokens, heads, width, device)
                rows.append(Row(f"attention V={count} level {level} {tokens} tokens {backend}", measure, 10))
    rows.append(
        Row(f"attention {REFERENCE_TOKENS} tokens reference", partial(attention_rate, "reference", REFERENCE_TOKENS, 2, 32, device), 10)
    )
    for count in OPTION_VIEWS:
        for name, chosen in COMPILED.items():
            step(count, name, chosen)
    for name in ("compile", "cuda graphs"):
        sampled(f"dpm++ 25 {name}", "dpm++", 25, COMPILED[name])
    return rows


def _with_rate(measure: Callable[[float | None], Figures], results: Results) -> Figures:
    """MFU refers to the matrix products measured so far, in this call or an earlier one."""
    return measure(matmul_peak(results.rows))


def matmul_peak(rows: dict[str, Figures]) -> float | None:
    """The best measured matrix product rate in TFLOP/s."""
    return max((row["tflops"] for name, row in rows.items() if name.startswith("matmul") and row["status"] == "ok"), default=None)


@dataclass(frozen=True)
class Goal:
    """A goal and whether it was reached."""

    text: str
    outcome: str


def goals(shapes: Shapes, rows: dict[str, Figures]) -> list[Goal]:
    """Goals on an H200 at full size; the best row of each kind counts and is named. Others are reported without verdict."""

    def best(prefix: str, key: str, sign: float) -> tuple[str, float] | None:
        found = [
            (name, row[key]) for name, row in rows.items() if f"{name} ".startswith(f"{prefix} ") and row["status"] == "ok" and row.get(key)
        ]
        found = [(name, value) for name, value in found if "no optimiser" not in name]
        return max(found, key=lambda item: sign * item[1], default=None)

    def verdict(met: bool) -> str:
        return ("met" if met else "missed") if shapes is FULL else "no goal at tiny size"

    made = []
    for count in (9, 33):
        found = best(f"step V={count}", "mfu", 1)
        text = f"MFU >= {GOAL_MFU:.0%} of the measured matmul rate at V={count}"
        made.append(Goal(text, f"{found[1]:.1%} ({found[0]}), {verdict(found[1] >= GOAL_MFU)}" if found else "not run"))
    few, many = rows.get("step V=9", {}), rows.get("step V=33") or {}
    computed = train_flops(shapes.unet, [33], shapes.latent_size) / train_flops(shapes.unet, [9], shapes.latent_size)
    text = f"view dropout saves >= {GOAL_DROPOUT:.0f}x of step time (computed {computed:.1f}x)"
    if few.get("status") == many.get("status") == "ok":
        ratio = many["seconds"] / few["seconds"]
        memory = f", memory {many['peak_gib'] / few['peak_gib']:.1f}x" if few.get("peak_gib") else ""
        made.append(Goal(text, f"{ratio:.1f}x{memory}, {verdict(ratio >= GOAL_DROPOUT)}"))
    else:
        made.append(Goal(text, "not run"))
    found = best(f"sample {TARGETS} views dpm++ 25", "seconds", -1)
    text = f"{TARGETS} views of {shapes.resolution} px by 25-step DPM-Solver++ <= {GOAL_SAMPLING_S:.0f} s"
    made.append(Goal(text, f"{found[1]:.1f} s ({found[0]}), {verdict(found[1] <= GOAL_SAMPLING_S)}" if found else "not run"))
    return made


if __name__ == "__main__":
    sys.exit(main())
