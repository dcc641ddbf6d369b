"""Chairs, tables and lamps."""

import numpy as np

from rendering.sources.shapes.draw import Draw
from rendering.sources.shapes.paint import Paint, decorate
from rendering.sources.shapes.parts import Part, ball, box, lathe, rod, slab, tube, wedge


def _legs(draw: Draw, width: float, depth: float, height: float, paint: Paint) -> list[Part]:
    """Four legs under a rectangle, or one column on a foot."""
    thick = draw.number("leg_thickness", 0.06, 0.11, 6)
    if draw.choice("stand", ("legs", "legs", "legs", "column")) == "column":
        return [rod(thick * 1.2, height, paint), lathe([(width * 0.42, 0), (width * 0.42, 0.05), (thick, 0.12)], paint)]
    is_round = draw.chance("round_legs")
    leg = rod(thick * 0.7, height, paint, tip_radius=thick) if is_round else box(thick * 1.6, height, thick * 1.6, paint)
    x, z = width / 2 - thick, depth / 2 - thick
    return [leg.moved(sx * x, 0, sz * z) for sx in (-1, 1) for sz in (-1, 1)]


def chair(draw: Draw) -> list[Part]:
    """A chair that looks to the front: seat, back rest (whole or slats), perhaps one arm rest and a cushion."""
    colours = draw.palette()
    frame = Paint(colours.front, colours.back)
    width, depth = draw.number("width", 0.8, 1.1), draw.number("depth", 0.75, 1.0)
    seat_at, rest = draw.number("seat_at", 0.6, 0.9), draw.number("rest", 0.7, 1.3)
    parts = _legs(draw, width, depth, seat_at, frame)
    seat = decorate(draw, "seat", Paint(colours.front, colours.back), colours.accent, "all")
    parts.append(slab(width, 0.1, depth, seat).moved(y=seat_at))
    cloth = decorate(draw, "rest", Paint(colours.front, colours.back), colours.accent, "front")
    decorate(draw, "rest", cloth, colours.trim, "back")
    slats = draw.choice("slats", (0, 0, 3, 4))
    if slats:
        bar = box(width / slats * 0.6, rest, 0.08, cloth)
        parts += [bar.moved(width * ((i + 0.5) / slats - 0.5), seat_at + 0.1, -depth / 2 + 0.05) for i in range(slats)]
        parts.append(box(width, 0.16, 0.1, cloth).moved(y=seat_at + rest, z=-depth / 2 + 0.05))
    else:
        parts.append(
            box(width, rest, 0.1, cloth, top=draw.number("rest_top", 0.6, 1.0, 5), top_depth=1.0).moved(
                y=seat_at + 0.1, z=-depth / 2 + 0.05
            )
        )
    if draw.chance("has_arm"):
        side = draw.side("arm_side") * (width / 2 - 0.05)
        arm = Paint(colours.accent, colours.trim)
        parts += [
            box(0.1, 0.3, 0.1, arm).moved(side, seat_at + 0.1, depth / 2 - 0.1),
            box(0.12, 0.07, depth, arm).moved(side, seat_at + 0.4),
        ]
    if draw.chance("has_cushion"):
        parts.append(slab(width * 0.7, 0.12, depth * 0.6, Paint(colours.accent, colours.trim)).moved(y=seat_at + 0.1, z=0.05))
    return parts


def table(draw: Draw) -> list[Part]:
    """A table, round or rectangular, with a painted top, a drawer at the front and things standing on it."""
    colours = draw.palette()
    width, depth, height = draw.number("width", 1.3, 2.0), draw.number("depth", 0.9, 1.3), draw.number("height", 0.7, 1.1)
    top = decorate(draw, "top", Paint(colours.front, colours.back), colours.accent, "front")
    decorate(draw, "top", top, colours.trim, "back")
    parts = _legs(draw, width * 0.85, depth * 0.85, height, Paint(colours.front, colours.back))
    if draw.choice("shape", ("rectangle", "rectangle", "oval")) == "oval":
        disc = lathe([(0.5, 0.0), (0.5, 0.1)], top).scaled(width, 1, depth)
        parts.append(disc.moved(y=height))
    else:
        parts.append(slab(width, 0.1, depth, top).moved(y=height))
    apron = Paint(colours.front, colours.back)
    apron.patch("front", 0.1, 0.1, draw.number("drawer_end", 0.45, 0.9, 5), 0.9, colours.accent).disc("front", 0.3, 0.5, 0.06, colours.back)
    parts.append(box(width * 0.75, 0.28, depth * 0.7, apron).moved(y=height - 0.28))
    side = draw.side("things_side")
    parts.append(
        box(0.4, draw.number("books", 0.1, 0.3, 5), 0.3, Paint(colours.trim, colours.accent))
        .rotated("y", 20)
        .moved(side * width * 0.25, height + 0.1, depth * 0.12)
    )
    if draw.chance("has_pot"):
        pot = lathe([(0.1, 0), (0.18, 0.15), (0.12, 0.3), (0.16, 0.36)], Paint(colours.accent, colours.back), 16)
        parts.append(pot.moved(-side * width * 0.25, height + 0.1, -depth * 0.15))
        parts.append(ball(0.2, Paint((0.25, 0.6, 0.25), (0.12, 0.35, 0.2)), 12, 8).moved(-side * width * 0.25, height + 0.6, -depth * 0.15))
    return parts


