"""The objects of `mvforge bench mesh` as GLB files: Blender's monkey, a checkered cube, a thick bowl, a torus knot.

They stand for a detailed shape that no box or sphere resembles, flat faces that no camera sees edge-on, a hollow that no
silhouette shows, and thin parts that hide each other. All are painted, because photometry needs something to see.
"""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import trimesh

from evaluation.mesh_io import glb_bytes
from infra.errors import UserError
from infra.storage import Location
from rendering.view_set import Mesh

# The monkey exists only inside Blender, which stays in a process of its own (GPL). It goes as raw numbers, Z up.
_MONKEY_PROGRAM = """
import sys
import bpy, numpy as np
bpy.ops.wm.read_factory_settings(use_empty=True)
bpy.ops.mesh.primitive_monkey_add()
bpy.context.object.modifiers.new("", "SUBSURF").levels = 2
mesh = bpy.context.object.evaluated_get(bpy.context.evaluated_depsgraph_get()).to_mesh()
mesh.calc_loop_triangles()
vertices = np.array([vertex.co for vertex in mesh.vertices], "f4")
np.savez(sys.argv[1], vertices=vertices, faces=np.array([triangle.vertices for triangle in mesh.loop_triangles], "i4"))
"""
_MONKEY_DEADLINE_S = 120


def write_object(name: str, path: Path) -> None:
    """Write the object `name` of `OBJECTS` as GLB. Raises UserError for an unknown name, and where Blender fails."""
    if name not in OBJECTS:
        raise UserError(f"there is no bench object '{name}'", f"choose from {', '.join(OBJECTS)}")
    mesh, colors = OBJECTS[name](path.parent)
    Location(str(path.absolute())).write_bytes(glb_bytes(mesh, colors))


def _monkey(folder: Path) -> tuple[Mesh, np.ndarray]:
    place = folder / "monkey.npz"
    try:
        subprocess.run(
            [sys.executable, "-c", _MONKEY_PROGRAM, str(place)], check=True, capture_output=True, text=True, timeout=_MONKEY_DEADLINE_S
        )
    except subprocess.CalledProcessError as error:
        raise UserError(f"Blender could not write the monkey: {error.stderr!r}", "check that `import bpy` works here") from error
    except subprocess.TimeoutExpired as error:
        raise UserError(f"Blender did not write the monkey: {error}", "try again on a quieter machine") from error
    with np.load(place) as data:
        mesh = Mesh(data["vertices"], data["faces"])
    place.unlink()
    return mesh, _waves(mesh.vertices)


def _knot(folder: Path) -> tuple[Mesh, np.ndarray]:
    """A (2, 3) torus knot on a torus of radii 2 and 1, tube radius 0.45."""
    t = np.linspace(0, 2 * np.pi, 301)[:-1]
    line = np.stack([(2 + np.cos(3 * t)) * np.cos(2 * t), (2 + np.cos(3 * t)) * np.sin(2 * t), np.sin(3 * t)], -1)
    tangent = np.roll(line, -1, 0) - np.roll(line, 1, 0)
    tangent /= np.linalg.norm(tangent, axis=1, keepdims=True)
    outward = line - np.stack([2 * np.cos(2 * t), 2 * np.sin(2 * t), 0 * t], -1)
    normal = outward - (outward * tangent).sum(1, keepdims=True) * tangent
    normal /= np.linalg.norm(normal, axis=1, keepdims=True)
    binormal = np.cross(tangent, normal)
    around = np.linspace(0, 2 * np.pi, 33)[:-1]
    ring = 0.45 * (np.cos(around)[None, :, None] * normal[:, None] + np.sin(around)[None, :, None] * binormal[:, None])
    mesh = Mesh((line[:, None] + ring).reshape(-1, 3).astype(np.float32), _wrapped(300, 32)[:, ::-1])
    return mesh, _waves(mesh.vertices / 2)


