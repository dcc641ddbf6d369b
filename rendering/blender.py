"""One Blender child process for many objects: started, fed, watched, killed and replaced. No Ray in here.

`bpy` calls cannot be interrupted from Python, may crash or hang on hostile files, and leak a little; so they live in
a child (`blender_script.py`) that can be killed at any moment, and every way it can fail is a `RenderFailure`.
"""

import contextlib
import importlib.util
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from infra.errors import UserError
from rendering.cameras import blender_matrix
from rendering.rigs import RigViews
from rendering.views import Mesh, ViewSet

SCRIPT = Path(__file__).with_name("blender_script.py")
START_DEADLINE_S = 180.0
LOG_TAIL_LINES = 15
SCRATCH_PREFIX = "mvforge-blender-"
SCRATCH_FREE_BYTES = 1 << 30

# OpenImageDenoise (quality, prefilter); "accurate" costs as much as twenty further samples.
DENOISE: dict[str, tuple[str, str] | None] = {
    "none": None,
    "fast": ("FAST", "FAST"),
    "balanced": ("BALANCED", "FAST"),
    "accurate": ("HIGH", "ACCURATE"),
}
# Radiance of the uniform world. White 1.0 renders a white diffuse surface as 255; 0.5 is SyncDreamer's grey.
LIGHT: dict[str, float] = {"white": 1.0, "syncdreamer": 0.5}
RETRIED = ("timeout", "crash", "protocol")

SYSTEM_LIBRARIES = "libx11-6 libxext6 libxrender1 libxfixes3 libxi6 libxkbcommon0 libsm6 libice6 libgl1"


@dataclass(frozen=True)
class RenderRequest:
    """One object to render.

    Attributes:
        uid: name of the object.
        mesh: local .glb or .gltf file.
        views: cameras and what they are for; square pinhole cameras with a centred principal point.
        resolution: image width and height in pixels.
        samples: Cycles samples per pixel.
        denoise: a key of `DENOISE`.
        light: a key of `LIGHT`.
        extent: longest side of the object's box after normalisation, in world units.
        transparent_glass: whether glass over nothing gets alpha below 1; by default it counts as the object.
        frame: animation frame at which the object is frozen.
        want_mesh: return the normalised triangles with the views.
        seed: Cycles seed, the same for all views.
    """

    uid: str
    mesh: Path
    views: RigViews
    resolution: int = 512
    samples: int = 32
    denoise: str = "balanced"
    light: str = "white"
    extent: float = 1.0
    transparent_glass: bool = False
    frame: int = 1
    want_mesh: bool = False
    seed: int = 0


@dataclass(frozen=True)
class RenderFailure:
    """Why an object has no views.

    `reason` is a short class (`timeout`, `crash:SIGSEGV`, `unsupported_extension`, `no_mesh`, ...), `detail` the text
    behind it, `attempts` how often it was tried, `seconds` how long that took in all.
    """

    uid: str
    reason: str
    detail: str
    attempts: int = 1
    seconds: float = 0.0


@dataclass(frozen=True)
class Rendered:
    """Views of one object and what it took to make them: `phases_s` seconds by phase, `peak_rss_mb` of the child."""

    views: ViewSet
    attempts: int
    seconds: float
    phases_s: dict[str, float]
    peak_rss_mb: float


@dataclass(frozen=True)
class BlenderLimits:
    """How a child is kept in check; nothing here changes a picture.

    Attributes:
        deadline_s: wall clock for one object, all views.
        attempts: tries for crashes and time-outs, each in a fresh child; errors that would repeat are not retried.
        recycle_objects, recycle_rss_mb: a child is replaced after so many objects or above so much resident memory.
        address_space_mb: RLIMIT_AS of the child (virtual, so well above what it really uses); 0 for none.
    """

    deadline_s: float = 900.0
    attempts: int = 2
    recycle_objects: int = 300
    recycle_rss_mb: float = 4096.0
    address_space_mb: int = 24576