def lamp(draw: Draw) -> list[Part]:
    """A lamp: foot, bent or straight stem, painted shade that may sit off the middle, a switch on the front."""
    colours = draw.palette()
    trim = Paint(colours.accent, colours.trim)
    base = draw.number("base", 0.35, 0.6)
    parts = [
        lathe(
            [(base, 0), (base, 0.08), (base * draw.number("base_top", 0.3, 0.8, 5), 0.2)],
            Paint(colours.front, colours.back),
            draw.choice("base_sides", (28, 28, 4, 6)),
        )
    ]
    height, lean = draw.number("height", 1.0, 1.9), draw.number("lean", -0.45, 0.45, 7)
    at = np.linspace(0, 1, 12)
    parts.append(tube(np.column_stack([lean * at**2, 0.1 + height * at, np.zeros(12)]), draw.number("stem", 0.05, 0.09, 5), trim))
    low, high, tall = draw.number("shade_low", 0.5, 0.85), draw.number("shade_high", 0.2, 0.6), draw.number("shade_height", 0.5, 0.9)
    shade = Paint(colours.front, colours.back, wave=draw.choice("wave", (0.0, 0.0, 0.05)))
    decorate(draw, "shade", shade, colours.accent, "front")
    decorate(draw, "shade", shade, colours.trim, "back")
    sides = draw.choice("shade_sides", (28, 28, 28, 6, 4))
    # A hollow shade: from its ceiling down inside, over the lower rim, and up outside to a closed top.
    parts.append(lathe([(0.05, tall - 0.1), (low - 0.06, 0.0), (low, 0.0), (high, tall)], shade, sides).moved(lean, height - tall * 0.4))
    parts.append(ball(0.08, trim, 12, 8).moved(0.0, 0.12, base * 0.8))
    if draw.chance("has_chain"):
        parts.append(rod(0.03, tall * 0.7, trim, 8).moved(lean + draw.side("chain_side") * low * 0.5, height - tall * 0.9, low * 0.5))
    return parts


def bookshelf(draw: Draw) -> list[Part]:
    """An open shelf: closed painted back, boards, books of many colours seen only from the front."""
    colours = draw.palette()
    width, height, depth = draw.number("width", 0.9, 1.5), draw.number("height", 1.2, 2.1), draw.number("depth", 0.35, 0.55)
    frame = Paint(colours.front, colours.back)
    back = decorate(draw, "panel", Paint(colours.trim, colours.back), colours.accent, "back")
    parts = [box(width, height, 0.06, back).moved(z=-depth / 2 + 0.02)]
    parts += [box(0.07, height, depth, frame).moved(x=sign * (width / 2 - 0.035)) for sign in (-1, 1)]
    rows = draw.whole("rows", 2, 4)
    parts += [box(width, 0.07, depth, frame).moved(y=(height - 0.07) * i / rows) for i in range(rows + 1)]
    books = [Paint(c, c) for c in (colours.accent, colours.trim, colours.back, (0.75, 0.2, 0.15), (0.15, 0.3, 0.55))]
    room = height / rows - 0.14
    for row in range(rows):
        filled = draw.whole(f"books_{row}", 2, 8)
        start = 0 if draw.chance(f"left_{row}") else 8 - filled
        for slot in range(start, start + filled):
            tall = room * (0.65 + 0.3 * ((slot * 37 + row * 17) % 10) / 10)
            x = -width / 2 + 0.09 + (width - 0.18) * (slot + 0.5) / 8
            parts.append(
                box((width - 0.18) / 8 * 0.9, tall, depth * 0.75, books[(slot + 2 * row) % 5]).moved(x, height * row / rows + 0.06, 0.02)
            )
    if draw.chance("has_roof"):
        outline = [(-depth / 2, 0.0), (depth / 2, 0.0), (0.0, 0.25)]
        parts.append(wedge(outline, width, Paint(colours.accent, colours.trim)).moved(y=height))
    return parts
