"""Random choices on fixed grids, recorded by name, so that equal records mean equal objects."""

import colorsys
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

T = TypeVar("T")
Colour = tuple[float, float, float]

CONTRASTING, HARMONIOUS = COLOURS = ("contrasting", "harmonious")


@dataclass(frozen=True)
class Palette:
    """sRGB colours in [0, 1] of one object; `Draw.palette` says how they go together."""

    front: Colour
    back: Colour
    accent: Colour
    trim: Colour


class Draw:
    """Draws from a generator and records every draw as an integer, the quantised parameters of an object."""

    def __init__(self, rng: np.random.Generator, colours: str = CONTRASTING) -> None:
        self._rng = rng
        self._harmonious = colours == HARMONIOUS
        # Contrasting objects keep the names that they had before there was a choice.
        self.values: dict[str, int] = {"harmonious": 1} if self._harmonious else {}

    def whole(self, name: str, low: int, high: int) -> int:
        """An integer in [low, high]. Raises ValueError when `name` was drawn before: the record would lose it."""
        if name in self.values:
            raise ValueError(f"parameter {name!r} drawn twice")
        self.values[name] = int(self._rng.integers(low, high + 1))
        return self.values[name]

    def number(self, name: str, low: float, high: float, levels: int = 12) -> float:
        """One of `levels` evenly spaced numbers from low to high."""
        return low + (high - low) * self.whole(name, 0, levels - 1) / (levels - 1)

    def choice(self, name: str, options: Sequence[T]) -> T:
        return options[self.whole(name, 0, len(options) - 1)]

    def chance(self, name: str) -> bool:
        return self.whole(name, 0, 1) == 1

    def side(self, name: str) -> int:
        """-1 or +1: on which side an asymmetric part sits."""
        return 1 if self.chance(name) else -1

    def palette(self) -> Palette:
        """Colours of one object, none near white.

        Contrasting: front and back differ strongly in hue, one is light and the other dark, so that a picture tells from
        which side it was taken, but little of the other sides. Harmonious: one hue in four shades, as on most real
        objects; a picture tells the colours of all sides.
        """
        hue = self.whole("hue", 0, 35) / 36
        opposite = hue + self.whole("hue_shift", 10, 26) / 36
        light = colorsys.hsv_to_rgb(hue, self.number("light_saturation", 0.4, 0.85, 4), self.number("light_value", 0.85, 1.0, 3))
        dark = colorsys.hsv_to_rgb(opposite % 1, self.number("dark_saturation", 0.6, 0.95, 4), self.number("dark_value", 0.28, 0.5, 4))
        accent = colorsys.hsv_to_rgb((hue + self.whole("accent_shift", 4, 8) / 36) % 1, 0.75, 0.8)
        trim = colorsys.hsv_to_rgb((opposite + self.whole("trim_shift", 4, 8) / 36) % 1, 0.55, 0.6)
        front, back = (light, dark) if self.chance("light_front") else (dark, light)
        if self._harmonious:
            return self._shades(hue)
        return Palette(front, back, accent, trim)

    def _shades(self, hue: float) -> Palette:
        saturation, value = 0.55 + 0.1 * self.values["light_saturation"], 0.75 + 0.1 * self.values["light_value"]
        front, back, accent, trim = (
            colorsys.hsv_to_rgb((hue + turn) % 1, saturation, value * shade)
            for turn, shade in ((0.0, 1.0), (0.02, 0.85), (-0.04, 0.65), (0.05, 0.5))
        )
        return Palette(front, back, accent, trim)

    def digest(self) -> str:
        """64 hex digits naming the recorded parameters."""
        return hashlib.sha256(json.dumps(self.values, sort_keys=True).encode()).hexdigest()
