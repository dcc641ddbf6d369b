"""The Blender process behind `rendering.blender`: started in a sandbox, asked, watched and killed.

Nothing that it says or leaves behind is believed unseen: a hostile file may have taken it over.
"""

import contextlib
import importlib.util
import json
import math
import os
import re
import resource
import select
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from infra.errors import UserError
from rendering.preflight_limits import DEFAULT, PreflightLimits

SCRIPT = Path(__file__).with_name("blender_script.py")
DEVELOP = Path(__file__).with_name("develop.py")
SANDBOX = Path(__file__).with_name("sandbox.py")
START_DEADLINE_S = 180.0
DYING_S = 10.0
LOG_TAIL_LINES = 15
SCRATCH_PREFIX = "mvforge-blender-"
SCRATCH_FREE_BYTES = 1 << 30
SYSTEM_LIBRARIES = "libx11-6 libxext6 libxrender1 libxfixes3 libxi6 libxkbcommon0 libsm6 libice6 libgl1"

# The only variables of the parent's environment that reach the child: no keys, tokens or addresses of services.
PASSED_ON = re.compile(r"PATH|LANG|LC_[A-Z]+|TZ|LD_LIBRARY_PATH|PYTHONPATH|PYTHONHOME|VIRTUAL_ENV|CUDA_VISIBLE_DEVICES")
PASSED_ON_GPU = re.compile(r"CUDA_[A-Z_]+|NVIDIA_[A-Z_]+|HIP_[A-Z_]+|ROCR_[A-Z_]+|VK_[A-Z_]+|__(EGL|GLX)_[A-Z_]+")
_REASON = re.compile(r"[a-z][a-z0-9_]{0,39}")
_LONGEST_REPLY = 4 << 20
_LONGEST_DETAIL = 2000
_WATCH_S = 0.5
_OPEN_FILES = 1024
_CPU_SPARE_S = 60


@dataclass(frozen=True)
class BlenderLimits:
    """How a child is kept in check; nothing here changes a picture.

    Attributes:
        deadline_s: wall clock for one object, all views.
        attempts: tries for crashes and time-outs, each in a fresh child; errors that would repeat are not retried.
        recycle_objects, recycle_rss_mb: a child is replaced after so many objects or above so much resident memory.
        address_space_mb: RLIMIT_AS of the child (virtual, so well above what it really uses); 0 for none, and none with `gpu`.
        object_rss_mb: a child that holds more resident memory than this is killed while it works.
        output_mb: everything that one object may leave in the scratch folder, and the bound on each file.
        cpu_per_deadline: CPU seconds an object may use for each second of its deadline; ends a child that nobody watches.
        preflight: what a file may ask for before it is refused unseen.
        sandbox: "auto" confines the child as far as the system allows and notes how far; "required" fails where that is
            not all of it; "off" is for finding faults.
        gpu: let the child reach graphics devices and their drivers.
    """

    deadline_s: float = 900.0
    attempts: int = 2
    recycle_objects: int = 300
    recycle_rss_mb: float = 4096.0
    address_space_mb: int = 24576
    object_rss_mb: float = 12288.0
    output_mb: int = 4096
    cpu_per_deadline: float = 4.0
    preflight: PreflightLimits = DEFAULT
    sandbox: str = "auto"
    gpu: bool = False


