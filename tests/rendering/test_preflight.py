"""Files that must never reach Blender: one fault each, and the class it is refused for. Then what must pass."""

import base64
import json
import os
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rendering.preflight import DEFAULT, IMPORTED_EXTENSIONS, inspect
from rendering.preflight_json import nesting, parse
from rendering.sources import procedural
from rendering.sources.base import FetchError
from tests.rendering import whole_glb
from tests.rendering.broken_glb import TRIANGLE, glb, triangle_at

Edit = Callable[[dict, bytearray], None]


def refused(path: Path, limits=DEFAULT) -> tuple[str, str]:
    with pytest.raises(FetchError) as caught:
        inspect(path, limits)
    assert caught.value.detail.isascii() and "\n" not in caught.value.detail and len(caught.value.detail) <= 300
    return caught.value.reason, caught.value.detail


def edited(folder: Path, edit: Edit) -> Path:
    document, body = whole_glb.whole()
    changed = bytearray(body)
    edit(document, changed)
    path = folder / "x.glb"
    path.write_bytes(whole_glb.put_together(document, bytes(changed)))
    return path


def put(*keys, value) -> Edit:
    """Set one value of the document; a negative number in the place of an index counts from the end."""

    def edit(document: dict, _: bytearray) -> None:
        part = document
        for key in keys[:-1]:
            part = part[key]
        part[keys[-1]] = value

    return edit


def floats(accessor: int, *values: float) -> Edit:
    """Overwrite the first floats of an accessor."""

    def edit(document: dict, body: bytearray) -> None:
        at = document["bufferViews"][document["accessors"][accessor]["bufferView"]]["byteOffset"]
        body[at : at + 4 * len(values)] = struct.pack(f"<{len(values)}f", *values)

    return edit


def both(*edits: Edit) -> Edit:
    def edit(document: dict, body: bytearray) -> None:
        for one in edits:
            one(document, body)

    return edit


def index_past_end(document: dict, body: bytearray) -> None:
    at = document["bufferViews"][document["accessors"][2]["bufferView"]]["byteOffset"]
    body[at : at + 2] = struct.pack("<H", 4)


def sparse_past_end(document: dict, body: bytearray) -> None:
    at = document["bufferViews"][document["accessors"][9]["sparse"]["indices"]["bufferView"]]["byteOffset"]
    body[at : at + 2] = struct.pack("<H", 4)


def flat(document: dict, body: bytearray) -> None:
    """Every triangle becomes a line: all corners on the x axis."""
    for accessor in (0, 9):
        floats(accessor, *[number for x in range(4) for number in (x, 0, 0)])(document, body)
    floats_of_sparse(document, body, 2, 0, 0)


def to_a_point(document: dict, body: bytearray) -> None:
    for accessor in (0, 9):
        floats(accessor, *[1.0] * 12)(document, body)
    floats_of_sparse(document, body, 1, 1, 1)
    del document["nodes"][1]["skin"]
    document["nodes"][3]["translation"] = [0, 0, 0]


def floats_of_sparse(document: dict, body: bytearray, *values: float) -> None:
    at = document["bufferViews"][document["accessors"][9]["sparse"]["values"]["bufferView"]]["byteOffset"]
    body[at : at + 12] = struct.pack("<3f", *values)


def chain(length: int) -> Edit:
    def edit(document: dict, _: bytearray) -> None:
        first = len(document["nodes"])
        document["nodes"] += [{"children": [first + number + 1]} for number in range(length - 1)] + [{}]
        document["scenes"][0]["nodes"].append(first)

    return edit


def picture(data: bytes, **fields) -> Edit:
    return put("images", 0, value={"uri": "data:image/png;base64," + base64.b64encode(data).decode(), **fields})


