"""Where unfinished training is kept: checkpoints that every rank writes its share of, complete and verified or not there.

A step waits only until its shares lie on local disk. A thread then copies them to the folder that all ranks see; rank 0
writes `manifest.json`, with every file's size and SHA-256, when all shares have arrived. Ranks find each other through
files there and not through the process group, which the training uses at the same time.
"""

import contextlib
import json
import logging
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch.distributed as dist

from infra.scratch import Scratch, make_scratch, scratch_folder
from training.background_upload import BackgroundUpload
from training.checkpoint_folder import Folder, LocalFolder
from training.checkpoint_manifest import MANIFEST, Fault, check_file, digest_of, read_manifest, sha256_of, share_name

REFUSED = "refused.json"
POLL_S = 0.1
COMMIT_PATIENCE_S = 3600.0  # for the slowest rank's upload
ERROR_PATIENCE_S = 5.0

log = logging.getLogger(__name__)

Write = Callable[[Path], None]
State = dict[str, Any]
"""Plain values that are saved with a checkpoint: step, world size, curves so far."""


@dataclass(frozen=True)
class Saved:
    """A checkpoint that passed its checks.

    Attributes:
        name: of its folder, for messages.
        folder: local and readable; holds the files of rank 0 and of this rank, or all where they were asked for.
        state: what rank 0 saved beside the files.
    """

    name: str
    folder: Path
    state: State


class Checkpoints(Protocol):
    """What the loop needs to save and to continue; all ranks call `save` and `latest`, with the same steps."""

    def save(self, step: int, write: Write, state: State, score: float | None = None) -> None:
        """Call `write(folder)` on every rank and make the union of what the ranks wrote durable as one checkpoint.

        Args:
            state: saved with it; that of rank 0 counts.
            score: the latest validation loss, by which the best checkpoint is kept.
        """
        ...

    def latest(self, whole: Callable[[State], bool] = ...) -> contextlib.AbstractContextManager[Saved | None]:
        """The newest complete checkpoint, or None; `whole(state)` says whether this rank reads the files of all ranks."""
        ...

    def timings(self) -> dict[str, float]:
        """Seconds of what has ended since the last call: `checkpoint_wait_s` (training stood still), `checkpoint_upload_s`."""
        ...

    def close(self, patience_s: float | None = None) -> None:
        """Wait for the upload in progress, at most `patience_s` seconds."""
        ...


@contextlib.contextmanager
def uploads_ended(checkpoints: Checkpoints) -> Iterator[None]:
    """At the end of the block no upload is left; after an error it is not waited for long, since other ranks may be dead."""
    patience: float | None = ERROR_PATIENCE_S
    try:
        yield
        patience = None
    finally:
        try:
            checkpoints.close(patience)
        except Exception:
            log.exception("the last checkpoint could not be stored")


class NoCheckpoints:
    """Training that is never continued."""

    def save(self, step: int, write: Write, state: State, score: float | None = None) -> None:
        pass

    @contextlib.contextmanager
    def latest(self, whole: Callable[[State], bool] = lambda state: False) -> Iterator[Saved | None]:
        yield None

    def timings(self) -> dict[str, float]:
        return {}

    def close(self, patience_s: float | None = None) -> None:
        pass