class _ChildFailed(Exception):
    """The child did not answer as it should; `reason` as in `RenderFailure`."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason, self.detail = reason, detail


class BlenderWorker:
    """A Blender child that renders objects one after the other. Use as a context manager.

    Raises:
        UserError: on start, when `bpy` cannot be imported by this Python.
    """

    def __init__(self, limits: BlenderLimits | None = None) -> None:
        self.limits = limits or BlenderLimits()
        remove_stale_scratch()
        self._scratch = Path(tempfile.mkdtemp(prefix=f"{SCRATCH_PREFIX}{os.getpid()}-", dir=_scratch_root()))
        self._child: _Child | None = None

    def __enter__(self) -> "BlenderWorker":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def pid(self) -> int | None:
        """Process id of the living child, if there is one."""
        return self._child.process.pid if self._child else None

    def close(self) -> None:
        """Kill the child and remove the scratch folder."""
        self._stop()
        shutil.rmtree(self._scratch, ignore_errors=True)

    def render(self, request: RenderRequest, deadline_s: float | None = None) -> Rendered | RenderFailure:
        """Render one object; crashes and time-outs are retried in a fresh child up to `limits.attempts` times."""
        started = time.monotonic()
        failure = RenderFailure(request.uid, "not_tried", "")
        for attempt in range(1, self.limits.attempts + 1):
            outcome = self._attempt(request, deadline_s or self.limits.deadline_s)
            seconds = time.monotonic() - started
            if isinstance(outcome, Rendered):
                return replace(outcome, attempts=attempt, seconds=seconds)
            failure = replace(outcome, attempts=attempt, seconds=seconds)
            if failure.reason.partition(":")[0] not in RETRIED:
                break
        return failure

    def _attempt(self, request: RenderRequest, deadline_s: float) -> Rendered | RenderFailure:
        with self._request_folder() as folder:
            try:
                child = self._running_child()
                reply = child.ask(_message(request, folder), deadline_s)
            except _ChildFailed as failed:
                self._stop()
                return RenderFailure(request.uid, failed.reason, failed.detail)
            result: Rendered | RenderFailure
            if reply["status"] == "ok":
                result = _rendered(request, folder, reply)
            else:
                result = RenderFailure(request.uid, reply["reason"], reply["detail"])
            worn = child.objects >= self.limits.recycle_objects or reply["rss_mb"] > self.limits.recycle_rss_mb
            # After an error in the middle of rendering, Cycles may still hold this object's data.
            if worn or reply.get("reason") in ("out_of_memory", "render_failed"):
                self._stop()
            return result

    @contextlib.contextmanager
    def _request_folder(self) -> Iterator[Path]:
        folder = Path(tempfile.mkdtemp(prefix="object-", dir=self._scratch))
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _running_child(self) -> "_Child":
        if self._child is None:
            self._child = _Child(self._scratch, self.limits.address_space_mb)
            try:
                self._child.wait_until_ready()
            except UserError:
                self._stop()
                raise
        return self._child

    def _stop(self) -> None:
        if self._child is not None:
            self._child.kill()
            self._child = None


class _Child:
    """The process, its two private pipes and its log."""

    def __init__(self, scratch: Path, address_space_mb: int) -> None:
        self.objects = 0
        self._buffer = b""
        self._log = scratch / "blender.log"
        request_end, self._requests = os.pipe()
        self._replies, reply_end = os.pipe()
        environment = {
            # Keeps glibc from doubling the resident size, and the user's Blender add-ons out of our renders.
            **os.environ,
            "MALLOC_ARENA_MAX": "1",
            "OMP_NUM_THREADS": "1",
            "BLENDER_USER_RESOURCES": str(scratch),
            "TMPDIR": str(scratch),
        }
        try:
            with open(self._log, "ab") as log:
                self.process = subprocess.Popen(
                    # -P: the folder of the script must not shadow modules that Blender imports.
                    [sys.executable, "-P", str(SCRIPT), str(request_end), str(reply_end), str(os.getpid()), str(address_space_mb)],
                    pass_fds=(request_end, reply_end),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                    env=environment,
                )
        finally:
            os.close(request_end)
            os.close(reply_end)

    def wait_until_ready(self) -> None:
        """Raises UserError when this Python has no working bpy."""
        reply = self._receive(START_DEADLINE_S)
        if reply["status"] == "no_bpy":
            raise bpy_missing(reply["detail"])

    def ask(self, message: dict[str, Any], deadline_s: float) -> dict[str, Any]:
        """Send one request and wait for its reply."""
        self.objects += 1
        os.truncate(self._log, 0)  # Blender prints dozens of lines per view; only those of this object matter
        try:
            data = json.dumps(message).encode() + b"\n"
            while data:
                data = data[os.write(self._requests, data) :]
        except BrokenPipeError:
            raise self._ended() from None
        return self._receive(deadline_s)

    def _receive(self, deadline_s: float) -> dict[str, Any]:
        end = time.monotonic() + deadline_s
        while b"\n" not in self._buffer:
            readable, _, _ = select.select([self._replies], [], [], max(0.0, end - time.monotonic()))
            if not readable:
                raise _ChildFailed("timeout", f"no answer within {deadline_s:g} s; last output:\n{self._log_tail()}")
            piece = os.read(self._replies, 1 << 16)
            if not piece:
                raise self._ended()
            self._buffer += piece
        line, self._buffer = self._buffer.split(b"\n", 1)
        try:
            reply = json.loads(line)
            reply["status"]
        except (ValueError, TypeError, KeyError):
            raise _ChildFailed("protocol", f"unexpected answer {line[:200]!r}") from None
        return reply

    def _ended(self) -> _ChildFailed:
        """The reply pipe is closed: the process is dead or dying."""
        try:
            code = self.process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            return _ChildFailed("protocol", "the child closed its pipe and went on running")
        name = signal.Signals(-code).name if code < 0 else f"exit-{code}"
        return _ChildFailed(f"crash:{name}", f"last output:\n{self._log_tail()}")

    def _log_tail(self) -> str:
        return "\n".join(self._log.read_text(errors="replace").splitlines()[-LOG_TAIL_LINES:])

    def kill(self) -> None:
        """End the whole process group at once and release everything."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        for end in (self._requests, self._replies):
            os.close(end)