def draco(head: bytes) -> Edit:
    def edit(document: dict, body: bytearray) -> None:
        document["bufferViews"].append({"buffer": 0, "byteOffset": len(body), "byteLength": len(head)})
        body += head
        document["buffers"][0]["byteLength"] = len(body)
        document["extensionsUsed"] = ["KHR_draco_mesh_compression"]
        primitive = document["meshes"][1]["primitives"][0]
        primitive["extensions"] = {
            "KHR_draco_mesh_compression": {"bufferView": len(document["bufferViews"]) - 1, "attributes": {"POSITION": 0}}
        }

    return edit


def require(name: str, used: bool = True) -> Edit:
    return both(put("extensionsRequired", value=[name]), put("extensionsUsed", value=[name] if used else []))


JPEG_WITHOUT_FRAME = b"\xff\xd8\xff\xe0\x00\x04ab\xff\xda\x00\x02"
FAULTS: dict[str, tuple[Edit, str, str]] = {
    # name: (edit, reason, what the detail must name)
    "accessor outside its view": (put("accessors", 0, "count", value=5), "bad_accessor", "accessors[0]"),
    "accessor of 10^15": (put("accessors", 0, "count", value=10**15), "too_complex", "accessors[0]"),
    "accessor of nothing of 10^8": (
        both(put("accessors", 1, "count", value=10**8), lambda d, _: d["accessors"][1].pop("bufferView")),
        "bad_accessor",
        "accessors[1]",
    ),
    "no positions": (put("accessors", 0, "count", value=0), "index_out_of_range", "no positions"),
    "nothing but empty primitives": (both(put("accessors", 2, "count", value=0)), "no_mesh", ""),
    "an empty primitive among others": (
        both(
            lambda d, _: d["accessors"].append({"componentType": 5123, "count": 0, "type": "SCALAR"}),
            lambda d, _: d["meshes"][0]["primitives"].append({"attributes": {"POSITION": 0}, "indices": 10}),
        ),
        "",
        "",
    ),
    "count true": (put("accessors", 0, "count", value=True), "bad_json", "accessors[0].count"),
    "count text": (put("accessors", 0, "count", value="4"), "bad_json", "accessors[0].count"),
    "negative offset": (put("accessors", 0, "byteOffset", value=-4), "bad_json", "accessors[0].byteOffset"),
    "offset past the view": (put("accessors", 0, "byteOffset", value=48), "bad_accessor", "accessors[0]"),
    "unknown component": (put("accessors", 0, "componentType", value=5124), "bad_accessor", "accessors[0]"),
    "unknown type": (put("accessors", 0, "type", value="VEC5"), "bad_accessor", "accessors[0]"),
    "stride below the element": (put("bufferViews", 0, "byteStride", value=4), "bad_accessor", "accessors[0]"),
    "huge stride": (put("bufferViews", 0, "byteStride", value=1 << 40), "bad_accessor", "bufferViews[0]"),
    "view outside its buffer": (put("bufferViews", 0, "byteLength", value=10**9), "bad_accessor", "bufferViews[0]"),
    "view of no buffer": (put("bufferViews", 0, "buffer", value=1), "bad_reference", "bufferViews[0]"),
    "buffer larger than its bytes": (put("buffers", 0, "byteLength", value=10**6), "bad_buffer", "buffers[0]"),
    "buffer without data": (put("buffers", value=[{"byteLength": 8}, {"byteLength": 10**6}]), "bad_accessor", "bufferViews"),
    "reference -1": (put("nodes", 1, "mesh", value=-1), "bad_reference", "nodes[1].mesh"),
    "reference to a missing mesh": (put("nodes", 1, "mesh", value=2), "bad_reference", "nodes[1].mesh"),
    "reference 0.0": (put("nodes", 1, "mesh", value=0.0), "bad_reference", "nodes[1].mesh"),
    "missing skin": (put("nodes", 1, "skin", value=1), "bad_reference", "nodes[1].skin"),
    "missing camera": (put("nodes", 1, "camera", value=0), "bad_reference", "nodes[1].camera"),
    "missing child": (put("nodes", 0, "children", value=[1, 9]), "bad_reference", "nodes[0].children"),
    "missing material": (put("meshes", 0, "primitives", 0, "material", value=3), "bad_reference", "meshes[0].primitives[0].material"),
    "missing attribute": (put("meshes", 0, "primitives", 0, "attributes", "POSITION", value=99), "bad_reference", "POSITION"),
    "missing texture": (put("materials", 0, "normalTexture", value={"index": 4}), "bad_reference", "normalTexture"),
    "missing texture of an extension": (
        put("materials", 0, "extensions", value={"KHR_materials_clearcoat": {"clearcoatTexture": {"index": 4}}}),
        "bad_reference",
        "clearcoatTexture",
    ),
    "missing image": (put("textures", 0, "source", value=1), "bad_reference", "textures[0].source"),
    "missing sampler": (put("textures", 0, "sampler", value=1), "bad_reference", "textures[0].sampler"),
    "missing joint": (put("skins", 0, "joints", value=[7]), "bad_reference", "skins[0].joints"),
    "too few binds": (put("skins", 0, "joints", value=[2, 3]), "bad_accessor", "skins[0]"),
    "missing key times": (put("animations", 0, "samplers", 0, "input", value=44), "bad_reference", "animations[0].samplers[0].input"),
    "missing animated node": (put("animations", 0, "channels", 0, "target", "node", value=44), "bad_reference", "target.node"),
    "missing scene": (put("scene", value=1), "bad_reference", "scene"),
    "missing root": (put("scenes", 0, "nodes", value=[44]), "bad_reference", "scenes[0].nodes"),
    "missing light": (
        put("nodes", 0, "extensions", value={"KHR_lights_punctual": {"light": 0}}),
        "bad_reference",
        "nodes[0].extensions.KHR_lights_punctual.light",
    ),
    "node below itself": (both(put("nodes", 2, "children", value=[0]), put("scenes", 0, "nodes", value=[3])), "bad_graph", "nodes["),
    "two parents": (put("nodes", 3, "children", value=[1]), "bad_graph", "nodes[1]"),
    "a root twice": (put("scenes", 0, "nodes", value=[0, 0]), "bad_graph", "scenes[0]"),
    "a child as root": (put("scenes", 0, "nodes", value=[0, 1]), "bad_graph", "scenes[0]"),
    "deep nodes": (chain(1000), "too_deep", "nodes["),
    "many nodes": (lambda d, _: d["nodes"].extend([{}] * 20_000), "too_complex", "nodes"),
    "many primitives": (lambda d, _: d["meshes"].extend(d["meshes"] * 15_000), "too_complex", "meshes"),
    "many copies": (
        lambda d, _: d["nodes"].extend([{"mesh": 2}] * 19_000) or d["meshes"].append({"primitives": d["meshes"][1]["primitives"] * 10}),
        "too_complex",
        "instances",
    ),
    "many scenes": (lambda d, _: d["scenes"].extend([{}] * 100), "too_complex", "scenes"),
    "many morph targets": (
        lambda d, _: d["meshes"][0]["primitives"][0].update(targets=[{"POSITION": 6, "NORMAL": 6, "TANGENT": 6}] * 200),
        "",
        "",
    ),
    "attribute of another length": (put("meshes", 0, "primitives", 0, "attributes", "TEXCOORD_0", value=2), "bad_accessor", "accessors[2]"),
    "positions of two components": (put("accessors", 0, "type", value="VEC2"), "bad_json", "accessors[0].min"),
    "indices that are floats": (put("meshes", 1, "primitives", 0, "indices", value=7), "bad_accessor", "accessors[7]"),
    "five indices": (put("accessors", 2, "count", value=5), "bad_accessor", "multiple of three"),
    "unknown mode": (put("meshes", 1, "primitives", 0, "mode", value=7), "bad_json", "mode"),
    "index past the end": (index_past_end, "index_out_of_range", "accessors[2] holds 4"),
    "sparse index past the end": (sparse_past_end, "index_out_of_range", "accessors[9].sparse.indices"),
    "more sparse values than values": (put("accessors", 9, "sparse", "count", value=5), "bad_accessor", "accessors[9].sparse"),
    "NaN position": (floats(0, float("nan")), "non_finite", "accessors[0]"),
    "infinite position": (floats(0, 0, float("-inf")), "non_finite", "accessors[0]"),
    "NaN in a morph target": (floats(6, float("nan")), "non_finite", "accessors[6]"),
    "1e30 metres": (floats(9, 1e30), "absurd_extent", "1e+30"),
    "1e30 times 1e30": (both(floats(9, 1e30), put("nodes", 3, "scale", value=[1e30, 1, 1])), "non_finite", "nodes[3]"),
    "only lines of no width": (flat, "degenerate", "no triangle"),
    "everything in one point": (to_a_point, "zero_extent", "longest side"),
    "points and lines": (
        both(put("meshes", 0, "primitives", 0, "mode", value=0), put("meshes", 1, "primitives", 0, "mode", value=1)),
        "no_mesh",
        "points and lines",
    ),
    "no node shows a mesh": (put("nodes", value=[{}] * 4), "no_mesh", "no node"),
    "infinite number": (lambda d, _: d["nodes"][3].update(translation=[10**400, 0, 0]), "bad_json", "too large"),
    "texts for numbers": (put("nodes", 3, "translation", value=["0", 0, 0]), "bad_json", "nodes[3].translation"),
    "matrix of 15": (put("nodes", 3, "matrix", value=[0] * 15), "bad_json", "nodes[3].matrix"),
    "nodes are no list": (put("nodes", value={"0": {}}), "bad_json", "nodes"),
    "a node is a number": (put("nodes", 3, value=3), "bad_json", "nodes[3]"),
    "KTX2 required": (require("KHR_texture_basisu"), "unsupported_extension", "KHR_texture_basisu"),
    "meshopt required": (require("EXT_meshopt_compression"), "unsupported_extension", "EXT_meshopt_compression"),
    "required and not used": (require("KHR_materials_ior", used=False), "bad_json", "KHR_materials_ior"),
    "picture of 100,000 x 100,000": (picture(whole_glb.png(1, 1, (100_000, 100_000))), "image_too_large", "images[0]"),
    "picture of no width": (picture(whole_glb.png(1, 1, (0, 4))), "bad_image", "images[0]"),
    "picture that is a KTX2": (picture(b"\xabKTX 20\xbb\r\n\x1a\n" + bytes(68)), "unsupported_image", "image/ktx2"),
    "picture that is a Blender file": (picture(b"BLENDER-v405" + bytes(100)), "unsupported_image", "BLENDER"),
    "picture that is OpenEXR": (picture(b"\x76\x2f\x31\x01" + bytes(100)), "unsupported_image", "images[0]"),
    "picture that is SVG": (picture(b'<svg xmlns="http://www.w3.org/2000/svg">'), "unsupported_image", "images[0]"),
    "picture of no bytes": (picture(b""), "bad_image", "images[0]"),
    "JPEG without a frame": (picture(JPEG_WITHOUT_FRAME), "bad_image", "JPEG"),
    "WebP cut off": (picture(b"RIFF\xff\xff\x00\x00WEBPVP8 " + bytes(40)), "bad_image", "WebP"),
    "picture from two places": (put("images", 0, "uri", value="a.png"), "missing_resource", "a.png"),
    "data URI without base64": (put("images", 0, value={"uri": "data:image/png,../../secret.png"}), "bad_data_uri", "images[0]"),
    "data URI with a path": (put("images", 0, value={"uri": "data:x/../../secret.png;base64,AAAA"}), "bad_data_uri", "images[0]"),
    "data URI of rubbish": (put("images", 0, value={"uri": "data:image/png;base64,@@@@"}), "bad_data_uri", "images[0]"),
    "Draco body that is none": (draco(b"DRACX" + bytes(20)), "bad_draco", "DRACO"),
    "Draco bomb": (
        draco(b"DRACO\x02\x02\x01\x01\x00\x00\x00" + b"\xff\xff\xff\xff\x07" + b"\xff\xff\xff\xff\x07" + bytes(8)),
        "too_complex",
        "meshes[1]",
    ),
    "Draco point cloud": (draco(b"DRACO\x02\x02\x00\x01\x00\x00\x00" + bytes(20)), "bad_draco", "kind 0"),
    "GPU instances without end": (
        both(
            put("nodes", 3, "extensions", value={"EXT_mesh_gpu_instancing": {"attributes": {"TRANSLATION": 10}}}),
            lambda d, _: d["accessors"].append({"componentType": 5126, "count": 10**6, "type": "VEC3"}),
        ),
        "too_complex",
        "instances",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_each_fault_has_its_class_and_names_its_place(tmp_path, name):
    edit, reason, place = FAULTS[name]
    path = edited(tmp_path, edit)
    if not reason:
        inspect(path)  # within bounds
        return
    found, detail = refused(path)
    assert (found, place in detail) == (reason, True), (found, detail)


def test_the_whole_file_passes_as_it_is(tmp_path):
    assert inspect(edited(tmp_path, lambda document, body: None)) == whole_glb.whole()[0]


URIS = {
    "../secret.png": "unsafe_uri",
    "a/../../secret.png": "unsafe_uri",
    "%2e%2e/secret.png": "unsafe_uri",
    "%2E./secret.png": "unsafe_uri",
    "..%2fsecret.png": "unsafe_uri",
    "a/%2e%2e%2f%2e%2e/secret.png": "unsafe_uri",
    "/etc/hostname": "unsafe_uri",
    "%2fetc/hostname": "unsafe_uri",
    "//etc/hostname": "unsafe_uri",
    "..\\secret.png": "unsafe_uri",
    "%2e%2e%5csecret.png": "unsafe_uri",
    "\\\\host\\share\\x.png": "unsafe_uri",
    "C:/secret.png": "unsafe_uri",
    "file:///etc/hostname": "unsafe_uri",
    "FILE:/etc/hostname": "unsafe_uri",
    "http://localhost/x.png": "unsafe_uri",
    "a\u0000.png": "unsafe_uri",
    "a%00.png": "unsafe_uri",
    "a\n.png": "unsafe_uri",
    "<UDIM>.png": "unsafe_uri",
    "\ud800.png": "unsafe_uri",
    "": "unsafe_uri",
    ".": "unsafe_uri",
    "x" * 300: "unsafe_uri",
    "a/" * 300 + "b": "unsafe_uri",
    "outside.png": "unsafe_uri",  # a link that leads out
    "door/secret.png": "unsafe_uri",  # a folder that is such a link
    "pipe": "missing_resource",
    "sub": "missing_resource",  # a folder
    "nothing.png": "missing_resource",
    "%252e%252e/secret.png": "missing_resource",  # decoded once only, as Blender does
    "~/secret.png": "missing_resource",
    "$HOME/secret.png": "missing_resource",
    "sub/inside.png": "",
    "./sub//inside.png": "",
    "link.png": "",  # a link that stays inside
    "with%20space.png": "",
}


@pytest.mark.timeout(30)
@pytest.mark.parametrize("uri", URIS, ids=lambda uri: ascii(uri)[:40])
def test_only_plain_paths_below_the_folder_are_followed(tmp_path, uri):
    folder = tmp_path / "asset"
    (folder / "sub").mkdir(parents=True)
    for place in (tmp_path / "secret.png", folder / "sub/inside.png", folder / "with space.png"):
        place.write_bytes(whole_glb.png(4, 4))
    (folder / "outside.png").symlink_to(tmp_path / "secret.png")
    (folder / "door").symlink_to(tmp_path)
    (folder / "link.png").symlink_to("sub/inside.png")
    os.mkfifo(folder / "pipe")
    document, body = whole_glb.whole()
    document["images"] = [{"uri": uri}]
    (folder / "x.glb").write_bytes(whole_glb.put_together(document, body))
    if URIS[uri]:
        assert refused(folder / "x.glb")[0] == URIS[uri]
    else:
        inspect(folder / "x.glb")


CONTAINERS = {
    "BIN before JSON": (lambda head, text, body: head + body + text, "bad_header"),
    "two BIN chunks": (lambda head, text, body: head + text + body + body, "bad_header"),
    "two JSON chunks": (lambda head, text, body: head + text + text + body, "bad_header"),
    "chunk of no whole words": (lambda head, text, body: head + text + struct.pack("<I4s", 3, b"odd ") + b"abc" + body, "bad_header"),
    "unknown chunk last": (lambda head, text, body: head + text + body + struct.pack("<I4s", 4, b"more") + b"abcd", ""),
}


@pytest.mark.parametrize("name", CONTAINERS)
def test_the_container(tmp_path, name):
    build, reason = CONTAINERS[name]
    data = whole_glb.put_together(*whole_glb.whole())
    length = struct.unpack("<I", data[12:16])[0]
    made = bytearray(build(data[:12], data[12 : 20 + length], data[20 + length :]))
    made[8:12] = struct.pack("<I", len(made))
    (tmp_path / "x.glb").write_bytes(made)
    if reason:
        assert refused(tmp_path / "x.glb")[0] == reason
    else:
        inspect(tmp_path / "x.glb")


@pytest.mark.parametrize(
    "put_in", [b'"asset": {"version": "2.0"}', b'"a": NaN', b'"a": -Infinity', b'"a": 1e999', b'"\xff": 0', b'"a": ' + b"9" * 5000]
)
def test_json_that_only_some_readers_accept(tmp_path, put_in):
    document, body = whole_glb.whole()
    text = json.dumps(document).encode()
    (tmp_path / "x.glb").write_bytes(glb(b"{" + put_in + b"," + text[1:], body))
    assert refused(tmp_path / "x.glb")[0] == "bad_json"


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("file_bytes", 100, "file_too_large"),
        ("json_bytes", 100, "json_too_large"),
        ("json_depth", 3, "bad_json"),
        ("vertices", 7, "too_complex"),
        ("triangles", 3, "too_complex"),
        ("attribute_values", 20, "too_complex"),
        ("keyframes", 1, "too_complex"),
        ("joints", 0, "too_complex"),
        ("image_side", 3, "image_too_large"),
        ("image_pixels", 15, "image_too_large"),
        ("extent", 0.9, "absurd_extent"),
    ],
)
def test_every_limit_is_in_force(tmp_path, field, value, reason):
    path = edited(tmp_path, lambda document, body: None)
    assert refused(path, replace(DEFAULT, **{field: value}))[0] == reason


