"""glTF files that are wrong in one way each: name -> (bytes, the reason they must be refused for)."""

import base64
import json
import struct


def glb(document: object, body: bytes = b"", *, version: int = 2, magic: bytes = b"glTF", declared: int | None = None) -> bytes:
    """A GLB around a JSON document (or raw bytes in its place)."""
    text = document if isinstance(document, bytes) else json.dumps(document).encode()
    text += b" " * (-len(text) % 4)
    chunks = struct.pack("<I4s", len(text), b"JSON") + text
    if body:
        chunks += struct.pack("<I4s", len(body), b"BIN\0") + body
    return struct.pack("<4sII", magic, version, 12 + len(chunks) if declared is None else declared) + chunks


TRIANGLE = struct.pack("<9f", 0, 0, 0, 1, 0, 0, 0, 1, 0)  # three positions


def triangle_at(uri: str) -> dict:
    """The smallest whole object: one triangle, its positions at `uri`."""
    return {
        "asset": {"version": "2.0"},
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0}],
        "meshes": [{"primitives": [{"attributes": {"POSITION": 0}}]}],
        "accessors": [{"bufferView": 0, "componentType": 5126, "count": 3, "type": "VEC3", "min": [0, 0, 0], "max": [1, 1, 0]}],
        "bufferViews": [{"buffer": 0, "byteLength": 36}],
        "buffers": [{"byteLength": 36, "uri": uri}],
    }


ASSET = triangle_at("data:application/octet-stream;base64," + base64.b64encode(TRIANGLE).decode())
GOOD = glb(ASSET)

BROKEN: dict[str, tuple[bytes, str]] = {
    "empty.glb": (b"", "bad_header"),
    "text.glb": (b"<html>not found</html>", "bad_header"),
    "tiny.glb": (b"glTF\x02", "truncated"),
    "old.glb": (glb(ASSET, version=1), "unsupported_version"),
    "cut.glb": (GOOD[:-4], "truncated"),
    "long.glb": (GOOD + b"\0\0\0\0", "bad_header"),
    "chunk_past_end.glb": (GOOD[:12] + struct.pack("<I", 10**6) + GOOD[16:], "bad_header"),
    "no_json.glb": (struct.pack("<4sII", b"glTF", 2, 12), "bad_header"),
    "bad_json.glb": (glb(b'{"asset": '), "bad_json"),
    "deep.glb": (glb(b"[" * 200_000), "bad_json"),
    "list.glb": (glb([1, 2]), "bad_json"),
    "no_asset.glb": (glb({"meshes": []}), "bad_json"),
    "future.glb": (glb(ASSET | {"asset": {"version": "3.0"}}), "unsupported_version"),
    "odd_buffers.glb": (glb(ASSET | {"buffers": [7]}), "bad_json"),
    "binary.gltf": (b"\x93\xff\x00", "bad_json"),
    "escape.gltf": (json.dumps(ASSET | {"buffers": [{"uri": "../secret.bin"}]}).encode(), "unsafe_uri"),
    "hidden_escape.gltf": (json.dumps(ASSET | {"images": [{"uri": "a/%2e%2e/%2E%2E/secret.png"}]}).encode(), "unsafe_uri"),
    "absolute.gltf": (json.dumps(ASSET | {"images": [{"uri": "/etc/passwd"}]}).encode(), "unsafe_uri"),
    "remote.gltf": (json.dumps(ASSET | {"images": [{"uri": "http://127.0.0.1/x.png"}]}).encode(), "unsafe_uri"),
    "drive.gltf": (json.dumps(ASSET | {"images": [{"uri": "C:/x.png"}]}).encode(), "unsafe_uri"),
    "backslash.gltf": (json.dumps(ASSET | {"images": [{"uri": "..\\x.png"}]}).encode(), "unsafe_uri"),
    "number.gltf": (json.dumps(ASSET | {"images": [{"uri": 5}]}).encode(), "unsafe_uri"),
    "lonely.gltf": (json.dumps(ASSET | {"buffers": [{"uri": "lonely.bin"}]}).encode(), "missing_resource"),
}
