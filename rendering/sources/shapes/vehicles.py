"""Toy cars, rockets and sailing boats; all look to the front (+Z)."""

import numpy as np

from rendering.sources.shapes.draw import Draw
from rendering.sources.shapes.paint import Paint, decorate
from rendering.sources.shapes.parts import Part, ball, box, lathe, loft, rod, tube, wedge

RUBBER = (0.13, 0.13, 0.15)
GLASS = (0.55, 0.75, 0.85)


def car(draw: Draw) -> list[Part]:
    """A toy car: body, cabin with windows, four wheels, lights; the load or spare wheel sits off the middle."""
    colours = draw.palette()
    width, length = draw.number("width", 0.8, 1.1), draw.number("length", 1.7, 2.4)
    low, tall = draw.number("body_height", 0.35, 0.55), draw.number("cabin_height", 0.35, 0.65)
    body = decorate(draw, "body", Paint(colours.front, colours.back), colours.accent, "all")
    body.patch("front", 0.25, 0.15, 0.75, 0.5, RUBBER)
    body.disc("front", 0.12, 0.65, 0.09, (0.95, 0.9, 0.5)).disc("front", 0.88, 0.65, 0.09, (0.95, 0.9, 0.5))
    body.patch("back", 0.03, 0.5, 0.2, 0.8, (0.8, 0.1, 0.1)).patch("back", 0.8, 0.5, 0.97, 0.8, (0.8, 0.1, 0.1))
    wheel = draw.number("wheel", 0.22, 0.34)
    parts = [box(width, low, length, body, top=0.94).moved(y=wheel * 0.7)]
    cabin = Paint(colours.front, colours.back)
    for face in ("left", "front", "right"):
        cabin.patch(face, 0.12, 0.25, 0.88, 0.85, GLASS)
    cabin.patch("back", 0.3, 0.4, 0.7, 0.75, RUBBER)
    start, end = draw.number("cabin_start", -0.45, -0.2, 5), draw.number("cabin_end", 0.05, 0.3, 5)
    slope = draw.number("slope", 0.05, 0.16, 4)
    outline = [(start * length, 0.0), (end * length, 0.0), ((end - slope) * length, tall), ((start + slope / 3) * length, tall)]
    parts.append(wedge(outline, width * 0.85, cabin).moved(y=wheel * 0.7 + low))
    tyre = Paint(RUBBER, RUBBER).band(0.0, 0.12, colours.accent).band(0.88, 1.0, colours.accent)
    for side in (-1, 1):
        parts += [
            rod(wheel, 0.18, tyre, 20).moved(y=-0.09).rotated("z", 90).moved(side * width / 2, wheel, z * length) for z in (-0.3, 0.32)
        ]
    roof = wheel * 0.7 + low + tall
    load = draw.choice("load", ("none", "box", "sign", "ball"))
    trim = Paint(colours.accent, colours.trim)
    x, z = draw.side("load_side") * width * 0.18, (start + end) / 2 * length
    if load == "box":
        parts.append(box(width * 0.4, 0.25, length * 0.2, trim).moved(x, roof, z))
    elif load == "sign":
        parts.append(wedge([(-0.15, 0.0), (0.15, 0.0), (0.0, 0.3)], width * 0.4, trim).moved(x, roof, z))
    elif load == "ball":
        parts.append(ball(0.2, trim, 16, 10).moved(x, roof + 0.15, z))
    parts.append(rod(0.06, 0.3, Paint(RUBBER, RUBBER), 10).rotated("x", -90).moved(-x, wheel, -length / 2 + 0.1))
    return parts


