"""How a measured figure grows with size: the exponent between two sizes, and what grows faster than the objects do."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from pipelines.scale.point import Point

# Exponents between two sizes above this are called faster than linear; noise of a busy machine stays below it.
FASTER = 1.25
# Figures below these say more about start-up and noise than about growth.
LEAST = {"seconds": 1.0, "driver CPU": 1.0, "driver MB": 50.0, "GCS MB": 50.0, "raylet MB": 50.0}


@dataclass(frozen=True)
class Growth:
    """One figure from one size to the next one.

    Attributes:
        what: of `figures`.
        small, large: (size, value).
        exponent: p of value ~ size^p between the two; None where a value is not above zero.
        counts: whether the smaller value is large enough to say anything.
    """

    what: str
    small: tuple[int, float]
    large: tuple[int, float]
    exponent: float | None
    counts: bool

    @property
    def faster(self) -> bool:
        return self.counts and self.exponent is not None and self.exponent > FASTER


def figures(point: Point) -> dict[str, float]:
    """What is followed over the sizes: time, memory, and files and bytes of each kind of metadata."""
    found = {
        "seconds": point.seconds,
        "driver CPU": point.cpu_s,
        "driver MB": point.driver_mb,
        "GCS MB": point.gcs_mb,
        "raylet MB": point.raylet_mb,
    }
    found |= {f"{kind} files": float(count) for kind, count in point.files.items()}
    return found | {f"{kind} bytes": float(count) for kind, count in point.bytes.items()}


def growth(points: Iterable[Point], of: Callable[[Point], dict[str, float]] = figures) -> list[Growth]:
    """Every figure of one probe between neighbouring sizes."""
    ordered = sorted(points, key=lambda point: point.size)
    steps = []
    for small, large in zip(ordered, ordered[1:], strict=False):
        before, after = of(small), of(large)
        for what in before:
            a, b = before[what], after[what]
            exponent = math.log(b / a) / math.log(large.size / small.size) if a > 0 and b > 0 else None
            steps.append(Growth(what, (small.size, a), (large.size, b), exponent, a >= LEAST.get(what, 1.0)))
    return steps
