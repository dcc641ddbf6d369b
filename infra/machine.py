"""What a machine is and how full it is: for reports of problems."""

import os
import platform
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil

from infra.provenance import git_commit

PACKAGES = (
    "mvforge", "ray", "torch", "diffusers", "transformers", "deepspeed", "mlflow", "bpy", "pyarrow", "numpy", "pillow", "trimesh",
    "safetensors", "xformers", "objaverse", "scipy", "psutil",
)  # fmt: skip
NVIDIA_SMI = ("nvidia-smi", "--query-gpu=name,driver_version,memory.total,memory.used,utilization.gpu", "--format=csv")


def versions() -> dict[str, str | None]:
    """Versions of this code, Python, the system, and the packages that matter; None for what is not installed."""
    found: dict[str, str | None] = {"commit": git_commit(), "python": sys.version.split()[0], "system": platform.platform()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    return found


def machine_facts(places: list[Path]) -> dict[str, Any]:
    """Processors, load, memory in bytes, and size and free bytes of the disks that hold `places` (those that exist)."""
    memory, swap = psutil.virtual_memory(), psutil.swap_memory()
    return {
        "cpus": os.cpu_count(),
        "usable_cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
        "load": list(os.getloadavg()),
        "memory": {"total": memory.total, "available": memory.available, "swap_total": swap.total, "swap_used": swap.used},
        "memory_limit": _memory_limit(),
        "disks": {str(place): _disk(place) for place in places if place.exists()},
        "gpus": _gpus(),
    }


def _disk(place: Path) -> dict[str, int]:
    usage, inodes = shutil.disk_usage(place), os.statvfs(place)
    return {"total": usage.total, "free": usage.free, "inodes": inodes.f_files, "inodes_free": inodes.f_favail}


def _memory_limit() -> str | None:
    """The container's own limit in bytes, or `max`; None outside of one."""
    for name in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            return Path(name).read_text().strip()
        except OSError:
            continue
    return None


def _gpus() -> list[str]:
    """Lines of nvidia-smi; empty where there is none or it does not answer."""
    try:
        answer = subprocess.run(NVIDIA_SMI, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return answer.stdout.strip().splitlines()