class SharedCheckpoints:
    """Folders `step-NNNNNNNN-<attempt>` below one folder; the last `keep` are retained, and the `keep_best` best by score."""

    def __init__(self, folder: Folder, keep: int = 2, keep_best: int = 1) -> None:
        self.folder, self.keep, self.keep_best = folder, max(keep, 1), keep_best
        self._attempt: str | None = None
        self._upload: BackgroundUpload | None = None
        self._timings: dict[str, float] = {}

    def save(self, step: int, write: Write, state: State, score: float | None = None) -> None:
        began = time.perf_counter()
        self.close()  # one upload at a time: local disk holds one share, and a store that cannot keep up is noticed
        scratch = make_scratch("share")
        try:
            write(scratch.folder)
        except BaseException:
            scratch.remove()
            raise
        place = self.folder / f"step-{step:08d}-{self._attempt_name()}"
        # The curves go on growing while the thread runs.
        header = json.dumps({"step": step, "score": score, "state": state})
        rank, world = _rank_and_world()
        self._upload = BackgroundUpload(lambda: self._commit(place, scratch, header, rank, world))
        self._timings["checkpoint_wait_s"] = time.perf_counter() - began

    def _commit(self, place: Folder, scratch: Scratch, header: str, rank: int, world: int) -> None:
        try:
            files = {}
            for path in sorted(p for p in scratch.folder.rglob("*") if p.is_file()):
                name = path.relative_to(scratch.folder).as_posix()
                files[name] = {"size": path.stat().st_size, "sha256": sha256_of(path), "rank": rank}
                (place / name).upload(path)
            (place / share_name(rank)).write_bytes(json.dumps(files).encode())
        finally:
            scratch.remove()
        if rank != 0:
            return
        every: dict[str, Any] = {}
        for share in self._await_shares(place, world):
            every.update(json.loads(share.read_bytes()))
        body = {**json.loads(header), "files": every}
        (place / MANIFEST).write_bytes(json.dumps({"sha256": digest_of(body), "body": body}).encode())
        self._prune()

    def _await_shares(self, place: Folder, world: int) -> list[Folder]:
        names = [share_name(rank) for rank in range(world)]
        deadline = time.monotonic() + COMMIT_PATIENCE_S
        while missing := set(names) - {entry.name for entry in place.children()}:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{place}: no {', '.join(sorted(missing))} within {COMMIT_PATIENCE_S:.0f} s")
            time.sleep(POLL_S)
        return [place / name for name in names]

    def _prune(self) -> None:
        complete = self._complete()
        kept = set(complete[: self.keep])
        if self.keep_best:
            scored = []
            for name in complete:
                with contextlib.suppress(Fault):
                    body = read_manifest(self.folder / name)
                    if body["score"] is not None:
                        scored.append((body["score"], body["step"], name))
            kept |= {name for _, _, name in sorted(scored)[: self.keep_best]}
        for name in set(complete) - kept:
            # First what makes it complete: a deletion that is interrupted leaves nothing that looks whole.
            (self.folder / name / MANIFEST).delete()
            (self.folder / name).delete()

    @contextlib.contextmanager
    def latest(self, whole: Callable[[State], bool] = lambda state: False) -> Iterator[Saved | None]:
        self.close()
        rank, _ = _rank_and_world()
        names = _everyone(self._tidied() if rank == 0 else None)[0]
        self._attempt_name()
        with contextlib.ExitStack() as stack:
            for name in names:
                saved, fault = None, None
                try:
                    saved = self._open(name, whole, stack)
                except Fault as error:
                    fault = str(error)
                faults = sorted({each for each in _everyone(fault) if each})
                if not faults:
                    yield saved
                    return
                if rank == 0:
                    self._refuse(name, faults)
            yield None

    def _tidied(self) -> list[str]:
        """Complete checkpoints, newest first; what interrupted attempts left half-written is named in the log and removed."""
        complete = self._complete()
        for entry in self.folder.children():
            if entry.name.startswith("step-") and entry.name not in complete:
                if not (self.folder / entry.name / REFUSED).exists():
                    log.warning("checkpoint %s is half-written and not used", entry.name)
                (self.folder / entry.name).delete()
        return complete

    def _refuse(self, name: str, faults: list[str]) -> None:
        log.error("checkpoint %s is refused, the one before it is used instead: %s", name, "; ".join(faults))
        (self.folder / name / REFUSED).write_bytes(json.dumps(faults).encode())
        (self.folder / name / MANIFEST).delete()

    def _open(self, name: str, whole: Callable[[State], bool], stack: contextlib.ExitStack) -> Saved:
        rank, _ = _rank_and_world()
        place = self.folder / name
        body = read_manifest(place)
        every = whole(body["state"])
        wanted = {file: facts for file, facts in body["files"].items() if every or facts["rank"] in (0, rank)}
        if place.is_local:
            local = place.local_path()
        else:
            local = stack.enter_context(scratch_folder("resume"))
            for each in wanted:
                if not (place / each).exists():
                    raise Fault(f"{each} is missing")
                (place / each).download(local / each)
        for each, facts in wanted.items():
            check_file(local / each, each, facts)
        return Saved(name, local, body["state"])

    def timings(self) -> dict[str, float]:
        if self._upload is not None and self._upload.seconds is not None:
            self._timings["checkpoint_upload_s"] = self._upload.seconds
            self._upload.seconds = None
        ended, self._timings = self._timings, {}
        return ended

    def close(self, patience_s: float | None = None) -> None:
        """Raises what went wrong in the upload."""
        upload = self._upload
        if upload is None or not upload.ended(patience_s):
            return
        self._upload = None
        if upload.error is not None:
            raise upload.error
        if upload.seconds is not None:
            self._timings["checkpoint_upload_s"] = upload.seconds

    def _complete(self) -> list[str]:
        """Newest first."""
        names = [entry.name for entry in self.folder.children() if entry.name.startswith("step-")]
        return [name for name in sorted(names, reverse=True) if (self.folder / name / MANIFEST).exists()]

    def _attempt_name(self) -> str:
        """The same on all ranks: what an interrupted attempt left behind must not mix with what this one writes."""
        if self._attempt is None:
            self._attempt = _everyone(uuid.uuid4().hex[:8])[0]
        return self._attempt


class LocalCheckpoints(SharedCheckpoints):
    """Checkpoints below a folder on this machine, or on a file system that all ranks see."""

    def __init__(self, folder: Path, keep: int = 2, keep_best: int = 1) -> None:
        super().__init__(LocalFolder(folder), keep, keep_best)


def _rank_and_world() -> tuple[int, int]:
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def _everyone(value: Any) -> list[Any]:
    """`value` of every rank, in rank order."""
    _, world = _rank_and_world()
    if world == 1:
        return [value]
    values: list[Any] = [None] * world
    dist.all_gather_object(values, value)
    return values
