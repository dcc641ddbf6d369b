"""Meshes from and to files, with the one conversion between our Z-up world and glTF's Y-up world.

The GLB writer is our own: vertex colours are linear 16-bit as glTF wants them (8-bit linear would band the shadows), a
texture is an sRGB PNG inside the file, the material is matte, and equal input gives equal bytes.
"""

import io
import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import trimesh
from PIL import Image

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
_LINEAR, _LINEAR_MIPMAP_LINEAR, _CLAMP = 9729, 9987, 33071


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
    file = _GlbFile()
    attributes = {"POSITION": file.positions(mesh.vertices)}
    if colors is not None:
        linear = np.full((len(mesh.vertices), 4), 65535, "<u2")
        linear[:, :3] = np.round(linear_from_srgb(colors / 255.0) * 65535)
        attributes["COLOR_0"] = file.accessor(linear, _UINT16, "VEC4", _VERTICES, normalized=True)
    return file.pack(attributes, file.accessor(np.asarray(mesh.faces, "<u4").reshape(-1), _UINT32, "SCALAR", _INDICES))


def textured_glb_bytes(mesh: Mesh, normals: np.ndarray, uv: np.ndarray, texture: np.ndarray) -> bytes:
    """A GLB file of a mesh in our Z-up world with a base colour texture, turned to Y up.

    `normals`: unit `[N, 3]`; `uv`: `[N, 2]` in [0, 1], (0, 0) the texture's upper left corner; `texture`: uint8 sRGB
    `[H, W, 3]`, stored as PNG (glTF reads base colour textures as sRGB).
    """
    file = _GlbFile()
    attributes = {
        "POSITION": file.positions(mesh.vertices),
        "NORMAL": file.accessor((np.asarray(normals, np.float64) @ GLTF_FROM_WORLD.T).astype("<f4"), _FLOAT, "VEC3", _VERTICES),
        "TEXCOORD_0": file.accessor(np.asarray(uv, "<f4"), _FLOAT, "VEC2", _VERTICES),
    }
    indices = file.accessor(np.asarray(mesh.faces, "<u4").reshape(-1), _UINT32, "SCALAR", _INDICES)
    png = io.BytesIO()
    Image.fromarray(texture).save(png, "PNG")
    return file.pack(attributes, indices, file.view(png.getvalue(), None))


class _GlbFile:
    """One primitive in the making: buffer views, and accessors into them."""

    def __init__(self) -> None:
        self._body = b""
        self._views: list[dict[str, Any]] = []
        self._accessors: list[dict[str, Any]] = []

    def positions(self, vertices: np.ndarray) -> int:
        turned = (np.asarray(vertices, np.float64) @ GLTF_FROM_WORLD.T).astype("<f4")
        return self.accessor(turned, _FLOAT, "VEC3", _VERTICES, min=turned.min(0).tolist(), max=turned.max(0).tolist())

    def accessor(self, values: np.ndarray, component: int, kind: str, target: int, **more: Any) -> int:
        described = {"bufferView": self.view(values.tobytes(), target), "componentType": component, "count": len(values), "type": kind}
        self._accessors.append(described | more)
        return len(self._accessors) - 1

    def view(self, data: bytes, target: int | None) -> int:
        entry = {"buffer": 0, "byteOffset": len(self._body), "byteLength": len(data)}
        self._views.append(entry if target is None else entry | {"target": target})
        self._body += data + bytes(-len(data) % 4)  # every view begins at a multiple of 4
        return len(self._views) - 1

    def pack(self, attributes: dict[str, int], indices: int, image: int | None = None) -> bytes:
        # glTF's default material is a metal; ours is matte.
        surface: dict[str, Any] = {"metallicFactor": 0.0, "roughnessFactor": 1.0}
        document: dict[str, Any] = {
            "asset": {"version": "2.0", "generator": "mvforge"},
            "scene": 0,
            "scenes": [{"nodes": [0]}],
            "nodes": [{"mesh": 0}],
            "meshes": [{"primitives": [{"attributes": attributes, "indices": indices, "material": 0, "mode": 4}]}],
            "materials": [{"pbrMetallicRoughness": surface}],
            "accessors": self._accessors,
            "bufferViews": self._views,
            "buffers": [{"byteLength": len(self._body)}],
        }
        if image is not None:
            surface["baseColorTexture"] = {"index": 0}
            document["images"] = [{"bufferView": image, "mimeType": "image/png"}]
            document["samplers"] = [{"magFilter": _LINEAR, "minFilter": _LINEAR_MIPMAP_LINEAR, "wrapS": _CLAMP, "wrapT": _CLAMP}]
            document["textures"] = [{"source": 0, "sampler": 0}]
        text = json.dumps(document, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 4)
        chunks = struct.pack("<II", len(text), _JSON_CHUNK) + text + struct.pack("<II", len(self._body), _BIN_CHUNK) + self._body
        return struct.pack("<III", _GLB_MAGIC, 2, 12 + len(chunks)) + chunks


def world_from_gltf(mesh: Mesh) -> Mesh:
    """A mesh as loaded from a glTF file (Y up) in our Z-up world."""
    return Mesh(mesh.vertices @ GLTF_FROM_WORLD, mesh.faces)


def linear_from_srgb(srgb: np.ndarray) -> np.ndarray:
    """sRGB transfer function, [0, 1] to [0, 1] (IEC 61966-2-1)."""
    return np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