def test_resources_count_towards_the_size(tmp_path):
    (tmp_path / "x.gltf").write_text(json.dumps(triangle_at("x.bin")))
    (tmp_path / "x.bin").write_bytes(TRIANGLE + bytes(1000))
    inspect(tmp_path / "x.gltf")
    assert refused(tmp_path / "x.gltf", replace(DEFAULT, total_bytes=1000))[0] == "file_too_large"


def test_a_picture_labelled_wrongly_passes_unless_labels_are_to_be_strict(tmp_path):
    path = edited(tmp_path, put("images", 0, "mimeType", value="image/jpeg"))
    inspect(path)
    assert refused(path, replace(DEFAULT, strict_mime=True))[0] == "bad_image"


def test_pictures_that_no_material_can_show_are_not_looked_at(tmp_path):
    """The usual form of a KTX2 file that others can read too."""

    def edit(document: dict, _: bytearray) -> None:
        document["images"].append({"uri": "data:image/ktx2;base64," + base64.b64encode(b"\xabKTX 20\xbb" + bytes(40)).decode()})
        document["textures"][0]["extensions"] = {"KHR_texture_basisu": {"source": 1}}
        document["extensionsUsed"] = ["KHR_texture_basisu"]

    inspect(edited(tmp_path, edit))


def test_neither_vertices_that_nobody_uses_nor_a_fallback_buffer_count(tmp_path):
    document, body = whole_glb.whole()
    positions = np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0], [np.nan, 0, 0], [1e30, 0, 0]], "<f4").tobytes()
    document["bufferViews"].append({"buffer": 0, "byteOffset": len(body), "byteLength": len(positions)})
    document["accessors"].append({"bufferView": len(document["bufferViews"]) - 1, "componentType": 5126, "count": 6, "type": "VEC3"})
    document["meshes"][1]["primitives"][0]["attributes"]["POSITION"] = len(document["accessors"]) - 1
    document["buffers"] = [
        {"byteLength": len(body + positions)},
        {"byteLength": 10, "extensions": {"EXT_meshopt_compression": {"fallback": True}}},
    ]
    (tmp_path / "x.glb").write_bytes(whole_glb.put_together(document, body + positions))
    inspect(tmp_path / "x.glb")


