"""Picture gates: what is wrong with the pictures of one object, told from the pictures and the render's facts alone.

A legitimate object may be plain: an untextured white sphere is one even colour and looks alike from everywhere. The
gates therefore ask for two signs at once where one would hit such objects; every threshold is the recipe's.
"""

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from rendering.view_set import TARGET, ViewSet

# A missing texture is (1, 0, 1) times the light that reaches it, 255 in red and blue where white light does; gloss adds
# some green. Painted magentas rarely have all three signs.
PINK_LEVEL, PINK_GAP, PINK_SLACK = 236, 165, 3
# Colours are told apart in steps of 8 of 256; one counts when it covers at least this part of the object.
COLOUR_SHIFT, COLOUR_SHARE = 3, 0.002


@dataclass(frozen=True, kw_only=True)
class GateConfig:
    """When an object is rejected for its pictures. Pixels of the object are those with alpha of at least one half.

    Attributes:
        min_coverage: `blank` when the fullest target covers less than this part of the picture.
        max_clipped: `clipped` when more than this part of the targets touch the border.
        max_pink: `missing_texture` when more than this part of the object's pixels, over all targets, has the pink that
            Blender draws for a missing texture.
        min_colour_std: an object is plain when no channel's standard deviation over all its pixels reaches this (0..1) ...
        max_plain_colours: ... and it has at most so many colours. Plain alone is no fault.
        min_brightness: `near_uniform` when plain and no brighter than this on average (0..1): all black.
        min_thickness: `near_uniform` when plain and its smallest coverage is less than this part of its largest: a card
            of one colour.
        min_distinct_views: `too_few_distinct_views` when fewer targets than this differ in any pixel, the blank ones not
            counted. No perfect sphere is lost while this is 1.
        min_triangles: `degenerate` when the object has fewer triangles, or its scale or centre is not finite.
    """

    min_coverage: float = 0.002
    max_clipped: float = 0.5
    max_pink: float = 0.25
    min_colour_std: float = 0.03
    max_plain_colours: int = 6
    min_brightness: float = 0.01
    min_thickness: float = 0.05
    min_distinct_views: int = 2
    min_triangles: int = 2


@dataclass(frozen=True)
class Measures:
    """What the gates measure; fractions are 0..1. `triangles` is None where the render does not tell."""

    fullest: float
    emptiest: float
    clipped: float
    pink: float
    colour_std: float
    colours: int
    brightness: float
    distinct_views: int
    targets: int
    triangles: int | None
    finite: bool


def measure(views: ViewSet, config: GateConfig) -> Measures:
    """Measure the targets of an object, one picture at a time."""
    rgba = views.with_role(TARGET).rgba
    coverage = np.array([picture[..., 3].mean() / 255.0 for picture in rgba])
    seen = {hashlib.sha256(picture.tobytes()).digest() for picture, part in zip(rgba, coverage, strict=True) if part >= config.min_coverage}
    colours = _Colours()
    for picture in rgba:
        colours.add(picture[picture[..., 3] >= 128][:, :3])
    facts = views.facts
    numbers = [facts.get("scale", 1.0), *facts.get("centre", [0.0])]
    return Measures(
        fullest=float(coverage.max()),
        emptiest=float(coverage.min()),
        clipped=float(np.mean([_touches_border(picture) for picture in rgba])),
        pink=colours.pink_part(),
        colour_std=colours.std(),
        colours=colours.count(),
        brightness=colours.brightness(),
        distinct_views=len(seen),
        targets=len(rgba),
        triangles=facts.get("triangles"),
        finite=all(isinstance(number, int | float) and math.isfinite(number) for number in numbers),
    )


def faults(measures: Measures, config: GateConfig) -> Iterator[tuple[str, str]]:
    """Reason and detail of every gate that the object does not pass, the plainest first."""
    m = measures
    if m.fullest < config.min_coverage:
        yield "blank", f"the fullest view covers {m.fullest:.4%} of the picture"
        return
    if not m.finite or (m.triangles is not None and m.triangles < config.min_triangles):
        yield "degenerate", f"{m.triangles} triangles" + ("" if m.finite else ", a scale or centre that is not finite")
    if m.clipped > config.max_clipped:
        yield "clipped", f"{m.clipped:.0%} of the views touch the border"
    if m.pink > config.max_pink:
        yield "missing_texture", f"{m.pink:.0%} of the object has the pink of a missing texture"
    if m.distinct_views < min(config.min_distinct_views, m.targets):
        yield "too_few_distinct_views", f"{m.distinct_views} of {m.targets} views differ and show something"
    if m.colour_std < config.min_colour_std and m.colours <= config.max_plain_colours:
        if m.brightness < config.min_brightness:
            yield "near_uniform", f"all black: brightness {m.brightness:.3f}, deviation {m.colour_std:.4f}"
        elif m.emptiest < config.min_thickness * m.fullest:
            yield "near_uniform", f"a card of one colour: coverage {m.emptiest:.4f} to {m.fullest:.4f}, deviation {m.colour_std:.4f}"


def _touches_border(picture: np.ndarray) -> bool:
    opaque = picture[..., 3] >= 128
    return bool(opaque[[0, -1]].any() or opaque[:, [0, -1]].any())


class _Colours:
    """Sums over the pixels of an object."""

    def __init__(self) -> None:
        self._pixels = self._pink = 0
        self._sum, self._squares = np.zeros(3), np.zeros(3)
        self._histogram = np.zeros(1 << 3 * (8 - COLOUR_SHIFT), np.int64)

    def add(self, rgb: np.ndarray) -> None:
        """uint8 `[N, 3]`."""
        values = rgb.astype(np.int32)
        red, green, blue = values.T
        self._pixels += len(rgb)
        self._pink += int(((red >= PINK_LEVEL) & (np.abs(red - blue) <= PINK_SLACK) & (red - green >= PINK_GAP)).sum())
        self._sum += values.sum(0)
        self._squares += (values.astype(np.float64) ** 2).sum(0)
        bits = 8 - COLOUR_SHIFT
        code = ((red >> COLOUR_SHIFT) << 2 * bits) | ((green >> COLOUR_SHIFT) << bits) | (blue >> COLOUR_SHIFT)
        self._histogram += np.bincount(code, minlength=len(self._histogram))

    def pink_part(self) -> float:
        return self._pink / max(self._pixels, 1)

    def std(self) -> float:
        """Largest standard deviation of a channel."""
        mean = self._sum / max(self._pixels, 1)
        return float(np.sqrt(np.maximum(self._squares / max(self._pixels, 1) - mean**2, 0)).max() / 255.0)

    def brightness(self) -> float:
        return float(self._sum.mean() / max(self._pixels, 1) / 255.0)

    def count(self) -> int:
        return int((self._histogram > COLOUR_SHARE * self._pixels).sum())
