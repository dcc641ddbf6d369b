"""Parts and their paints -> the bytes of one GLB file with one mesh, one material and one embedded picture."""

import io
import json
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from rendering.sources.shapes.paint import HEIGHT_PX, Paint
from rendering.sources.shapes.parts import Part

CREASE_DEG = 40.0
LICENCE = "CC0-1.0"


def write_glb(parts: Sequence[Part], name: str) -> bytes:
    """A complete GLB 2.0 file; equal parts give equal bytes.

    Coordinates are rounded to 1e-4, far above what differs between processors, so files do not depend on the machine.
    """
    paints: list[Paint] = []
    for part in parts:
        if not any(paint is part.paint for paint in paints):
            paints.append(part.paint)
    positions, normals, uvs, faces, base = [], [], [], [], 0
    for part in parts:
        tile = next(i for i, paint in enumerate(paints) if paint is part.paint)
        vertices = np.round(part.vertices, 4) + 0.0  # + 0.0 turns -0.0 into 0.0
        corners, normal = crease_normals(vertices, part.faces)
        inset = 0.75 / HEIGHT_PX
        v = (tile + 1 - np.clip(part.uv[corners, 1], inset, 1 - inset)) / len(paints)
        positions.append(vertices[corners])
        normals.append(np.round(normal, 4) + 0.0)
        uvs.append(np.round(np.stack([part.uv[corners, 0], v], -1), 5))
        faces.append(base + np.arange(len(corners)))
        base += len(corners)
    rows = np.concatenate([np.concatenate(columns) for columns in (positions, normals, uvs)], 1)
    return _container(*_merge(rows, np.concatenate(faces)), _png(paints), name)


def crease_normals(vertices: np.ndarray, faces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Vertex index `[3F]` and unit normal `[3F, 3]` per face corner, smooth across edges flatter than `CREASE_DEG`.

    Faces that touch at a position count as neighbours there even where texture coordinates jump.
    """
    corners = vertices[faces]
    weighted = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    unit = weighted / np.maximum(np.linalg.norm(weighted, axis=-1, keepdims=True), 1e-12)
    _, place = np.unique(vertices, axis=0, return_inverse=True)
    at = place.reshape(-1)[faces.ravel()]
    order = np.argsort(at, kind="stable")
    starts, sizes = np.unique(at[order], return_index=True, return_counts=True)[1:]
    size_of = np.repeat(sizes, sizes)
    first = np.repeat(np.arange(len(order)), size_of)
    within = np.arange(len(first)) - np.repeat(np.cumsum(size_of) - size_of, size_of)
    mine, other = order[first], order[np.repeat(np.repeat(starts, sizes), size_of) + within]
    is_smooth = np.einsum("ij,ij->i", unit[mine // 3], unit[other // 3]) > np.cos(np.radians(CREASE_DEG))
    total = np.zeros((len(order), 3))
    np.add.at(total, mine[is_smooth], weighted[other[is_smooth] // 3])
    length = np.linalg.norm(total, axis=-1, keepdims=True)
    return faces.ravel(), np.where(length > 1e-12, total / np.maximum(length, 1e-12), unit[np.arange(len(total)) // 3])


def _merge(corners: np.ndarray, faces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Join corners that agree in everything: float32 `[N, 8]` (position, normal, texture coordinates) and indices."""
    unique, index = np.unique(corners.astype("<f4"), axis=0, return_inverse=True)
    return unique, index.reshape(-1)[faces].astype("<u2" if len(unique) < 65535 else "<u4")


def _png(paints: Sequence[Paint]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.concatenate([paint.pixels() for paint in paints])).save(buffer, "PNG", optimize=False, compress_level=6)
    return buffer.getvalue()


def _container(vertices: np.ndarray, indices: np.ndarray, png: bytes, name: str) -> bytes:
    positions = vertices[:, :3]
    blobs = [np.ascontiguousarray(a).tobytes() for a in (positions, vertices[:, 3:6], vertices[:, 6:], indices)] + [png]
    views: list[dict[str, Any]] = []
    body = b""
    for blob, target in zip(blobs, (34962, 34962, 34962, 34963, None), strict=True):
        views.append({"buffer": 0, "byteOffset": len(body), "byteLength": len(blob)} | ({"target": target} if target else {}))
        body += blob + b"\0" * (-len(blob) % 4)
    low, high = positions.min(0).tolist(), positions.max(0).tolist()
    accessors: list[dict[str, Any]] = [
        {"bufferView": 0, "componentType": 5126, "count": len(positions), "type": "VEC3", "min": low, "max": high},
        {"bufferView": 1, "componentType": 5126, "count": len(positions), "type": "VEC3"},
        {"bufferView": 2, "componentType": 5126, "count": len(positions), "type": "VEC2"},
        {"bufferView": 3, "componentType": 5123 if indices.itemsize == 2 else 5125, "count": len(indices), "type": "SCALAR"},
    ]
    primitive = {"attributes": {"POSITION": 0, "NORMAL": 1, "TEXCOORD_0": 2}, "indices": 3, "material": 0}
    surface = {"baseColorTexture": {"index": 0}, "metallicFactor": 0.0, "roughnessFactor": 0.9}
    document = {
        "asset": {"version": "2.0", "generator": "mvforge procedural", "copyright": LICENCE, "extras": {"license": LICENCE, "title": name}},
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0, "name": name}],
        "meshes": [{"name": name, "primitives": [primitive]}],
        "materials": [{"name": "paint", "pbrMetallicRoughness": surface}],
        "textures": [{"sampler": 0, "source": 0}],
        "images": [{"bufferView": 4, "mimeType": "image/png"}],
        "samplers": [{"magFilter": 9729, "minFilter": 9987, "wrapS": 10497, "wrapT": 33071}],
        "accessors": accessors,
        "bufferViews": views,
        "buffers": [{"byteLength": len(body)}],
    }
    text = json.dumps(document, separators=(",", ":"), sort_keys=True).encode()
    text += b" " * (-len(text) % 4)
    chunks = struct.pack("<I4s", len(text), b"JSON") + text + struct.pack("<I4s", len(body), b"BIN\0") + body
    return struct.pack("<4sII", b"glTF", 2, 12 + len(chunks)) + chunks
