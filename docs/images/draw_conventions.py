"""Draws conventions.svg with the project's own cameras, so that the picture cannot disagree with the code.

python docs/images/draw_conventions.py > docs/images/conventions.svg
"""

import numpy as np

from rendering.cameras import Camera, orbit

WIDTH, HEIGHT, PANEL = 860, 400, 430
X, Y, Z, GREY, BLUE = "#c0392b", "#2e8b57", "#2563a8", "#888888", "#1f4e79"
VIEWER = orbit(-32, 26, 5.6, 32)


def at(*points) -> np.ndarray:
    """World points -> places in the left panel."""
    return VIEWER.project(np.array(points, float))[0][0] * [PANEL, PANEL] + [0, 0]


def line(points, colour: str, width: float = 1.5, arrow: bool = False, dash: str = "", fill: str = "none") -> str:
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    extra = (f' marker-end="url(#{colour[1:]})"' if arrow else "") + (f' stroke-dasharray="{dash}"' if dash else "")
    return f'<polyline points="{path}" fill="{fill}" stroke="{colour}" stroke-width="{width}"{extra}/>'


def text(place, words: str, colour: str = "#222222", size: int = 13, anchor: str = "middle") -> str:
    return f'<text x="{place[0]:.1f}" y="{place[1]:.1f}" fill="{colour}" font-size="{size}" text-anchor="{anchor}">{words}</text>'


def frustum(camera: Camera, depth: float) -> list[str]:
    """The camera as a pyramid."""
    (fx, fy, cx, cy), (right, down, forward, centre) = camera.intrinsics[0], camera.c2w[0, :3].T
    corners = [
        centre + depth * (forward + (u - cx) / fx * right + (v - cy) / fy * down) for u, v in ((0, 0), (1, 0), (1, 1), (0, 1), (0, 0))
    ]
    parts = [line(at(*corners), BLUE, fill="#1f4e7918")]
    return parts + [line(at(centre, corner), BLUE, 1) for corner in corners[:4]]


def world() -> list[str]:
    """Left: the world's axes, the object's box, one camera with its azimuth and elevation."""
    azimuth, elevation, radius = 48.0, 38.0, 1.5
    camera = orbit(azimuth, elevation, radius, 44)
    centre = camera.position[0]
    turn = np.linspace(0, 360, 73)
    ring = orbit(turn, 0, 1.0, 60).position
    parts = [line(at(*ring), GREY, 1, dash="3 3")]
    box = np.array([(x, y, z) for x in (-0.5, 0.5) for y in (-0.3, 0.3) for z in (-0.25, 0.25)])
    edges = [(a, b) for a in range(8) for b in range(a) if np.isclose(np.abs(box[a] - box[b]).astype(bool).sum(), 1)]
    parts += [line(at(box[a], box[b]), "#bbbbbb", 1.2) for a, b in edges]
    for axis, colour, name in (((1.3, 0, 0), X, "+X"), ((0, 1.4, 0), Y, "+Y"), ((0, 0, 1.15), Z, "+Z up")):
        parts.append(line(at((0, 0, 0), axis), colour, 2, arrow=True))
        parts.append(text(at(np.array(axis) * 1.09)[0] + [0, 4], name, colour))
    for degrees, name, shift in ((0, "azimuth 0: front, -Y", (20, 14)), (90, "90", (-14, 0)), (180, "180", (20, 2)), (270, "270", (0, 14))):
        place = orbit(degrees, 0, 1.0, 60).position[0]
        spot = at(place)[0]
        parts.append(f'<circle cx="{spot[0]:.1f}" cy="{spot[1]:.1f}" r="3" fill="{GREY}"/>')
        parts.append(text(at(place * 1.08)[0] + shift, name, GREY, 12))
    foot = orbit(azimuth, 0, radius * np.cos(np.radians(elevation)), 60).position[0]
    parts += [
        line(at((0, 0, 0), foot), BLUE, 1, dash="4 3"),
        line(at(foot, centre), BLUE, 1, dash="4 3"),
        line(at((0, 0, 0), centre), BLUE, 1.5),
    ]
    parts.append(line(at(*orbit(np.linspace(0, azimuth, 20), 0, 0.62, 60).position), "#b8651b", 2, arrow=True))
    parts.append(text(at(orbit(azimuth / 2, 0, 0.75, 60).position[0])[0] + [0, 12], "azimuth", "#b8651b"))
    parts.append(line(at(*orbit(azimuth, np.linspace(0, elevation, 20), 0.8, 60).position), "#7b3fa0", 2, arrow=True))
    parts.append(text(at(orbit(azimuth, elevation / 4, 0.8, 60).position[0])[0] + [5, 6], "elevation", "#7b3fa0", anchor="start"))
    parts.append(text(at(centre * 0.6)[0] + [-6, -8], "radius", BLUE, anchor="end"))
    return parts + frustum(camera, 0.3)


