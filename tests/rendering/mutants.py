"""Real GLBs with something wrong: bytes flipped, cut, lengths changed, values of the JSON part changed by structure.

A mutant depends on its file and its number alone, so any that makes trouble can be made again.
"""

import copy
import json
import random
import struct
from collections.abc import Callable
from typing import Any

from tests.rendering.whole_glb import put_together, taken_apart

ODD_VALUES: list[Any] = [
    *(None, True, False, 0, 1, -1, 2, 3, 255, 65535, 2**31 - 1, 2**31, 2**32, 2**53, 10**30, 0.0, -0.5, 1e-40, 1e38, 1e308),
    *("", "x", "../x.png", "/etc/hostname", "data:,x", "data:image/png;base64,AAAA", "VEC3", "\ud800", "a" * 5000),
    *([], {}, [0], [[]], {"index": 0}, [0] * 5000, {"extras": {}}),
]
EXTENSIONS = ("KHR_draco_mesh_compression", "EXT_mesh_gpu_instancing", "KHR_lights_punctual", "EXT_texture_webp", "KHR_texture_basisu")


def flipped(rng: random.Random, data: bytes) -> bytes:
    """Some bytes changed anywhere."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 3, 30, 300))):
        changed[rng.randrange(len(changed))] = rng.randrange(256)
    return bytes(changed)


def flipped_body(rng: random.Random, data: bytes) -> bytes:
    """Numbers of the binary chunk overwritten by odd ones; the JSON part is whole, so most of these reach the last checks."""
    document, body = taken_apart(data)
    changed = bytearray(body)
    for _ in range(rng.choice((1, 4, 100))):
        at = rng.randrange(max(1, len(changed) - 4)) & ~3
        changed[at : at + 4] = rng.choice(
            [
                *(struct.pack("<f", value) for value in (float("nan"), float("inf"), 1e38, -1e-38, 0.0)),
                *(struct.pack("<I", value) for value in (0, 2**32 - 1, 2**31, 65536)),
                rng.randbytes(4),
            ]
        )
    return put_together(document, bytes(changed))


def cut(rng: random.Random, data: bytes) -> bytes:
    """The end missing, with the header made to agree or not."""
    changed = bytearray(data[: rng.randrange(len(data))])
    if rng.random() < 0.5 and len(changed) >= 12:
        changed[8:12] = struct.pack("<I", len(changed))
    return bytes(changed)


def lengths(rng: random.Random, data: bytes) -> bytes:
    """A field of the header or of a chunk's head changed."""
    changed = bytearray(data)
    json_length = struct.unpack("<I", data[12:16])[0]
    at = rng.choice((0, 4, 8, 12, 16, 20 + json_length, 24 + json_length))
    if at + 4 > len(changed):
        return bytes(changed)
    old = struct.unpack_from("<I", changed, at)[0]
    new = rng.choice((0, 1, 3, 4, old - 1, old + 1, old - 4, old + 4, old * 2, 2**31, 2**32 - 1)) % 2**32
    changed[at : at + 4] = struct.pack("<I", new)
    return bytes(changed)


def restructured(rng: random.Random, data: bytes) -> bytes:
    """Values anywhere in the JSON part replaced, removed, repeated or exchanged."""
    document, body = taken_apart(data)
    for _ in range(rng.choice((1, 1, 1, 2, 5))):
        parent, key = rng.choice(_places(document))
        what = rng.randrange(6)
        if what <= 2:
            parent[key] = copy.deepcopy(rng.choice(ODD_VALUES))
        elif what == 3:
            del parent[key]
        elif what == 4 and isinstance(parent[key], list) and parent[key]:
            parent[key] *= rng.choice((2, 3, 50))
        else:
            other, name = rng.choice(_places(document))
            parent[key] = copy.deepcopy(other[name])
    return put_together(document, body)


def numbers_changed(rng: random.Random, data: bytes) -> bytes:
    """Integers of the JSON part moved a little: most mutants stay plausible, as indices and lengths of something else."""
    document, body = taken_apart(data)
    places = [(parent, key) for parent, key in _places(document) if type(parent[key]) in (int, float)]
    for parent, key in rng.sample(places, min(len(places), rng.choice((1, 2, 10)))):
        parent[key] = rng.choice((parent[key] + 1, parent[key] - 1, parent[key] * 2, -parent[key], parent[key] // 2 if parent[key] else 7))
    return put_together(document, body)


def extended(rng: random.Random, data: bytes) -> bytes:
    """An extension where it does not belong, required or not."""
    document, body = taken_apart(data)
    name = rng.choice(EXTENSIONS)
    parent, key = rng.choice([(parent, key) for parent, key in _places(document) if isinstance(parent[key], dict)])
    content = rng.choice(
        ({}, {"bufferView": 0, "attributes": {"POSITION": 0}}, {"attributes": {"TRANSLATION": 0}}, {"light": 0}, {"source": 0}, 7)
    )
    parent[key]["extensions"] = {name: content}
    document["extensionsUsed"] = [name]
    if rng.random() < 0.3:
        document["extensionsRequired"] = [name]
    return put_together(document, body)


def _places(document: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) of a JSON value. Long lists are thinned out, or they would be all there is."""
    found, waiting = [], [document]
    while waiting:
        part = waiting.pop()
        keys = list(part) if isinstance(part, dict) else list(range(len(part)))[: 40 if len(part) > 40 else None]
        for key in keys:
            found.append((part, key))
            if isinstance(part[key], dict | list):
                waiting.append(part[key])
    return found


KINDS: dict[str, Callable[[random.Random, bytes], bytes]] = {
    "flipped": flipped,
    "flipped_body": flipped_body,
    "cut": cut,
    "lengths": lengths,
    "restructured": restructured,
    "numbers_changed": numbers_changed,
    "extended": extended,
}


def mutant(data: bytes, kind: str, number: int) -> bytes:
    """Mutant `number` of a kind. A kind that cannot change this file gives it back."""
    rng = random.Random(f"{kind} {number}")
    try:
        return KINDS[kind](rng, data)
    except (ValueError, TypeError, KeyError, IndexError, json.JSONDecodeError, OverflowError):
        return flipped(rng, data)