@pytest.mark.parametrize(
    ("text", "depth"),
    [
        (b"1", 0),
        (b"[[]]", 2),
        (b'{"a": [{}]}', 3),
        (rb'{"[[[": "]\"[[", "\\": []}', 2),
        (b'"' + b"[" * 100 + b'"', 0),
        (b"[" * 70_000, 70_000),
    ],
)
def test_nesting_is_counted_outside_strings(text, depth):
    assert nesting(text) == depth


def test_deep_json_is_no_recursion_error():
    for text in (b"[" * 10**6, b'{"a":' * 10**6, b"[" * 10**6 + b"]" * 10**6):
        with pytest.raises(FetchError, match="deep"):
            parse(text)


def test_a_file_that_is_something_else_is_refused_by_content(tmp_path):
    for name, data, reason in (
        ("scene.glb", b"BLENDER-v405RENDH" + bytes(100), "bad_header"),
        ("scene.gltf", b"BLENDER-v405RENDH" + bytes(100), "bad_json"),
        ("zip.glb", b"PK\x03\x04" + bytes(100), "bad_header"),
        ("script.gltf", b"import os; os.system('true')", "bad_json"),
    ):
        (tmp_path / name).write_bytes(data)
        assert refused(tmp_path / name)[0] == reason
    (tmp_path / "folder.glb").mkdir()
    os.mkfifo(tmp_path / "pipe.glb")
    (tmp_path / "zero.glb").symlink_to("/dev/zero")
    for name in ("folder.glb", "pipe.glb", "zero.glb", "absent.glb"):
        assert refused(tmp_path / name)[0] == "unreadable"
    # A GLB is a GLB whatever its name.
    (tmp_path / "glb.gltf").write_bytes(whole_glb.put_together(*whole_glb.whole()))
    inspect(tmp_path / "glb.gltf")


