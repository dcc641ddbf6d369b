"""One measurement of one probe at one size, in a process of its own: memory of an earlier one would hide that of a later.

`python -m pipelines.scale.point PROBE SIZE FOLDER` writes FOLDER/<probe>-<size>.json; a point that was interrupted is begun anew.
"""

import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from infra.storage import Location
from pipelines.scale.probes import PROBES
from pipelines.scale.watch import Watch

CURVE = 200  # samples of a memory curve that are kept


@dataclass(frozen=True)
class Point:
    """What one size took.

    Attributes:
        probe: a name in `PROBES`; size: objects.
        seconds, cpu_s: wall time, and processor time of the driver alone.
        driver_mb, gcs_mb, raylet_mb: growth of resident memory, 2^20 bytes.
        files, bytes: of metadata, by kind.
        counts: what the probe's own check counted; the same for everyone at this size.
        curve: (seconds, resident memory of the driver in 2^20 bytes) over the run.
    """

    probe: str
    size: int
    seconds: float
    cpu_s: float
    driver_mb: float
    gcs_mb: float
    raylet_mb: float
    files: dict[str, int] = field(default_factory=dict)
    bytes: dict[str, int] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    curve: list[list[float]] = field(default_factory=list)


def measure(probe: str, size: int, scratch: Path) -> Point:
    """Prepare outside the clock, run inside it, check what came out.

    Raises:
        RuntimeError: the counts are not those that the size must give.
    """
    made = PROBES[probe](size, scratch)
    with Watch() as watch:
        made.run()
    counts, expected = made.count(), made.expected
    if counts != expected:
        raise RuntimeError(f"{probe} of {size}: counted {counts}, expected {expected}")
    files, sizes = made.metadata()
    every = max(1, len(watch.at_s) // CURVE)
    curve = [[round(at, 2), round(mb, 1)] for at, mb in zip(watch.at_s[::every], watch.driver_mb[::every], strict=True)]
    driver, gcs, raylet = (round(watch.grown_mb(series), 1) for series in (watch.driver_mb, watch.gcs_mb, watch.raylet_mb))
    return Point(probe, size, round(watch.seconds, 3), round(watch.cpu_s, 3), driver, gcs, raylet, files, sizes, counts, curve)


def main(probe: str, size: str, folder: str) -> None:
    """Measure and write."""
    target = Location(folder) / f"{probe}-{size}.json"
    with tempfile.TemporaryDirectory(prefix="mvforge-scale-", dir=folder) as scratch:
        target.write_json(measure(probe, int(size), Path(scratch)).__dict__)


if __name__ == "__main__":
    main(*sys.argv[1:])