def rocket(draw: Draw) -> list[Part]:
    """A rocket: painted hull, pointed nose, window and hatch at the front, three or four fins, one side booster."""
    colours = draw.palette()
    radius, height = draw.number("radius", 0.3, 0.5), draw.number("height", 1.2, 2.0)
    hull = Paint(colours.front, colours.back)
    decorate(draw, "hull", hull, colours.accent, "front")
    decorate(draw, "hull", hull, colours.trim, "back")
    hull.disc("front", 0.5, 0.66, 0.3, RUBBER, aspect=2.2).disc("front", 0.5, 0.66, 0.2, GLASS, aspect=2.2)
    belly = draw.number("belly", 1.0, 1.3, 5)
    at = np.linspace(0, 1, 9)
    profile = [(radius * (0.75 + (belly - 0.75) * np.sin(np.pi * min(a * 0.9 + 0.05, 1))), height * a) for a in at]
    parts = [lathe(profile, hull)]
    nose, tip = draw.number("nose", 0.4, 0.9), profile[-1][0]
    power = draw.choice("nose_power", (0.6, 1.0, 1.4))
    curve = [(tip * float(np.cos(a)) ** power, height + nose * float(np.sin(a))) for a in np.linspace(0, np.pi / 2, 8)]
    parts.append(lathe(curve, Paint(colours.accent, colours.trim)))
    parts.append(lathe([(radius * 0.75, -0.25), (radius * 0.4, 0.05)], Paint(RUBBER, (0.35, 0.3, 0.3))))
    fins, span, drop = draw.whole("fins", 3, 4), draw.number("fin_span", 0.35, 0.6), draw.number("fin_drop", 0.1, 0.4, 6)
    fin = wedge(
        [(radius * 0.5, 0.05), (radius * 0.5 + span, -drop), (radius * 0.5 + span, 0.15 - drop), (radius * 0.6, height * 0.4)],
        0.08,
        Paint(colours.accent, colours.trim),
    )
    turn = draw.choice("fin_turn_deg", (0, 20, 45))
    parts += [fin.rotated("y", turn + 360 * i / fins) for i in range(fins)]
    if draw.chance("has_booster"):
        side = draw.side("booster_side") * (radius * belly + 0.08)
        booster = Paint(colours.back, colours.front)
        parts.append(lathe([(0.16, 0.0), (0.16, height * 0.5), (0.02, height * 0.65)], booster, 16).moved(x=side))
    parts.append(
        box(radius * 0.5, height * 0.18, 0.12, Paint(colours.accent, colours.trim)).moved(
            draw.number("hatch_x", -0.12, 0.12, 5), height * 0.2, radius * 0.95
        )
    )
    return parts


def _hull_ring(width: float, length: float, y: float, count: int = 24) -> np.ndarray:
    """A boat's outline at one height: pointed at the front, blunt at the back."""
    angle = np.radians(135) + 2 * np.pi * np.arange(count) / count
    x, z = np.sin(angle), np.cos(angle)
    taper = np.where(z > 0, 1 - z**2 * 0.85, 1.0)
    return np.column_stack([x * width / 2 * taper, np.full(count, y), np.where(z > 0, z, z * 0.85) * length / 2])


def sailboat(draw: Draw) -> list[Part]:
    """A boat with a cabin, a mast and one or two sails; sail, flag and cabin sit off the middle."""
    colours = draw.palette()
    width, length, height = draw.number("width", 0.6, 0.9), draw.number("length", 1.5, 2.2), draw.number("height", 0.35, 0.55)
    hull = decorate(draw, "hull", Paint(colours.front, colours.back), colours.accent, "front").band(0.55, 0.7, colours.trim, "back")
    rings = [_hull_ring(width * a, length * (0.75 + 0.25 * a), height * b) for a, b in ((0.35, 0.0), (0.75, 0.3), (0.95, 0.7), (1.0, 1.0))]
    parts = [loft(np.stack(rings), hull)]
    mast = draw.number("mast", 1.3, 2.1)
    wood = Paint((0.55, 0.36, 0.2), (0.4, 0.25, 0.15))
    parts.append(rod(0.05, mast, wood, 10).moved(y=height * 0.8))
    sail = Paint(colours.front, colours.back)
    decorate(draw, "sail", sail, colours.accent, "front")
    decorate(draw, "sail", sail, colours.trim, "back")
    side, boom = draw.side("sail_side"), draw.number("boom", 0.55, 0.95)
    parts.append(_sail(side * 0.04, side * boom, 0.15, mast * 0.92, sail).moved(y=height))
    if draw.chance("has_jib"):
        jib = Paint(colours.accent, colours.trim)
        parts.append(_sail(-side * 0.04, -side * boom * 0.6, 0.2, mast * 0.6, jib).moved(y=height, z=0.05))
    parts.append(
        box(
            width * 0.5,
            draw.number("cabin", 0.2, 0.4, 6),
            length * 0.22,
            Paint(colours.trim, colours.accent).patch("front", 0.2, 0.3, 0.8, 0.8, GLASS),
        ).moved(-side * 0.05, height, -length * 0.22)
    )
    parts.append(box(0.3, 0.16, 0.05, Paint(colours.accent, colours.trim)).moved(draw.side("flag_side") * 0.18, height * 0.8 + mast - 0.16))
    return parts


