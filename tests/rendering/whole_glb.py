"""One small GLB that uses every part of glTF which preflight looks at, and ways to take it apart and put it together."""

import json
import struct
import zlib
from typing import Any

import numpy as np

from tests.rendering.broken_glb import glb

Document = dict[str, Any]


def png(width: int, height: int, declared: tuple[int, int] | None = None) -> bytes:
    """A grey PNG; its header may claim another size."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", *(declared or (width, height)), 8, 0, 0, 0, 0)
    rows = b"".join(b"\0" + b"\x80" * width for _ in range(height))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def whole() -> tuple[Document, bytes]:
    """(document, BIN chunk): an indexed, textured, skinned, morphed and animated square, and a second node of it."""
    pieces: list[bytes] = []
    views: list[Document] = []
    accessors: list[Document] = []

    def view(data: bytes) -> int:
        offset = sum(map(len, pieces))
        pieces.append(data + b"\0" * (-len(data) % 4))
        views.append({"buffer": 0, "byteOffset": offset, "byteLength": len(data)})
        return len(views) - 1

    def accessor(values: np.ndarray, component: int, kind: str) -> int:
        accessors.append({"bufferView": view(values.tobytes()), "componentType": component, "count": len(values), "type": kind})
        return len(accessors) - 1

    corners = np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]], "<f4")
    position = accessor(corners, 5126, "VEC3")
    accessors[position] |= {"min": [0, 0, 0], "max": [1, 1, 0]}
    uv = accessor(corners[:, :2].copy(), 5126, "VEC2")
    indices = accessor(np.array([0, 1, 2, 0, 2, 3], "<u2"), 5123, "SCALAR")
    joints = accessor(np.zeros((4, 4), "<u1"), 5121, "VEC4")
    weights = accessor(np.tile(np.array([1, 0, 0, 0], "<f4"), (4, 1)), 5126, "VEC4")
    binds = accessor(np.eye(4, dtype="<f4").reshape(1, 16), 5126, "MAT4")
    morph = accessor(np.zeros((4, 3), "<f4"), 5126, "VEC3")
    times = accessor(np.array([0, 1], "<f4").reshape(2, 1), 5126, "SCALAR")
    moves = accessor(np.zeros((2, 3), "<f4"), 5126, "VEC3")
    sparse = accessor(corners.copy(), 5126, "VEC3")
    accessors[sparse]["sparse"] = {
        "count": 1,
        "indices": {"bufferView": view(np.array([2], "<u2").tobytes()), "componentType": 5123},
        "values": {"bufferView": view(np.array([1, 1, 0.5], "<f4").tobytes())},
    }
    picture = view(png(4, 4))
    attributes = {"POSITION": position, "TEXCOORD_0": uv, "JOINTS_0": joints, "WEIGHTS_0": weights}
    document = {
        "asset": {"version": "2.0"},
        "scene": 0,
        "scenes": [{"nodes": [0, 3]}],
        "nodes": [
            {"children": [1, 2]},
            {"mesh": 0, "skin": 0},
            {"name": "joint"},
            {"mesh": 1, "translation": [2, 0, 0], "rotation": [0, 0, 0, 1], "scale": [1, 1, 1]},
        ],
        "meshes": [
            {"primitives": [{"attributes": attributes, "indices": indices, "material": 0, "targets": [{"POSITION": morph}]}]},
            {"primitives": [{"attributes": {"POSITION": sparse}, "indices": indices}]},
        ],
        "skins": [{"joints": [2], "skeleton": 2, "inverseBindMatrices": binds}],
        "animations": [
            {
                "samplers": [{"input": times, "output": moves}],
                "channels": [{"sampler": 0, "target": {"node": 2, "path": "translation"}}],
            }
        ],
        "materials": [{"pbrMetallicRoughness": {"baseColorTexture": {"index": 0}}}],
        "textures": [{"source": 0, "sampler": 0}],
        "samplers": [{}],
        "images": [{"bufferView": picture, "mimeType": "image/png"}],
        "accessors": accessors,
        "bufferViews": views,
        "buffers": [{"byteLength": sum(map(len, pieces))}],
    }
    return document, b"".join(pieces)


def taken_apart(data: bytes) -> tuple[Document, bytes]:
    """(document, BIN chunk) of a GLB."""
    length = struct.unpack("<I", data[12:16])[0]
    rest = data[20 + length :]
    return json.loads(data[20 : 20 + length]), rest[8:]


def put_together(document: object, body: bytes) -> bytes:
    """A GLB again."""
    return glb(document, body + b"\0" * (-len(body) % 4))
