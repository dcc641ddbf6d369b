"""Meshes from and to files, with the one conversion between our Z-up world and glTF's Y-up world.

The GLB writer is our own: vertex colours are linear 16-bit as glTF wants them (8-bit linear would band the shadows),
the material is matte, and equal input gives equal bytes.
"""

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import trimesh

from infra.errors import UserError
from rendering.view_set import Mesh

# glTF is Y up: world (x, y, z) -> glTF (x, z, -y). Applied to column vectors; its inverse is its transpose.
GLTF_FROM_WORLD = np.array([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, -1.0, 0.0]])

MESH_SUFFIXES = (".glb", ".gltf", ".ply", ".obj")
# Geometry stays readable when a file requires these; others (Draco, meshopt, ...) change how vertices are stored.
HARMLESS_EXTENSIONS = ("KHR_materials_", "KHR_texture_", "EXT_texture_", "KHR_lights_", "MSFT_texture_")

_GLB_MAGIC, _JSON_CHUNK, _BIN_CHUNK = 0x46546C67, 0x4E4F534A, 0x004E4942
_FLOAT, _UINT16, _UINT32 = 5126, 5123, 5125
_VERTICES, _INDICES = 34962, 34963


def load_mesh(path: Path) -> Mesh:
    """All triangles of a .glb/.gltf/.ply/.obj file, node transforms applied, coordinates as the file gives them.

    Vertices are float64, faces int64. Raises UserError, naming the file, when it is missing, of another kind,
    unreadable, or holds no usable surface.
    """
    if not path.is_file():
        raise UserError(f"no such file: {path}", "check the path")
    if path.suffix.lower() not in MESH_SUFFIXES:
        raise UserError(f"{path} is not a mesh file", f"give one of {', '.join(MESH_SUFFIXES)}")
    if path.suffix.lower() in (".glb", ".gltf"):
        _refuse_unreadable_extensions(path)
    try:
        loaded = trimesh.load_mesh(path, process=False)
    except Exception as error:  # a parser of foreign files can fail in any way; the user needs the file's name
        raise UserError(f"cannot read {path}: {error}", "open and export it again as GLB or PLY") from error
    mesh = Mesh(np.asarray(loaded.vertices, np.float64).reshape(-1, 3), np.asarray(loaded.faces, np.int64).reshape(-1, 3))
    return check_mesh(mesh, str(path))


def check_mesh(mesh: Mesh, name: str) -> Mesh:
    """The mesh itself. Raises UserError, with `name`, for no triangles, non-finite vertices, bad indices or no area."""
    if len(mesh.vertices) == 0 or len(mesh.faces) == 0:
        raise UserError(f"{name} holds no triangles", "export a surface mesh, not points or an empty scene")
    if not np.isfinite(mesh.vertices).all():
        bad = int((~np.isfinite(mesh.vertices)).any(-1).sum())
        raise UserError(f"{name} has {bad} vertices that are not finite (NaN or infinity)", "repair the mesh and export it again")
    if mesh.faces.min() < 0 or mesh.faces.max() >= len(mesh.vertices):
        raise UserError(f"{name} has triangles that point to vertices that do not exist", "repair the mesh and export it again")
    corners = np.asarray(mesh.vertices, np.float64)[mesh.faces]
    if not np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]).any():
        raise UserError(f"{name} has no area: all its triangles are degenerate", "repair the mesh and export it again")
    return mesh


def _refuse_unreadable_extensions(path: Path) -> None:
    required = read_gltf_json(path.read_bytes(), str(path)).get("extensionsRequired", [])
    blocking = [name for name in required if not name.startswith(HARMLESS_EXTENSIONS)]
    if blocking:
        raise UserError(f"{path} needs {', '.join(blocking)}, which is not supported here", "export it without compression")


def read_gltf_json(data: bytes, name: str) -> dict[str, Any]:
    """The JSON part of a .glb or .gltf file. Raises UserError, with `name`, when there is none."""
    try:
        if data[:4] == b"glTF":
            (length,) = struct.unpack_from("<I", data, 12)
            data = data[20 : 20 + length]
        return json.loads(data)
    except (struct.error, ValueError) as error:
        raise UserError(f"cannot read {name}: it is not a glTF file", "open and export it again") from error


def glb_bytes(mesh: Mesh, colors: np.ndarray | None = None) -> bytes:
    """A GLB file of a mesh in our Z-up world, turned to Y up so that viewers show it upright.

    `colors`: uint8 sRGB `[N, 3]` per vertex.
    """
    vertices = (np.asarray(mesh.vertices, np.float64) @ GLTF_FROM_WORLD.T).astype("<f4")
    pieces: list[tuple[bytes, int]] = [(vertices.tobytes(), _VERTICES)]
    accessors: list[dict[str, Any]] = [
        {
            "bufferView": 0,
            "componentType": _FLOAT,
            "count": len(vertices),
            "type": "VEC3",
            "min": vertices.min(0).tolist(),
            "max": vertices.max(0).tolist(),
        },
    ]
    attributes = {"POSITION": 0}
    if colors is not None:
        linear = np.full((len(vertices), 4), 65535, "<u2")
        linear[:, :3] = np.round(linear_from_srgb(colors / 255.0) * 65535)
        attributes["COLOR_0"] = len(accessors)
        accessors.append({"bufferView": len(pieces), "componentType": _UINT16, "normalized": True, "count": len(vertices), "type": "VEC4"})
        pieces.append((linear.tobytes(), _VERTICES))
    faces = np.asarray(mesh.faces, "<u4")
    accessors.append({"bufferView": len(pieces), "componentType": _UINT32, "count": faces.size, "type": "SCALAR"})
    pieces.append((faces.tobytes(), _INDICES))
    primitive = {"attributes": attributes, "indices": len(accessors) - 1, "material": 0, "mode": 4}
    return _pack_glb(primitive, accessors, pieces)


def _pack_glb(primitive: dict[str, Any], accessors: list[dict[str, Any]], pieces: list[tuple[bytes, int]]) -> bytes:
    views, offset = [], 0
    for data, target in pieces:  # every piece is a multiple of 4 bytes, so all offsets stay aligned
        views.append({"buffer": 0, "byteOffset": offset, "byteLength": len(data), "target": target})
        offset += len(data)
    document = {
        "asset": {"version": "2.0", "generator": "mvforge"},
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0}],
        "meshes": [{"primitives": [primitive]}],
        # glTF's default material is a metal; ours is matte.
        "materials": [{"pbrMetallicRoughness": {"metallicFactor": 0.0, "roughnessFactor": 1.0}}],
        "accessors": accessors,
        "bufferViews": views,
        "buffers": [{"byteLength": offset}],
    }
    text = json.dumps(document, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 4)
    body = b"".join(data for data, _ in pieces)
    chunks = struct.pack("<II", len(text), _JSON_CHUNK) + text + struct.pack("<II", len(body), _BIN_CHUNK) + body
    return struct.pack("<III", _GLB_MAGIC, 2, 12 + len(chunks)) + chunks


def world_from_gltf(mesh: Mesh) -> Mesh:
    """A mesh as loaded from a glTF file (Y up) in our Z-up world."""
    return Mesh(mesh.vertices @ GLTF_FROM_WORLD, mesh.faces)


def linear_from_srgb(srgb: np.ndarray) -> np.ndarray:
    """sRGB transfer function, [0, 1] to [0, 1] (IEC 61966-2-1)."""
    return np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
