"""ZeRO shares of one number of workers -> whole parameters by name, which any other number of workers can load.

DeepSpeed's own conversion does it, in a process of its own: the memory it takes is gone when it ends.
"""

import contextlib
import os
import runpy
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from infra.scratch import scratch_folder

CONVERSION = "deepspeed.checkpoint.ds_to_universal"
WEIGHTS, AVERAGE = "weights", "average"


@dataclass(frozen=True)
class Whole:
    """What `converted` made: folders of whole parameters with their optimiser states, and of averages; or why it could not."""

    weights: Path
    average: Path
    error: str = ""


def average_file(rank: int) -> str:
    """The running averages over the shard of `rank`."""
    return f"ema-{rank:05d}.pt"


@contextlib.contextmanager
def converted(folder: Path, tag: str, averages: bool) -> Iterator[Whole]:
    """The DeepSpeed checkpoint `folder/tag`, of any number of ranks, as universal checkpoints in a temporary folder.

    Args:
        averages: convert the running averages too.
    """
    with scratch_folder("universal") as scratch:
        command = [sys.executable, "-m", __name__, str(folder), tag, str(scratch), "with averages" if averages else "weights only"]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        run = subprocess.run(command, capture_output=True, text=True, env=environment)
        error = f"{CONVERSION} ended with status {run.returncode}: {run.stderr.strip()[-2000:]}" if run.returncode else ""
        yield Whole(Path(scratch) / WEIGHTS, Path(scratch) / AVERAGE, error)


def convert(folder: Path, tag: str, target: Path, averages: bool) -> None:
    """Averages lie in the layout of the float32 shards, so the same conversion reads them when they stand in the shards' place."""
    _run_conversion(folder / tag, target / WEIGHTS)
    if averages:
        disguised = target / "disguised"
        _put_in_place_of_weights(folder, tag, disguised)
        _run_conversion(disguised, target / AVERAGE)


def _run_conversion(source: Path, target: Path) -> None:
    # `inject_missing_state`: the engine writes no description of tensor-parallel layers, for there are none.
    options = ["--num_extract_workers", "1", "--num_merge_workers", "1", "--inject_missing_state"]
    sys.argv = [CONVERSION, "--input_folder", str(source), "--output_folder", str(target), *options]
    runpy.run_module(CONVERSION, run_name="__main__")


def _put_in_place_of_weights(folder: Path, tag: str, target: Path) -> None:
    """A copy of a DeepSpeed checkpoint whose float32 shards are the averages."""
    target.mkdir()
    for file in sorted((folder / tag).iterdir()):
        if not file.name.endswith("_optim_states.pt"):
            (target / file.name).symlink_to(file)
            continue
        rank = int(file.name.partition("zero_pp_rank_")[2].partition("_")[0])
        averages = torch.load(folder / average_file(rank), map_location="cpu", weights_only=True)["averages"]
        state = torch.load(file, map_location="cpu", weights_only=False)
        shards = state["optimizer_state_dict"]
        name = "fp32_flat_groups" if "fp32_flat_groups" in shards else "single_partition_of_fp32_groups"
        # DeepSpeed saves shards without the padding at their end.
        shards[name] = [average[: len(shard)] for average, shard in zip(averages, shards[name], strict=True)]
        torch.save(state, target / file.name)


if __name__ == "__main__":
    sys.modules["mlflow"] = None  # type: ignore[assignment]  # DeepSpeed would import it: a second
    convert(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]), sys.argv[4] == "with averages")