def image() -> list[str]:
    """Right: the camera's axes and the picture's coordinates, seen from behind the camera."""
    left, top, side = PANEL + 95.0, 92.0, 240.0
    cell = side / 8
    parts = [f'<rect x="{left}" y="{top}" width="{side}" height="{side}" fill="#1f4e7910" stroke="{BLUE}"/>']
    for k in range(1, 8):
        parts.append(line([(left + k * cell, top), (left + k * cell, top + side)], "#d5dde5", 1))
        parts.append(line([(left, top + k * cell), (left + side, top + k * cell)], "#d5dde5", 1))
    middle = np.array([left + side / 2, top + side / 2])
    parts += [
        line([middle, middle + [92, 0]], X, 2, arrow=True),
        text(middle + [68, -8], "+x right", X),
        line([middle, middle + [0, 92]], Y, 2, arrow=True),
        text(middle + [8, 88], "+y down", Y, anchor="start"),
        f'<circle cx="{middle[0]}" cy="{middle[1]}" r="7" fill="white" stroke="{Z}" stroke-width="2"/>',
        f'<path d="M{middle[0] - 4.5} {middle[1] - 4.5} l9 9 m0 -9 l-9 9" stroke="{Z}" stroke-width="2"/>',
        text(middle + [-10, -12], "+z forward", Z, anchor="end"),
        text((left + side / 2, top - 40), "camera (OpenCV), seen from behind it", size=14),
        text((left - 6, top - 6), "(0, 0)", GREY, 12, "end"),
        text((left + side, top - 6), "(1, 0) = (W, 0) px", GREY, 12),
        text((left - 6, top + side + 14), "(0, 1)", GREY, 12, "end"),
        text((left + side, top + side + 16), "(1, 1)", GREY, 12),
        f'<circle cx="{left + cell / 2}" cy="{top + cell / 2}" r="3" fill="{BLUE}"/>',
        text((left + cell + 4, top + cell / 2 + 4), "first pixel: centre (0.5, 0.5) px", BLUE, 12, "start"),
        text((left + side / 2, top + side + 44), "x px = W (fx x / z + cx)", size=13),
        text((left + side / 2, top + side + 62), "y px = H (fy y / z + cy),  fx = 0.5 / tan(fov / 2)", size=13),
    ]
    return parts


def markers() -> str:
    shape = 'viewBox="0 0 8 8" refX="6" refY="4" markerWidth="6" markerHeight="6" orient="auto"'
    colours = (X, Y, Z, "#b8651b", "#7b3fa0")
    return "".join(f'<marker id="{c[1:]}" {shape}><path d="M0 0 L8 4 L0 8 z" fill="{c}"/></marker>' for c in colours)


def drawing() -> str:
    """The whole SVG."""
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif">'
    parts = [head, f"<defs>{markers()}</defs>", f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>', *world(), *image(), "</svg>"]
    return "\n".join(parts) + "\n"


if __name__ == "__main__":
    print(drawing(), end="")