def _wrapped(rows: int, columns: int) -> np.ndarray:
    """Triangles `[2 rows columns, 3]` of a grid of vertices closed in both directions."""
    i, j = (a.ravel() for a in np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij"))

    def at(row: np.ndarray, column: np.ndarray) -> np.ndarray:
        return (row % rows) * columns + column % columns

    first = np.stack([at(i, j), at(i + 1, j), at(i + 1, j + 1)], -1)
    second = np.stack([at(i, j), at(i + 1, j + 1), at(i, j + 1)], -1)
    return np.concatenate([first, second]).astype(np.int32)


def _bowl(folder: Path) -> tuple[Mesh, np.ndarray]:
    """Half a thick shell, hollow side up, inner radius 0.8 of the outer, rounded at the rim."""
    inner, rim = 0.8, np.linspace(0, np.pi, 13)
    below, above = np.linspace(-np.pi / 2, 0, 49), np.linspace(0, -np.pi / 2, 49)
    middle, half = (1 + inner) / 2, (1 - inner) / 2
    profile = np.concatenate(
        [
            np.stack([np.cos(below), np.sin(below)], -1),
            np.stack([middle + half * np.cos(rim), half * np.sin(rim)], -1)[1:-1],
            inner * np.stack([np.cos(above), np.sin(above)], -1),
        ]
    )
    body = trimesh.creation.revolve(profile, sections=128)
    body.merge_vertices()
    body.update_faces(body.nondegenerate_faces())
    trimesh.repair.fix_normals(body)
    mesh = Mesh(np.asarray(body.vertices, np.float32), np.asarray(body.faces, np.int32))
    return mesh, _waves(mesh.vertices / 2)


def _cube(folder: Path) -> tuple[Mesh, np.ndarray]:
    """4 x 4 squares a side, each side in two colours of its own; no vertex is shared between squares, so edges are sharp."""
    body = trimesh.creation.box((1, 1, 1))
    corners = np.array([[0, 0], [1, 0], [1, 1], [0, 1]]) / 4 - 0.5
    vertices: list[np.ndarray] = []
    faces: list[np.ndarray] = []
    colors: list[np.ndarray] = []
    palette = np.array([(200, 60, 50), (60, 160, 70), (60, 80, 190), (210, 180, 60), (170, 80, 170), (70, 170, 180)])
    for side, axis in enumerate(np.repeat(np.arange(3), 2)):
        sign = 1 if side % 2 else -1
        for i in range(4):
            for j in range(4):
                square = np.empty((4, 3))
                square[:, axis] = 0.5 * sign
                square[:, [(axis + 1) % 3, (axis + 2) % 3]] = corners + np.array([i, j]) / 4
                faces += [(len(vertices) * 4 + np.array(t)[::sign]) for t in ((0, 1, 2), (0, 2, 3))]
                vertices.append(square)
                colors.append(np.tile(palette[side] if (i + j) % 2 else palette[side] // 3 + 150, (4, 1)))
    mesh = Mesh(np.concatenate(vertices).astype(np.float32), np.array(faces, np.int32))
    assert np.isclose(trimesh.Trimesh(mesh.vertices, mesh.faces).volume, body.volume)
    return mesh, np.concatenate(colors).astype(np.uint8)


def _waves(points: np.ndarray) -> np.ndarray:
    """Smooth colours uint8 `[N, 3]` that differ from place to place: waves of three directions, about 5 to a unit length."""
    phases = points @ np.array([[9.0, 2.0, 4.0], [-3.0, 10.0, 5.0], [5.0, -4.0, 11.0]]).T
    return np.round(255 * (0.5 + 0.35 * np.sin(phases))).astype(np.uint8)


OBJECTS: dict[str, Callable[[Path], tuple[Mesh, np.ndarray]]] = {"suzanne": _monkey, "cube": _cube, "bowl": _bowl, "knot": _knot}
