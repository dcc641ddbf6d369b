"""Painted surfaces: small pictures that wrap once around a part.

A picture is a panorama. Its four quarter columns are the back, the left (-X), the front (+Z) and the right (+X) of
a part, so anything painted on the front is never seen from behind. Rows run from the top of the part to its foot.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from rendering.sources.shapes.draw import Colour, Draw

WIDTH_PX, HEIGHT_PX = 256, 128
FACES = {"back": 0.0, "left": 0.25, "front": 0.5, "right": 0.75}
"""Left edge of each face in u, the horizontal picture coordinate in [0, 1); every face is 0.25 wide."""

_U, _V = np.meshgrid((np.arange(WIDTH_PX) + 0.5) / WIDTH_PX, 1 - (np.arange(HEIGHT_PX) + 0.5) / HEIGHT_PX, indexing="xy")
"""Picture coordinates of the pixel centres; V is 0 at the foot and 1 at the top."""

Layer = tuple[Callable[[], np.ndarray], Colour]


@dataclass
class Paint:
    """A two-coloured panorama (front half, back half) with layers over it; drawn only when `pixels` is called."""

    front: Colour
    back: Colour
    wave: float = 0.0
    layers: list[Layer] = field(default_factory=list)

    def _is_front(self) -> np.ndarray:
        shifted = _U + self.wave * np.sin(4 * np.pi * _V)
        return (shifted >= 0.375) & (shifted < 0.875)

    def _zone(self, zone: str) -> np.ndarray:
        return np.ones_like(_U, bool) if zone == "all" else self._is_front() == (zone == "front")

    def _add(self, zone: str, colour: Colour, mask: Callable[[], np.ndarray]) -> "Paint":
        self.layers.append((lambda: mask() & self._zone(zone), colour))
        return self

    def rings(self, count: int, colour: Colour, zone: str = "all") -> "Paint":
        return self._add(zone, colour, lambda: (_V * count) % 1 < 0.45)

    def stripes(self, count: int, colour: Colour, zone: str = "all") -> "Paint":
        return self._add(zone, colour, lambda: (_U * 4 * count) % 1 < 0.45)

    def diagonals(self, count: int, colour: Colour, zone: str = "all") -> "Paint":
        return self._add(zone, colour, lambda: (_U * 4 * count + _V * count) % 1 < 0.45)

    def checker(self, count: int, colour: Colour, zone: str = "all") -> "Paint":
        return self._add(zone, colour, lambda: (np.floor(_U * 4 * count) + np.floor(_V * count)) % 2 == 0)

    def dots(self, count: int, colour: Colour, zone: str = "all") -> "Paint":
        return self._add(zone, colour, lambda: ((_U * 4 * count) % 1 - 0.5) ** 2 + ((_V * count) % 1 - 0.5) ** 2 < 0.09)

    def zigzag(self, count: int, colour: Colour, zone: str = "all") -> "Paint":
        return self._add(zone, colour, lambda: np.abs(_V * count % 1 - np.abs(_U * 8 * count % 2 - 1)) < 0.3)

    def band(self, low: float, high: float, colour: Colour, zone: str = "all") -> "Paint":
        """A ring between two heights in [0, 1]."""
        return self._add(zone, colour, lambda: (_V >= low) & (_V < high))

    def patch(self, face: str, x0: float, y0: float, x1: float, y1: float, colour: Colour) -> "Paint":
        """A rectangle on one face; x runs left to right and y foot to top as seen from outside, both in [0, 1]."""
        left = FACES[face]
        return self._add("all", colour, lambda: (_U >= left + x0 / 4) & (_U < left + x1 / 4) & (_V >= y0) & (_V < y1))

    def disc(self, face: str, x: float, y: float, radius: float, colour: Colour, aspect: float = 1.0) -> "Paint":
        """A disc on one face; `aspect` is height over width of the face, so that it comes out round."""
        centre = FACES[face] + x / 4
        return self._add("all", colour, lambda: ((_U - centre) * 4) ** 2 + ((_V - y) * aspect) ** 2 < radius**2)

    def pixels(self) -> np.ndarray:
        """uint8 sRGB `[HEIGHT_PX, WIDTH_PX, 3]`."""
        picture = np.where(self._is_front()[..., None], np.asarray(self.front), np.asarray(self.back))
        for mask, colour in self.layers:
            picture[mask()] = colour
        return np.round(picture * 255).astype(np.uint8)


PATTERNS = ("plain", "rings", "stripes", "diagonals", "checker", "dots", "zigzag")


def decorate(draw: Draw, name: str, paint: Paint, colour: Colour, zone: str) -> Paint:
    """Add a drawn pattern (or none) to one half of a surface."""
    pattern = draw.choice(f"{name}_{zone}_pattern", PATTERNS)
    count = draw.whole(f"{name}_{zone}_count", 2, 5)
    return paint if pattern == "plain" else getattr(paint, pattern)(count, colour, zone)