def _sail(mast_x: float, free_x: float, low: float, high: float, paint: Paint) -> Part:
    """A thin cloth in the plane of x and y: from the mast along the boom to `free_x`, narrowing upwards along the mast."""
    left, right = min(mast_x, free_x), max(mast_x, free_x)
    tip_left, tip_right = (left, left + 0.06) if mast_x < free_x else (right - 0.06, right)
    # Rings start at the back right and run over left and front, as `loft` wants.
    rings = [[(b, y, -0.03), (a, y, -0.03), (a, y, 0.03), (b, y, 0.03)] for a, b, y in ((left, right, low), (tip_left, tip_right, high))]
    return loft(np.array(rings), paint)


def train(draw: Draw) -> list[Part]:
    """A toy locomotive: boiler towards the front, cab at the back, chimney, wheels, a lamp off the middle."""
    colours = draw.palette()
    length, radius = draw.number("length", 1.0, 1.5), draw.number("radius", 0.28, 0.42)
    boiler = decorate(draw, "boiler", Paint(colours.front, colours.front), colours.accent, "all")
    base = 0.35
    parts = [rod(radius, length, boiler, 24).rotated("x", 90).moved(y=base + radius, z=-length * 0.3)]
    parts.append(
        lathe([(radius * 0.8, 0.0), (radius * 0.6, 0.1)], Paint(colours.accent, colours.accent), 24)
        .rotated("x", 90)
        .moved(y=base + radius, z=length * 0.7)
    )
    frame = Paint(colours.trim, colours.back)
    parts.append(box(radius * 2, 0.2, length * 1.7, frame).moved(y=base - 0.18))
    cab = Paint(colours.front, colours.back)
    decorate(draw, "cab", cab, colours.trim, "back")
    cab.patch("left", 0.2, 0.5, 0.8, 0.85, GLASS).patch("right", 0.2, 0.5, 0.8, 0.85, GLASS)
    tall = draw.number("cab_height", 0.9, 1.3)
    parts.append(box(radius * 2.2, tall, length * 0.5, cab).moved(y=base, z=-length * 0.55))
    parts.append(box(radius * 2.6, 0.09, length * 0.62, Paint(colours.accent, colours.trim)).moved(y=base + tall, z=-length * 0.55))
    flue = draw.number("chimney", 0.3, 0.6)
    parts.append(
        lathe([(0.1, 0), (0.1, flue * 0.6), (draw.number("chimney_top", 0.12, 0.24, 5), flue)], Paint(colours.back, RUBBER), 16).moved(
            y=base + radius * 1.9, z=length * 0.5
        )
    )
    wheel = Paint(RUBBER, RUBBER).band(0.0, 0.15, colours.accent).band(0.85, 1.0, colours.accent)
    count = draw.whole("axles", 2, 3)
    for side in (-1, 1):
        parts += [
            rod(0.22, 0.1, wheel, 18).moved(y=-0.05).rotated("z", 90).moved(side * radius, 0.22, length * (1.1 * i / (count - 1) - 0.6))
            for i in range(count)
        ]
    parts.append(
        ball(0.12, Paint((0.95, 0.85, 0.4), colours.trim), 14, 8).moved(
            draw.side("lamp_side") * radius * 0.6, base + radius * 1.9, length * 0.68
        )
    )
    bumper = np.column_stack([np.linspace(-radius, radius, 5), np.full(5, base - 0.1), np.zeros(5)])
    parts.append(tube(bumper, 0.06, Paint(colours.accent, colours.accent)).moved(z=length * 0.87))
    return parts
