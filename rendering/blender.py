"""One Blender child process for many objects: started, fed, watched, killed and replaced. No Ray in here.

`bpy` calls cannot be interrupted from Python, may crash or hang on hostile files, and leak a little; so they live in
a child (`blender_script.py`) that can be killed at any moment, and every way it can fail is a `RenderFailure`.
"""

import contextlib
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from infra.errors import UserError
from rendering.blender_child import BlenderLimits, Child, ChildFailed, Scratch, bpy_missing, require_bpy
from rendering.cameras import blender_matrix
from rendering.exposure import read_picture
from rendering.lights import WHITE, Light, placed, told
from rendering.profiles import Sampling, sampling
from rendering.rigs import RigViews
from rendering.sources.base import FetchError
from rendering.staging import stage
from rendering.view_set import Mesh, ViewSet

__all__ = [
    "BlenderLimits",
    "BlenderWorker",
    "RenderFailure",
    "RenderRequest",
    "Rendered",
    "bpy_missing",
    "coverage",
    "require_bpy",
    "touches_border",
]

RETRIED = ("timeout", "crash", "protocol")


@dataclass(frozen=True)
class RenderRequest:
    """One object to render.

    Attributes:
        uid: name of the object.
        mesh: local .glb or .gltf file.
        views: cameras and what they are for; square pinhole cameras with a centred principal point.
        resolution: image width and height in pixels.
        profile: a name in `rendering.profiles.PROFILES`, or settings of your own.
        samples, denoise: where given, instead of the profile's.
        device: `cpu`, or a kind of GPU in `rendering.profiles.DEVICES`.
        passes: what to keep beside the picture: any of `rendering.view_set.PASSES`.
        lights: as `rendering.lights` describes them: one for all views, or those that `views.light_of_view` counts.
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
    profile: str | Sampling = "quality"
    samples: int = 0
    denoise: str = ""
    device: str = "cpu"
    passes: tuple[str, ...] = ()
    lights: tuple[Light, ...] = (WHITE,)
    extent: float = 1.0
    transparent_glass: bool = False
    frame: int = 1
    want_mesh: bool = False
    seed: int = 0

    @property
    def sampling(self) -> Sampling:
        if isinstance(self.profile, Sampling):
            return self.profile
        return sampling(self.profile, self.samples, self.denoise)


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


class BlenderWorker:
    """A Blender child that renders objects one after the other. Use as a context manager.

    Raises:
        UserError: on start, when `bpy` cannot be imported by this Python.
    """

    def __init__(self, limits: BlenderLimits | None = None) -> None:
        self.limits = limits or BlenderLimits()
        self._scratch = Scratch()
        self._child: Child | None = None

    def __enter__(self) -> "BlenderWorker":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def pid(self) -> int | None:
        """Process id of the living child, if there is one."""
        return self._child.process.pid if self._child else None

    @property
    def sandbox(self) -> str:
        """What confines the living child, in one line: each part and why it is off, if it is."""
        return self._child.sandbox if self._child else ""

    def close(self) -> None:
        """Kill the child and remove the scratch folder."""
        self._stop()
        self._scratch.remove()

    def render(self, request: RenderRequest, deadline_s: float | None = None) -> Rendered | RenderFailure:
        """Render one object, from a copy that is checked first (`rendering.preflight`).

        Crashes and time-outs are retried in a fresh child up to `limits.attempts` times.
        """
        started = time.monotonic()
        with _folder_in(self._scratch.inputs) as folder:
            try:
                private = replace(request, mesh=stage(request.mesh, folder, self.limits.preflight))
            except FetchError as refusal:
                return RenderFailure(request.uid, refusal.reason, refusal.detail, 1, time.monotonic() - started)
            return self._render(private, deadline_s or self.limits.deadline_s, started)

    def _render(self, request: RenderRequest, deadline_s: float, started: float) -> Rendered | RenderFailure:
        failure = RenderFailure(request.uid, "not_tried", "")
        for attempt in range(1, self.limits.attempts + 1):
            outcome = self._attempt(request, deadline_s)
            seconds = time.monotonic() - started
            if isinstance(outcome, Rendered):
                return replace(outcome, attempts=attempt, seconds=seconds)
            failure = replace(outcome, attempts=attempt, seconds=seconds)
            if failure.reason.partition(":")[0] not in RETRIED:
                break
        return failure

    def _attempt(self, request: RenderRequest, deadline_s: float) -> Rendered | RenderFailure:
        with _folder_in(self._scratch.outputs) as folder:
            try:
                child = self._running_child()
                reply = child.ask(_message(request, folder), deadline_s)
                self._scratch.check_size(self.limits.output_mb)
                result = self._outcome(request, folder, reply, child)
            except ChildFailed as failed:
                self._stop()
                return RenderFailure(request.uid, failed.reason, failed.detail)
            worn = child.objects >= self.limits.recycle_objects or reply["rss_mb"] > self.limits.recycle_rss_mb
            # After an error in the middle of rendering, Cycles may still hold this object's data.
            if worn or reply.get("reason") in ("out_of_memory", "render_failed"):
                self._stop()
            return result

    def _outcome(self, request: RenderRequest, folder: Path, reply: dict[str, Any], child: Child) -> Rendered | RenderFailure:
        if reply["status"] != "ok":
            return RenderFailure(request.uid, reply["reason"], reply["detail"])
        try:
            result = _rendered(request, folder, reply)
        except Exception as error:  # the boundary: what a child left behind may be anything
            raise ChildFailed("protocol", f"its output cannot be read: {type(error).__name__}: {error}"[:2000]) from error
        result.views.facts["sandbox"] = child.sandbox
        return result

    def _running_child(self) -> Child:
        if self._child is None:
            self._child = Child(self._scratch, self.limits)
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


@contextlib.contextmanager
def _folder_in(parent: Path) -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="object-", dir=parent))
    try:
        yield folder
    finally:
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
        "sampling": request.sampling.message(),
        "device": request.device,
        "passes": list(request.passes),
        "lights": placed(request.lights, folder),
        "light_of_view": _light_of_view(request),
        "extent": request.extent,
        "transparent_glass": request.transparent_glass,
        "frame": request.frame,
        "want_mesh": request.want_mesh,
        "seed": request.seed,
    }


def _light_of_view(request: RenderRequest) -> list[int]:
    """Number of each view's light: one light serves all view sets."""
    return list(request.views.light_of_view) if len(request.lights) > 1 else [0] * len(request.views)


