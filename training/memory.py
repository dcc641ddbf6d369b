"""How much memory is free, and keeping a trial within it, so that it fails instead of the machine."""

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from infra.errors import UserError

MARGIN = 0.9  # of what is free may be taken
# Byte counts of memory used and allowed, for containers (cgroup version 2, then 1).
CGROUPS = (
    ("/sys/fs/cgroup/memory.current", "/sys/fs/cgroup/memory.max"),
    ("/sys/fs/cgroup/memory/memory.usage_in_bytes", "/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)


def free_bytes(device: torch.device) -> int:
    """Free memory of the device; for the CPU what the machine or the container still allows."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    fields = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
    free = int(fields["MemAvailable"].split()[0]) * 1024
    for used, limit in CGROUPS:
        if Path(limit).exists() and (allowed := Path(limit).read_text().strip()) != "max":
            free = min(free, int(allowed) - int(Path(used).read_text()))
    return free


@contextmanager
def within_memory(device: torch.device, what: str, mend: str) -> Iterator[None]:
    """An allocation beyond what is free now fails instead of making the system kill processes.

    Raises:
        UserError: memory did not suffice.
    """
    free = free_bytes(device)
    limits = resource.getrlimit(resource.RLIMIT_DATA)
    if device.type == "cpu":
        status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":" in line)
        wanted = int(status["VmData"].split()[0]) * 1024 + int(MARGIN * free)
        allowed = [bound for bound in (*limits, wanted) if bound != resource.RLIM_INFINITY]
        resource.setrlimit(resource.RLIMIT_DATA, (min(allowed), limits[1]))
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not _is_lack_of_memory(error):
            raise
        raise UserError(f"{what} needs more than the {free / 2**30:.1f} GiB that are free on this {device.type}", mend) from error
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, limits)


def _is_lack_of_memory(error: BaseException) -> bool:
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "can't allocate memory" in str(error)