class ChildFailed(Exception):
    """The child did not answer as it should; `reason` as in `RenderFailure`."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason, self.detail = reason, detail


class Child:
    """The process, its two private pipes and its log. `sandbox` says in one line what confines it."""

    def __init__(self, scratch: "Scratch", limits: BlenderLimits) -> None:
        self.objects = 0
        self.sandbox = ""
        self._limits, self._scratch = limits, scratch
        self._buffer = b""
        request_end, self._requests = os.pipe()
        self._replies, reply_end = os.pipe()
        os.set_blocking(self._requests, False)  # a child that does not read must not hold us
        settings = {
            "enforce": limits.sandbox != "off",
            "gpu": limits.gpu,
            "read": [str(SCRIPT), str(DEVELOP), str(scratch.inputs)],
            "write": [str(scratch.outputs), str(scratch.home)],
            "nofile": _OPEN_FILES,
            "fsize": limits.output_mb << 20,
            # CUDA reserves far more addresses than it has memory.
            "memory": 0 if limits.gpu else limits.address_space_mb << 20,
        }
        try:
            with open(scratch.log, "ab") as log:
                self.process = subprocess.Popen(
                    # -P: the folder of the script must not shadow modules that Blender imports.
                    [
                        *(sys.executable, "-P", str(SANDBOX), str(reply_end), json.dumps(settings)),
                        *(str(SCRIPT), str(request_end), str(reply_end), str(os.getpid())),
                    ],
                    pass_fds=(request_end, reply_end),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                    cwd=scratch.home,
                    env=child_environment(dict(os.environ), scratch.home, limits.gpu),
                )
        finally:
            os.close(request_end)
            os.close(reply_end)

    def wait_until_ready(self) -> None:
        """Raises UserError when this Python has no working bpy, or the system cannot confine it as required."""
        end = time.monotonic() + START_DEADLINE_S
        note = self._receive(end, START_DEADLINE_S).get("note")
        if not isinstance(note, dict):
            raise ChildFailed("protocol", "the sandbox did not say what is in force")
        self.sandbox = "; ".join(f"{part} {state}" for part, state in sorted(note.items()))
        if self._limits.sandbox == "required" and not all(str(state).startswith("on") for state in note.values()):
            raise UserError(
                f"this system cannot confine a Blender process ({self.sandbox})",
                "use a Linux kernel from 5.13 with Landlock and seccomp, or set sandbox to auto and accept what is then missing",
            )
        reply = self._receive(end, START_DEADLINE_S)
        if reply["status"] == "no_bpy":
            raise bpy_missing(str(reply.get("detail"))[:_LONGEST_DETAIL])

    def ask(self, message: dict[str, Any], deadline_s: float) -> dict[str, Any]:
        """Send one request and wait for its reply, whose fields are of the right kind. Raises ChildFailed."""
        self.objects += 1
        end = time.monotonic() + deadline_s
        os.truncate(self._scratch.log, 0)  # Blender prints dozens of lines per view; only those of this object matter
        self._grant_cpu(deadline_s)
        self._send(json.dumps({**message, "number": self.objects}).encode() + b"\n", end, deadline_s)
        reply = self._receive(end, deadline_s)
        if self._buffer or reply.get("number") != self.objects:
            raise ChildFailed("protocol", f"expected one answer to request {self.objects}, got {str(reply)[:200]}")
        return checked_reply(reply)

    def _grant_cpu(self, deadline_s: float) -> None:
        """Raise the soft CPU limit by what one object may use; the child itself cannot."""
        with contextlib.suppress(OSError, ValueError, IndexError):  # it is gone; the next read says how
            fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
            used = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
            allowed = math.ceil(used + deadline_s * self._limits.cpu_per_deadline + _CPU_SPARE_S)
            hard = resource.prlimit(self.process.pid, resource.RLIMIT_CPU)[1]
            soft = allowed if hard == resource.RLIM_INFINITY else min(allowed, hard)
            resource.prlimit(self.process.pid, resource.RLIMIT_CPU, (soft, hard))

    def _send(self, data: bytes, end: float, deadline_s: float) -> None:
        try:
            while data:
                _, writable, _ = select.select([], [self._requests], [], max(0.0, end - time.monotonic()))
                if not writable:
                    raise ChildFailed("timeout", f"the request was not read within {deadline_s:g} s")
                data = data[os.write(self._requests, data) :]
        except BrokenPipeError:
            raise self._ended() from None

    def _receive(self, end: float, deadline_s: float) -> dict[str, Any]:
        while b"\n" not in self._buffer:
            left = end - time.monotonic()
            if left <= 0:
                raise ChildFailed("timeout", f"no answer within {deadline_s:g} s; last output:\n{self._log_tail()}")
            readable, _, _ = select.select([self._replies], [], [], min(left, _WATCH_S))
            if not readable:
                self._watch()
                continue
            piece = os.read(self._replies, 1 << 16)
            if not piece:
                raise self._ended()
            self._buffer += piece
            if len(self._buffer) > _LONGEST_REPLY:
                raise ChildFailed("protocol", f"an answer of more than {_LONGEST_REPLY} bytes")
        line, self._buffer = self._buffer.split(b"\n", 1)
        try:
            reply = json.loads(line)
            reply["status"]
        except (ValueError, TypeError, KeyError, RecursionError):
            raise ChildFailed("protocol", f"unexpected answer {line[:200]!r}") from None
        return reply

    def _watch(self) -> None:
        """Look at what the child uses while it works. Raises ChildFailed: `output_too_large`, `out_of_memory`."""
        self._scratch.check_size(self._limits.output_mb)
        try:
            pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        except (OSError, IndexError):
            return  # it is gone; the next read says how
        resident_mb = pages * resource.getpagesize() / 2**20
        if resident_mb > self._limits.object_rss_mb:
            raise ChildFailed("out_of_memory", f"{resident_mb:.0f} MB resident, at most {self._limits.object_rss_mb:.0f} are allowed")

    def _ended(self) -> ChildFailed:
        """The reply pipe is closed: the process is dead or dying."""
        try:
            code = self.process.wait(timeout=DYING_S)
        except subprocess.TimeoutExpired:
            return ChildFailed("protocol", "the child closed its pipe and went on running")
        name = signal.Signals(-code).name if code < 0 else f"exit-{code}"
        if name == "SIGXCPU":
            return ChildFailed("cpu_limit", "the CPU seconds of one object were used up")
        return ChildFailed(f"crash:{name}", f"last output:\n{self._log_tail()}")

    def _log_tail(self) -> str:
        with open(self._scratch.log, "rb") as stream:
            stream.seek(max(0, os.fstat(stream.fileno()).st_size - (1 << 16)))
            return "\n".join(stream.read().decode(errors="replace").splitlines()[-LOG_TAIL_LINES:])

    def kill(self) -> None:
        """End the whole process group at once and release everything."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        for end in (self._requests, self._replies):
            os.close(end)


