"""Vases and mugs: hollow solids of revolution with asymmetric handles."""

import numpy as np

from rendering.sources.shapes.draw import Draw, Palette
from rendering.sources.shapes.paint import Paint, decorate
from rendering.sources.shapes.parts import Part, ball, lathe, tube


def _surface(draw: Draw, name: str, colours: Palette) -> Paint:
    paint = Paint(colours.front, colours.back, wave=draw.choice(f"{name}_wave", (0.0, 0.0, 0.03, 0.06)))
    decorate(draw, name, paint, colours.accent, "front")
    return decorate(draw, name, paint, colours.trim, "back")


def _handle(paint: Paint, x: float, low: float, high: float, reach: float, radius: float) -> Part:
    """A half ring on the right (+X) of a body of half-width `x`, between two heights."""
    angle = np.linspace(-np.pi / 2, np.pi / 2, 13)
    path = np.column_stack([x + reach * np.cos(angle), (low + high) / 2 + (high - low) / 2 * np.sin(angle), np.zeros(13)])
    return tube(path, radius, paint)


def vase(draw: Draw) -> list[Part]:
    """A hollow turned vase, round or with flat sides, perhaps with one handle, and a knob on its front."""
    colours = draw.palette()
    paint = _surface(draw, "body", colours)
    height = draw.number("height", 1.2, 2.2)
    foot, belly = draw.number("foot", 0.25, 0.5), draw.number("belly", 0.5, 0.85)
    neck, lip = draw.number("neck", 0.18, 0.4), draw.number("lip", 0.25, 0.6)
    belly_at, neck_at = draw.number("belly_at", 0.25, 0.5), draw.number("neck_at", 0.7, 0.85)
    knots = np.array([[0, foot], [belly_at, belly], [neck_at, neck], [1, lip]])
    at = np.linspace(0, 1, 15)
    # Cosine steps between the knots give a smooth curve that never leaves their range.
    piece = np.clip(np.searchsorted(knots[:, 0], at, side="right") - 1, 0, 2)
    local = (at - knots[piece, 0]) / (knots[piece + 1, 0] - knots[piece, 0])
    radius = knots[piece, 1] + (knots[piece + 1, 1] - knots[piece, 1]) * (1 - np.cos(np.pi * local)) / 2
    outer = list(zip(radius, at * height, strict=True))
    inner = [(max(r - 0.07, 0.04), y) for r, y in outer[:1:-2]]
    parts = [lathe(outer + inner, paint, draw.choice("sides", (28, 28, 28, 6, 8)))]
    trim = Paint(colours.accent, colours.trim)
    if draw.chance("has_handle"):
        parts.append(
            _handle(trim, neck * 0.9, height * 0.45, height * 0.88, draw.number("reach", 0.35, 0.55), 0.06).rotated(
                "y", 0 if draw.chance("handle_right") else 180
            )
        )
    knob = ball(draw.number("knob", 0.1, 0.22), trim, 16, 8)
    parts.append(knob.moved(draw.number("knob_x", -0.2, 0.2), belly_at * height, belly * 0.95))
    return parts


def mug(draw: Draw) -> list[Part]:
    """A hollow mug with one handle, a badge on the front, sometimes a liquid inside."""
    colours = draw.palette()
    paint = _surface(draw, "body", colours)
    height, foot, rim = draw.number("height", 0.9, 1.5), draw.number("foot", 0.4, 0.6), draw.number("rim", 0.5, 0.7)
    paint.disc("front", draw.number("badge_x", 0.3, 0.7), 0.25, draw.number("badge", 0.15, 0.35), colours.accent, aspect=2.6)
    paint.patch("back", 0.2, 0.1, draw.number("label_end", 0.5, 0.8), 0.4, colours.trim)
    profile = [(foot * 0.9, 0.0), (foot, 0.06), (rim, height), (rim - 0.08, height), (foot - 0.06, 0.1)]
    parts = [lathe(profile, paint, draw.choice("sides", (28, 28, 28, 8)))]
    trim = Paint(colours.accent, colours.trim)
    side = 0.0 if draw.chance("handle_right") else 180.0
    grip = _handle(trim, foot * 0.55 + rim * 0.4, height * 0.2, height * 0.85, draw.number("reach", 0.3, 0.5), 0.08)
    parts.append(grip.rotated("y", side + draw.number("handle_turn_deg", -35, 35, 8)))
    if draw.chance("has_drink"):
        inside = foot - 0.07 + (rim - foot) * 0.75
        parts.append(lathe([(foot - 0.07, 0.12), (inside, height * 0.75)], Paint(colours.trim, colours.accent)))
    if draw.chance("has_spoon"):
        stick = np.column_stack([np.linspace(0.0, 0.35, 6), np.linspace(0.15, height * 1.35, 6), np.zeros(6)])
        parts.append(tube(stick, 0.04, Paint((0.45, 0.45, 0.5), (0.3, 0.3, 0.35))).rotated("y", draw.number("spoon_deg", 0, 300, 6)))
    return parts


def teapot(draw: Draw) -> list[Part]:
    """A squat pot with a spout on one side, a handle on the other and a lid with a knob."""
    colours = draw.palette()
    paint = _surface(draw, "body", colours)
    width, height = draw.number("width", 0.65, 0.95), draw.number("height", 0.8, 1.2)
    angle = np.linspace(-1.1, 1.2, 12)
    body = [(width * np.cos(a), height / 2 + height / 2 * np.sin(a)) for a in angle]
    parts = [lathe(body, paint, draw.choice("sides", (28, 28, 10)))]
    trim = Paint(colours.accent, colours.trim)
    side = draw.side("spout_side")
    bend = np.linspace(0, 1, 9)
    spout = np.column_stack([width * 0.75 + 0.55 * bend, height * (0.35 + 0.6 * bend ** draw.number("bend", 1.0, 2.2, 5)), np.zeros(9)])
    parts.append(tube(spout, 0.1, trim).rotated("y", 0 if side > 0 else 180))
    parts.append(
        _handle(trim, width * 0.8, height * 0.25, height * 0.8, draw.number("reach", 0.3, 0.45), 0.06).rotated("y", 180 if side > 0 else 0)
    )
    top = height / 2 + height / 2 * np.sin(1.2)
    lid = draw.number("lid", 0.3, 0.45)
    parts.append(lathe([(lid, top - 0.05), (lid, top + 0.04), (0.1, top + 0.15)], Paint(colours.back, colours.front)))
    parts.append(ball(0.1, trim, 14, 8).moved(y=top + 0.2))
    badge = draw.number("badge", 0.14, 0.26)
    parts.append(ball(1.0, trim, 16, 8).scaled(badge, badge, 0.08).moved(y=height / 2, z=width * 0.97))
    return parts