def _rendered(request: RenderRequest, folder: Path, reply: dict[str, Any]) -> Rendered:
    """Read the pictures back and describe them."""
    started = time.monotonic()
    pictures = [read_picture(folder / f"{index:03d}.npz", request.resolution, request.passes) for index in range(len(request.views))]
    rgba = np.stack([picture.rgba for picture in pictures])
    mesh = None
    if request.want_mesh:
        with np.load(folder / "mesh.npz") as arrays:
            mesh = Mesh(arrays["vertices"], arrays["faces"])
    shone = {"lights": told(request.lights), "light_of_view": _light_of_view(request)}
    facts = {**reply["facts"], **shone, "coverage": coverage(rgba).round(6).tolist(), "clipped": touches_border(rgba).tolist()}
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
        **{name: np.stack([getattr(picture, name) for picture in pictures]) for name in request.passes},
    )
    phases = {**reply["phases"], "encode": reply["phases"].get("develop", 0.0) + time.monotonic() - started}
    return Rendered(views, 1, 0.0, phases, reply["peak_rss_mb"])


def coverage(rgba: np.ndarray) -> np.ndarray:
    """Mean alpha per view, 0..1: uint8 `[V, H, W, 4]` -> float `[V]`."""
    return rgba[..., 3].mean((1, 2)) / 255.0


def touches_border(rgba: np.ndarray) -> np.ndarray:
    """Whether the object reaches the picture's edge, and is therefore probably cut: `[V, H, W, 4]` -> bool `[V]`."""
    opaque = rgba[..., 3] >= 128
    return opaque[:, [0, -1]].any((1, 2)) | opaque[:, :, [0, -1]].any((1, 2))
