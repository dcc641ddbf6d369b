"""Telling whether a process is still the one we knew: pids are reused, start times are not."""

from pathlib import Path


def start_time(pid: int) -> str:
    """Start of a process in clock ticks since boot, as text; empty when there is no such process (or no /proc)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return ""
