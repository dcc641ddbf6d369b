"""Faults that hit files: a shard with flipped bytes, a truncated checkpoint, a full disk."""

import json
import os
import subprocess
from contextlib import suppress
from pathlib import Path
from random import Random

import pyarrow.parquet as pq

BLOCK = b"\0" * (1 << 16)
FILLER = ".chaos-filler"
STORE_BYTES = 192 << 20


def newest_build(store: Path, step: str) -> Path | None:
    """Folder of a step's finished build, of whatever label."""
    for record in (store / step).glob("*/record.json"):
        with suppress(OSError, ValueError):
            return record.parent / json.loads(record.read_text())["build_id"]
    return None


def corrupt_shard(store: Path, step: str, random: Random) -> str | None:
    """Flip bytes in the pictures (or arrays) of one object that is trained on; returns what was hit, None when there is no shard."""
    build, kept = newest_build(store, step), newest_build(store, "curate")
    if build is None or kept is None:
        return None
    table = pq.read_table(kept / "kept.parquet").to_pylist()
    trained = {row["uid"] for row in table if row["split"] == "train"}
    shards = sorted(build.glob("part-*.parquet"))
    random.shuffle(shards)
    for shard in shards:
        with pq.ParquetFile(shard) as file:
            for group in random.sample(range(file.num_row_groups), file.num_row_groups):
                uid = file.read_row_group(group, columns=["uid"]).column("uid")[0].as_py()
                if uid not in trained:
                    continue
                columns = [file.metadata.row_group(group).column(i) for i in range(file.metadata.num_columns)]
                # The largest column is what the object consists of: its pictures, or its latents.
                largest = max(columns, key=lambda column: column.total_compressed_size)
                begin = min(filter(None, (largest.dictionary_page_offset, largest.data_page_offset)))
                _flip(shard, begin + int(largest.total_compressed_size * random.uniform(0.3, 0.7)), 16)
                return f"{step}/{shard.name}, {largest.path_in_schema} of {uid}"
    return None


def _flip(file: Path, offset: int, count: int) -> None:
    with open(file, "r+b") as stream:
        stream.seek(offset)
        data = stream.read(count)
        stream.seek(offset)
        stream.write(bytes(byte ^ 0xFF for byte in data))


def truncate_checkpoint(store: Path, step: str, random: Random) -> str | None:
    """Cut one file of the newest whole checkpoint in half; returns which, None when there is no checkpoint."""
    manifests = sorted((store / step).glob("*/*/state/*/step-*/manifest.json"), key=lambda path: path.parent.name)
    if not manifests:
        return None
    place = manifests[-1].parent
    with suppress(OSError, ValueError, KeyError):  # pruned or replaced meanwhile
        files = sorted(json.loads(manifests[-1].read_text())["body"]["files"])
        chosen = place / random.choice(files)
        size = chosen.stat().st_size
        os.truncate(chosen, size // 2)
        return f"{step}/{place.name}/{chosen.name}, {size} bytes to {size // 2}"
    return None


def mount(store: Path) -> str:
    """Mount a small file system of its own at `store`, so that it can be filled; returns why not, empty when it was."""
    store.mkdir(parents=True, exist_ok=True)
    if os.geteuid():
        return "not possible without root: no small file system can be mounted"
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={STORE_BYTES}", "tmpfs", str(store)], capture_output=True, text=True)
    return "" if not done.returncode else f"not possible here: {done.stderr.strip()[:200]}"


def unmount(store: Path) -> None:
    """Take the file system away again, with what is in it."""
    if os.path.ismount(store):
        subprocess.run(["umount", "--lazy", str(store)], check=True, capture_output=True)


def fill(store: Path) -> str:
    """Write until nothing more fits; returns how much it was."""
    written = 0
    with open(store / FILLER, "wb", buffering=0) as stream, suppress(OSError):
        while True:
            written += stream.write(BLOCK)
    return f"{written >> 20} MiB written to the last byte"


def empty(store: Path) -> None:
    """Make room again."""
    (store / FILLER).unlink(missing_ok=True)
