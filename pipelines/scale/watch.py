"""Memory of this process and of its Ray cluster over time, and what lies in a folder."""

import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import psutil

EVERY_S = 0.25
RAY = {"gcs_server": "gcs", "raylet": "raylet"}


@dataclass
class Watch:
    """Samples resident memory while the block runs, from a thread.

    Attributes:
        at_s: seconds since the block began, one a sample.
        driver_mb: resident memory of this process in 2^20 bytes.
        gcs_mb, raylet_mb: of Ray's own processes below this one; 0 where this process has started no cluster.
        seconds, cpu_s: of the block, wall and this process's own processor time; 0 until it has ended.
    """

    at_s: list[float] = field(default_factory=list)
    driver_mb: list[float] = field(default_factory=list)
    gcs_mb: list[float] = field(default_factory=list)
    raylet_mb: list[float] = field(default_factory=list)
    seconds: float = 0.0
    cpu_s: float = 0.0

    def __enter__(self) -> "Watch":
        self._began, self._worked = time.perf_counter(), time.process_time()
        self._stop, self._self = threading.Event(), psutil.Process()
        self._ray = [(RAY[child.name()], child) for child in self._self.children(recursive=True) if child.name() in RAY]
        self._sample()
        self._thread = threading.Thread(target=self._sample_on, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds, self.cpu_s = time.perf_counter() - self._began, time.process_time() - self._worked
        self._stop.set()
        self._thread.join()
        self._sample()

    def _sample_on(self) -> None:
        while not self._stop.wait(EVERY_S):
            self._sample()

    def _sample(self) -> None:
        self.at_s.append(time.perf_counter() - self._began)
        self.driver_mb.append(_resident_mb(self._self))
        for name, series in (("gcs", self.gcs_mb), ("raylet", self.raylet_mb)):
            series.append(sum(_private_mb(process) for kind, process in self._ray if kind == name))

    def grown_mb(self, series: list[float]) -> float:
        """Largest sample less the first one."""
        return max(series) - series[0]


def _resident_mb(process: psutil.Process) -> float:
    return process.memory_info().rss / 2**20


def _private_mb(process: psutil.Process) -> float:
    """Without shared pages: those of a raylet are the object store, whose size is fixed."""
    try:
        facts = process.memory_info()
    except psutil.NoSuchProcess:
        return 0.0
    return (facts.rss - facts.shared) / 2**20


def in_folder(folder: Path) -> tuple[int, int]:
    """Files below a folder, and their bytes."""
    sizes = [path.stat().st_size for path in folder.rglob("*") if path.is_file()]
    return len(sizes), sum(sizes)
