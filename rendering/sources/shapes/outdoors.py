"""Houses, trees, mushrooms, and figures that stand among them."""

import numpy as np

from rendering.sources.shapes.draw import Draw
from rendering.sources.shapes.paint import Paint, decorate
from rendering.sources.shapes.parts import Part, ball, box, lathe, rod, tube, wedge

GLASS = (0.55, 0.75, 0.85)


def house(draw: Draw) -> list[Part]:
    """A house: door and windows at the front, other windows behind, gable roof, chimney and annex on one side."""
    colours = draw.palette()
    width, depth, height = draw.number("width", 1.1, 1.6), draw.number("depth", 1.0, 1.4), draw.number("height", 0.8, 1.4)
    walls = Paint(colours.front, colours.back)
    decorate(draw, "walls", walls, colours.trim, "back")
    door = draw.number("door_x", 0.1, 0.6, 6)
    walls.patch("front", door, 0.0, door + 0.24, 0.6, colours.accent).disc("front", door + 0.2, 0.3, 0.025, (0.9, 0.8, 0.3))
    window = 0.65 if door < 0.35 else 0.08
    walls.patch("front", window, 0.45, window + 0.26, 0.8, GLASS).patch("back", 0.35, 0.5, 0.65, 0.8, GLASS)
    walls.patch("left", 0.3, 0.4, 0.7, 0.75, GLASS)
    parts = [box(width, height, depth, walls)]
    roof = decorate(draw, "roof", Paint(colours.accent, colours.trim), colours.back, "front")
    rise, eaves = draw.number("rise", 0.4, 0.9), 0.12
    gable = wedge(
        [(-depth / 2 - eaves, 0.0), (depth / 2 + eaves, 0.0), (depth * draw.number("ridge", -0.25, 0.25, 5), rise)], width + 2 * eaves, roof
    )
    parts.append(gable.moved(y=height))
    side = draw.side("chimney_side")
    parts.append(
        box(0.22, draw.number("chimney", 0.6, 1.0, 6), 0.22, Paint((0.6, 0.3, 0.22), (0.4, 0.2, 0.16)).rings(4, (0.75, 0.5, 0.4))).moved(
            side * width * 0.28, height + rise * 0.15, -depth * 0.2
        )
    )
    if draw.chance("has_annex"):
        annex = Paint(colours.trim, colours.accent).patch("front", 0.25, 0.0, 0.75, 0.65, colours.back)
        parts.append(box(width * 0.45, height * 0.6, depth * 0.7, annex).moved(-side * width * 0.7, 0, 0.08))
        parts.append(
            wedge([(-depth * 0.4, 0.0), (depth * 0.45, 0.0), (0.0, 0.3)], width * 0.5, roof).moved(-side * width * 0.7, height * 0.6, 0.08)
        )
    parts.append(box(0.34, 0.08, 0.25, Paint(colours.trim, colours.trim)).moved(width * (door + 0.12 - 0.5), 0, depth / 2 + 0.1))
    return parts


def tree(draw: Draw) -> list[Part]:
    """A tree: bent trunk, a crown of balls or cones in seasonal two-tone paint, fruit in front, one bare branch."""
    colours = draw.palette()
    bark = Paint((0.5, 0.33, 0.2), (0.32, 0.2, 0.12)).rings(7, (0.42, 0.27, 0.16))
    height, lean = draw.number("trunk", 0.7, 1.3), draw.number("lean", -0.3, 0.3, 7)
    at = np.linspace(0, 1, 10)
    parts = [tube(np.column_stack([lean * at**2, height * at, np.zeros(10)]), draw.number("trunk_radius", 0.1, 0.18, 6), bark)]
    leaves = decorate(draw, "leaves", Paint(colours.front, colours.back, wave=0.04), colours.accent, "front")
    decorate(draw, "leaves", leaves, colours.trim, "back")
    crown = draw.number("crown", 0.5, 0.8)
    if draw.choice("kind", ("cones", "balls")) == "cones":
        layers = draw.whole("layers", 2, 4)
        for i in range(layers):
            size = crown * (1 - 0.2 * i)
            parts.append(
                lathe([(size * 0.5, 0.0), (size, 0.02), (0.02, size * 1.2)], leaves, draw.choice(f"sides_{i}", (24, 6))).moved(
                    lean, height * 0.7 + 0.45 * i * crown
                )
            )
        middle, reach = height * 0.7 + 0.2 * crown, 0.8 * crown
    else:
        for i in range(draw.whole("balls", 3, 5)):
            turn = 2.4 * i + draw.number(f"turn_{i}", 0, 1.5, 4)
            where = np.array([np.sin(turn), 0.0, np.cos(turn)]) * crown * (0.55 if i else 0.0)
            size = crown * draw.number(f"size_{i}", 0.55, 0.95, 4)
            parts.append(ball(size, leaves, 20, 10).moved(lean + where[0], height + 0.25 * crown * (i % 3), where[2]))
        middle, reach = height, 0.75 * crown
    fruit = Paint(colours.accent, colours.trim)
    for i in range(draw.whole("fruit", 2, 5)):
        turn = np.radians(draw.number(f"fruit_turn_{i}_deg", -60, 60, 7))
        where = np.array([lean + reach * np.sin(turn), middle + draw.number(f"fruit_y_{i}", -0.1, 0.15, 4), reach * np.cos(turn)])
        parts.append(ball(0.1, fruit, 10, 6).moved(*where))
    side = draw.side("branch_side")
    branch = np.column_stack([side * np.linspace(0, 0.7, 6), height * 0.4 + np.linspace(0, 0.35, 6), np.zeros(6)])
    parts.append(tube(branch, 0.05, bark, 8))
    return parts


