"""Where unfinished training is kept: a folder per saved step, complete or absent."""

import contextlib
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import torch.distributed as dist

STATE_FILE = "state.json"

Write = Callable[[Path], None]


class Checkpoints(Protocol):
    """What the loop needs to save and to continue; all ranks call both with the same steps."""

    def save(self, step: int, write: Write) -> None:
        """Call `write(folder)` on every rank and make the union of what the ranks wrote durable as one checkpoint."""
        ...

    def latest(self) -> contextlib.AbstractContextManager[Path | None]:
        """The newest complete checkpoint as a readable folder, or None."""
        ...


def write_state(folder: Path, state: dict[str, Any]) -> None:
    """The loop's own part of a checkpoint: step, world size, curves so far. Written by rank 0."""
    (folder / STATE_FILE).write_text(json.dumps(state))


def read_state(folder: Path) -> dict[str, Any]:
    return json.loads((folder / STATE_FILE).read_text())


class NoCheckpoints:
    """Training that is never continued."""

    def save(self, step: int, write: Write) -> None:
        pass

    @contextlib.contextmanager
    def latest(self) -> Iterator[Path | None]:
        yield None


class LocalCheckpoints:
    """Folders `step-NNNNNNNN` below one folder that all ranks see; the last `keep` are retained."""

    def __init__(self, folder: Path, keep: int = 2) -> None:
        self.folder, self.keep = folder, keep

    def save(self, step: int, write: Write) -> None:
        unfinished = self.folder / f".step-{step:08d}"
        if self._is_first():
            shutil.rmtree(unfinished, ignore_errors=True)
            unfinished.mkdir(parents=True)
        self._barrier()
        write(unfinished)
        self._barrier()
        if self._is_first():
            final = self.folder / f"step-{step:08d}"
            shutil.rmtree(final, ignore_errors=True)
            unfinished.rename(final)
            for old in self._complete()[: -self.keep]:
                shutil.rmtree(old)
        self._barrier()

    @contextlib.contextmanager
    def latest(self) -> Iterator[Path | None]:
        complete = self._complete()
        yield complete[-1] if complete else None

    def _complete(self) -> list[Path]:
        return sorted(self.folder.glob("step-*"))

    def _is_first(self) -> bool:
        return not dist.is_initialized() or dist.get_rank() == 0

    def _barrier(self) -> None:
        if dist.is_initialized():
            dist.barrier()