def test_the_importer_reads_what_we_let_pass():
    """The list is Blender's own, read from the source of its importer."""
    import importlib.util

    found = importlib.util.find_spec("bpy")
    assert found is not None and found.origin is not None
    source = next(Path(found.origin).parent.glob("*/scripts/addons_core/io_scene_gltf2/io/imp/gltf2_io_gltf.py")).read_text()
    listed = source.split("self.extensions_managed = [")[1].split("]")[0]
    assert {name.strip(" '\n") for name in listed.split(",")} == IMPORTED_EXTENSIONS


def test_real_and_generated_files_pass(assets, tmp_path):
    for path in sorted(assets.rglob("*.gl*")):
        if path.name == "agi_ktx2.glb":
            assert refused(path) == ("unsupported_extension", "the file requires 'KHR_texture_basisu', which Blender 4.5 does not import")
        else:
            inspect(path)
    for kind in ("car", "chair", "table"):
        (tmp_path / "x.glb").write_bytes(procedural.make_glb(f"procedural://{procedural.VERSION}/{kind}/0/0"))
        inspect(tmp_path / "x.glb")


def test_a_bin_chunk_beside_a_buffer_of_its_own_is_ignored(tmp_path):
    (tmp_path / "x.glb").write_bytes(glb(triangle_at("data:;base64," + base64.b64encode(TRIANGLE).decode()), bytes(8)))
    inspect(tmp_path / "x.glb")