def require_bpy() -> None:
    """Raise UserError when `bpy` is not installed for this Python; cheap, nothing is imported."""
    if importlib.util.find_spec("bpy") is None:
        raise bpy_missing("no module named 'bpy'")


def bpy_missing(detail: str) -> UserError:
    """The message for a Python that cannot import bpy."""
    if ".so" in detail:
        return UserError(f"Blender's Python module lacks a system library: {detail}", f"apt-get install {SYSTEM_LIBRARIES}")
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    return UserError(
        f"Blender's Python module cannot be imported by Python {version}: {detail}",
        "bpy 4.5 exists for Python 3.11 only: make the environment with Python 3.11 and install bpy==4.5.* there",
    )


def _scratch_root() -> str | None:
    """Memory-backed scratch where there is room for it, else the system's temporary folder."""
    shm = "/dev/shm"
    if os.access(shm, os.W_OK) and shutil.disk_usage(shm).free > SCRATCH_FREE_BYTES:
        return shm
    return None


def remove_stale_scratch() -> None:
    """Remove scratch folders whose owner was killed before it could."""
    for root in {_scratch_root() or tempfile.gettempdir(), tempfile.gettempdir()}:
        for folder in Path(root).glob(f"{SCRATCH_PREFIX}*"):
            owner = folder.name.removeprefix(SCRATCH_PREFIX).partition("-")[0]
            if owner.isdigit() and not Path(f"/proc/{owner}").exists():
                shutil.rmtree(folder, ignore_errors=True)


def _message(request: RenderRequest, folder: Path) -> dict[str, Any]:
    intrinsics = request.views.camera.intrinsics
    if not np.allclose(intrinsics[:, 0], intrinsics[:, 1]) or not np.allclose(intrinsics[:, 2:], 0.5):
        raise ValueError("Blender renders square pixels with a centred principal point only")
    return {
        "mesh": str(request.mesh),
        "folder": str(folder),
        "matrices": blender_matrix(request.views.camera).reshape(-1, 16).tolist(),
        "focal": intrinsics[:, 0].tolist(),
        "resolution": request.resolution,
        "samples": request.samples,
        "denoise": DENOISE[request.denoise],
        "radiance": LIGHT[request.light],
        "extent": request.extent,
        "transparent_glass": request.transparent_glass,
        "frame": request.frame,
        "want_mesh": request.want_mesh,
        "seed": request.seed,
    }


def _rendered(request: RenderRequest, folder: Path, reply: dict[str, Any]) -> Rendered:
    """Read the pictures back and describe them."""
    rgba = np.stack([_read_png(folder / f"{index:03d}.png") for index in range(len(request.views))])
    mesh = None
    if request.want_mesh:
        with np.load(folder / "mesh.npz") as arrays:
            mesh = Mesh(arrays["vertices"], arrays["faces"])
    facts = {**reply["facts"], "coverage": coverage(rgba).round(6).tolist(), "clipped": touches_border(rgba).tolist()}
    rig = request.views
    views = ViewSet(
        request.uid,
        rgba,
        rig.camera,
        rig.roles,
        rig.azimuth_deg,
        rig.elevation_deg,
        rig.radius,
        rig.name,
        "blender",
        mesh,
        facts,
    )
    return Rendered(views, 1, 0.0, reply["phases"], reply["peak_rss_mb"])


def _read_png(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        rgba = np.asarray(image.convert("RGBA"))
    # The denoiser leaves colour where alpha is 0; it would spoil hashes and compression.
    return np.where(rgba[..., 3:] == 0, 0, rgba).astype(np.uint8)


def coverage(rgba: np.ndarray) -> np.ndarray:
    """Mean alpha per view, 0..1: uint8 `[V, H, W, 4]` -> float `[V]`."""
    return rgba[..., 3].mean((1, 2)) / 255.0


def touches_border(rgba: np.ndarray) -> np.ndarray:
    """Whether the object reaches the picture's edge, and is therefore probably cut: `[V, H, W, 4]` -> bool `[V]`."""
    opaque = rgba[..., 3] >= 128
    return opaque[:, [0, -1]].any((1, 2)) | opaque[:, :, [0, -1]].any((1, 2))