class Scratch:
    """The folders of one worker: `inputs`, which the child may read, `outputs` and `home`, which it may write, and its log."""

    def __init__(self) -> None:
        remove_stale_scratch()
        self.root = Path(tempfile.mkdtemp(prefix=f"{SCRATCH_PREFIX}{os.getpid()}-", dir=scratch_root()))
        self.inputs, self.outputs, self.home = (self.root / name for name in ("in", "out", "home"))
        for folder in (self.inputs, self.outputs, self.home):
            folder.mkdir(mode=0o700)
        self.log = self.root / "blender.log"

    def check_size(self, most_mb: int) -> None:
        """Raises ChildFailed `output_too_large`, and `protocol` for a file that is no plain file."""
        total = self.log.stat().st_size if self.log.exists() else 0
        for base in (self.outputs, self.home):
            for folder, names, files in os.walk(base):
                for name in (*names, *files):
                    with contextlib.suppress(FileNotFoundError):
                        found = os.lstat(os.path.join(folder, name))
                        if not (stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode)):
                            raise ChildFailed("protocol", f"the child left {name!r}, which is no plain file")
                        total += found.st_size
        if total > most_mb << 20:
            raise ChildFailed("output_too_large", f"{total >> 20} MB written, at most {most_mb} are allowed")

    def remove(self) -> None:
        shutil.rmtree(self.root, ignore_errors=True)


def child_environment(own: dict[str, str], home: Path, gpu: bool) -> dict[str, str]:
    """The environment of a child: an allow-list of the parent's, and what keeps Blender away from the user's settings."""
    passed = {name: text for name, text in own.items() if PASSED_ON.fullmatch(name) or (gpu and PASSED_ON_GPU.fullmatch(name))}
    return {
        **passed,
        "HOME": str(home),
        "TMPDIR": str(home),
        "BLENDER_USER_RESOURCES": str(home),
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONHASHSEED": "0",  # the importer iterates over sets
        "MALLOC_ARENA_MAX": "1",  # keeps glibc from doubling the resident size
        "OMP_NUM_THREADS": "1",
    }


def checked_reply(reply: dict[str, Any]) -> dict[str, Any]:
    """A reply of the agreed form. Raises ChildFailed `protocol`."""
    is_sound = _is_number(reply.get("rss_mb")) and _is_number(reply.get("peak_rss_mb"))
    if reply["status"] == "ok":
        phases = reply.get("phases")
        is_sound = is_sound and isinstance(reply.get("facts"), dict) and isinstance(phases, dict) and all(map(_is_number, phases.values()))
    elif reply["status"] == "failed":
        reason, detail = reply.get("reason"), reply.get("detail")
        is_sound = is_sound and isinstance(reason, str) and bool(_REASON.fullmatch(reason)) and isinstance(detail, str)
        reply = {**reply, "detail": str(detail).encode("ascii", "backslashreplace").decode()[-_LONGEST_DETAIL:]}
    else:
        is_sound = False
    if not is_sound:
        raise ChildFailed("protocol", f"unexpected answer {str(reply)[:200]}")
    return reply


def _is_number(value: object) -> bool:
    return type(value) in (int, float) and math.isfinite(value)  # type: ignore[arg-type]


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


def scratch_root() -> str | None:
    """Memory-backed scratch where there is room for it, else the system's temporary folder."""
    shm = "/dev/shm"
    if os.access(shm, os.W_OK) and shutil.disk_usage(shm).free > SCRATCH_FREE_BYTES:
        return shm
    return None


def remove_stale_scratch() -> None:
    """Remove scratch folders whose owner was killed before it could."""
    for root in {scratch_root() or tempfile.gettempdir(), tempfile.gettempdir()}:
        for folder in Path(root).glob(f"{SCRATCH_PREFIX}*"):
            owner = folder.name.removeprefix(SCRATCH_PREFIX).partition("-")[0]
            if owner.isdigit() and not Path(f"/proc/{owner}").exists():
                shutil.rmtree(folder, ignore_errors=True)
