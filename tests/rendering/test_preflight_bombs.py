"""Small files that ask for much work: each is judged within a few CPU seconds and little memory."""

import base64
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from rendering.preflight import inspect
from rendering.sources.base import FetchError
from tests.rendering import whole_glb
from tests.rendering.broken_glb import glb

MIB = 1 << 20


def lists() -> bytes:
    return glb(b'{"asset": {"version": "2.0"}, "extras": [' + b"[]," * (2 * MIB) + b"[]]}")


def strings_of_brackets() -> bytes:
    return glb(b'{"asset": {"version": "2.0"}, "extras": "' + b'[\\"{\\\\' * (2 * MIB) + b'"}')


def a_key_repeated_at_the_end() -> bytes:
    keys = ", ".join(f'"{number}": 0' for number in range(200_000))
    return glb(f'{{"asset": {{"version": "2.0"}}, {keys}, "199999": 0}}'.encode())


def a_number_of_a_million_digits() -> bytes:
    return glb(b'{"asset": {"version": "2.0"}, "extras": ' + b"9" * MIB + b"}")


def many_extensions() -> bytes:
    document, body = whole_glb.whole()
    names = [f"E{number}" for number in range(300_000)]
    return glb(document | {"extensionsUsed": names, "extensionsRequired": names}, body)


def many_accessors() -> bytes:
    document, body = whole_glb.whole()
    document["accessors"] += [{"bufferView": 0, "componentType": 5121, "count": 4, "type": "SCALAR"}] * 80_000
    return glb(document, body)


def one_body_a_thousand_times() -> bytes:
    """Every primitive has positions of its own, all of them the same bytes."""
    document, body = whole_glb.whole()
    count = 300_000
    view = len(document["bufferViews"])
    document["bufferViews"].append({"buffer": 0, "byteOffset": 0, "byteLength": 12 * count})
    document["buffers"][0]["byteLength"] = 12 * count
    first = len(document["accessors"])
    positions = {"bufferView": view, "componentType": 5126, "count": count, "type": "VEC3"}
    document["accessors"] += [positions] * 3000
    document["meshes"] += [{"primitives": [{"attributes": {"POSITION": first + number}, "indices": 2}]} for number in range(3000)]
    document["nodes"] += [{"mesh": 2 + number} for number in range(3000)]
    return glb(document, body + bytes(12 * count - len(body)))


def one_picture_four_thousand_times() -> bytes:
    document, body = whole_glb.whole()
    data = whole_glb.png(4, 4) + bytes(8 * MIB)
    document["buffers"].append({"byteLength": len(data), "uri": "data:;base64," + base64.b64encode(data).decode()})
    view = len(document["bufferViews"])
    document["bufferViews"].append({"buffer": 1, "byteLength": len(data)})
    document["images"] += [{"bufferView": view}] * 4000
    document["textures"] += [{"source": number} for number in range(4001)][:4000]
    return glb(document, body)


def a_ring_of_nodes() -> bytes:
    document, body = whole_glb.whole()
    first = len(document["nodes"])
    document["nodes"] += [{"children": [first + (number + 1) % 15_000]} for number in range(15_000)]
    return glb(document, body)


def a_comb_of_nodes() -> bytes:
    """As deep as is allowed, as often as is allowed."""
    document, body = whole_glb.whole()
    for _ in range(25):
        first = len(document["nodes"])
        document["nodes"] += [{"children": [first + number + 1], "mesh": 1} for number in range(398)] + [{"mesh": 1}]
        document["scenes"][0]["nodes"].append(first)
    return glb(document, body)


BOMBS: list[tuple[Callable[[], bytes], str]] = [
    (lists, "no_mesh"),
    (strings_of_brackets, "no_mesh"),
    (a_key_repeated_at_the_end, "bad_json"),
    (a_number_of_a_million_digits, "bad_json"),
    (many_extensions, "too_complex"),
    (many_accessors, "ok"),
    (one_body_a_thousand_times, "too_complex"),
    (one_picture_four_thousand_times, "ok"),
    (a_ring_of_nodes, "bad_graph"),
    (a_comb_of_nodes, "ok"),
]


@pytest.mark.timeout(120)
@pytest.mark.parametrize(("bomb", "reason"), BOMBS, ids=lambda value: getattr(value, "__name__", value))
def test_a_bomb_does_not_go_off(tmp_path: Path, bomb: Callable[[], bytes], reason: str):
    (tmp_path / "x.glb").write_bytes(bomb())
    started, found = time.process_time(), "ok"
    try:
        inspect(tmp_path / "x.glb")
    except FetchError as error:
        found = error.reason
    assert found == reason
    assert time.process_time() - started < 20  # none needs two; a check that is not linear would need minutes


def test_memory_follows_what_is_there_and_not_what_is_declared(tmp_path):
    document, body = whole_glb.whole()
    document["accessors"].append({"componentType": 5126, "count": 150_000_000, "type": "MAT4"})
    document["animations"][0]["samplers"][0]["output"] = len(document["accessors"]) - 1
    (tmp_path / "x.glb").write_bytes(glb(document, body))
    tracemalloc.start()
    try:
        with pytest.raises(FetchError, match="too_complex"):
            inspect(tmp_path / "x.glb")
        assert tracemalloc.get_traced_memory()[1] < 16 * MIB
    finally:
        tracemalloc.stop()