def mushroom(draw: Draw) -> list[Part]:
    """A mushroom: stem, spotted cap that leans, a smaller one beside it, a stone in front."""
    colours = draw.palette()
    stem = Paint((0.9, 0.85, 0.7), colours.trim)
    cap = Paint(colours.front, colours.back)
    decorate(draw, "cap", cap, colours.accent, "front")
    decorate(draw, "cap", cap, colours.trim, "back")
    height, radius, size = draw.number("height", 0.7, 1.4), draw.number("stem", 0.16, 0.32), draw.number("cap", 0.6, 1.0)
    dome = draw.number("dome", 0.4, 0.95)

    def one(scale: float, tilt_deg: float, x: float, z: float) -> list[Part]:
        angle = np.linspace(0, np.pi / 2, 9)
        profile = [(size * 0.4, 0.08), (size, 0.0)] + [(size * float(np.cos(a)), dome * float(np.sin(a))) for a in angle[1:]]
        head = lathe(profile, cap, 26).rotated("z", tilt_deg).moved(y=height)
        foot = lathe([(radius * 1.4, 0.0), (radius, height * 0.35), (radius * 0.85, height + 0.15)], stem, 20)
        return [part.scaled(scale, scale, scale).moved(x=x, z=z) for part in (head, foot)]

    side = draw.side("young_side")
    parts = one(1.0, draw.number("tilt_deg", -18, 18, 7), 0.0, 0.0)
    parts += one(
        draw.number("young", 0.35, 0.6, 5),
        draw.number("young_tilt_deg", -25, 25, 7),
        side * size * 0.95,
        draw.number("young_z", -0.3, 0.4, 5),
    )
    stone = ball(draw.number("stone", 0.18, 0.34, 5), Paint(colours.accent, colours.trim), 10, 6).scaled(1.2, 0.7, 1.0)
    return [*parts, stone.moved(-side * 0.4, 0.12, 0.45)]


def robot(draw: Draw) -> list[Part]:
    """A robot: face and buttons at the front, a pack on its back, one arm raised, an antenna on one side."""
    colours = draw.palette()
    width, height, depth = draw.number("width", 0.7, 1.05), draw.number("height", 0.8, 1.2), draw.number("depth", 0.45, 0.65)
    body = decorate(draw, "body", Paint(colours.front, colours.back), colours.trim, "back")
    body.patch("front", 0.2, 0.4, 0.8, 0.85, colours.accent)
    for i in range(draw.whole("buttons", 1, 4)):
        body.disc("front", 0.22 + 0.18 * i, 0.22, 0.07, colours.back)
    legs, gap = draw.number("legs", 0.4, 0.7), width * 0.25
    limb = Paint(colours.accent, colours.trim)
    parts = [box(width, height, depth, body, top=draw.number("taper", 0.75, 1.15, 5)).moved(y=legs)]
    for sign in (-1, 1):
        parts += [
            rod(0.11, legs + 0.05, limb, 14).moved(x=sign * gap),
            box(0.3, 0.12, 0.42, Paint(colours.trim, colours.back)).moved(x=sign * gap, z=0.06),
        ]
    head = Paint(colours.front, colours.back)
    eye = draw.number("eye", 0.1, 0.17, 5)
    for x in (0.28, 0.72):
        head.disc("front", x, 0.62, eye, (0.95, 0.95, 0.85)).disc("front", x, 0.62, eye * 0.5, (0.1, 0.1, 0.12))
    head.patch("front", 0.25, 0.15, draw.number("mouth_end", 0.5, 0.8, 4), 0.28, (0.15, 0.1, 0.12))
    size = draw.number("head", 0.45, 0.75)
    shape = box(size, size * 0.8, size * 0.8, head) if draw.chance("square_head") else rod(size * 0.55, size * 0.8, head, 24)
    neck = legs + height
    parts += [rod(0.1, 0.15, limb, 12).moved(y=neck - 0.02), shape.moved(y=neck + 0.1)]
    side, reach, raised_deg = draw.side("raised_side"), draw.number("arm", 0.55, 0.85), draw.choice("raised_deg", (25, 50))
    for sign in (-1, 1):
        arm = (rod(0.09, reach, limb, 12), ball(0.14, Paint(colours.trim, colours.accent), 14, 8).moved(y=reach))
        turn_deg = -sign * (raised_deg if sign == side else 165)
        parts += [part.rotated("z", turn_deg).moved(sign * width * 0.5, legs + height * 0.85) for part in arm]
    parts.append(
        box(width * 0.6, height * 0.55, 0.22, Paint(colours.trim, colours.accent).checker(2, colours.front, "back")).moved(
            y=legs + height * 0.25, z=-depth / 2 - 0.08
        )
    )
    top, x = neck + 0.1 + size * 0.8, draw.side("aerial_side") * size * 0.25
    parts += [rod(0.03, 0.3, limb, 8).moved(x, top - 0.03), ball(0.09, Paint(colours.accent, colours.trim), 12, 8).moved(x, top + 0.3)]
    return parts
