"""What is read of a glTF file without a 3D library, and what is refused."""

import hashlib
import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rendering.glb_header import check_file, content_sha256, external_uris, read_document
from rendering.licences import licence_in_file, licence_name
from rendering.sources import procedural
from rendering.sources.base import FetchError
from tests.rendering.broken_glb import ASSET, BROKEN, GOOD, TRIANGLE, glb, triangle_at

CAR = procedural.make_glb(f"procedural://{procedural.VERSION}/car/0/0")


@pytest.mark.parametrize("name", BROKEN)
def test_each_fault_has_its_reason(tmp_path, name):
    data, reason = BROKEN[name]
    (tmp_path / name).write_bytes(data)
    with pytest.raises(FetchError) as caught:
        check_file(tmp_path / name)
    assert caught.value.reason == reason, caught.value.detail


def test_good_files_pass(tmp_path):
    (tmp_path / "a.glb").write_bytes(glb(ASSET, b"\1\2\3\4"))
    assert check_file(tmp_path / "a.glb") == ASSET
    (tmp_path / "b.gltf").write_text(json.dumps(triangle_at("./sub/with%20space.bin")))
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "with space.bin").write_bytes(TRIANGLE)
    assert external_uris(check_file(tmp_path / "b.gltf")) == ["./sub/with space.bin"]


def test_the_content_digest_of_a_lone_file_is_its_sha256_and_covers_external_parts(tmp_path):
    (tmp_path / "a.glb").write_bytes(GOOD)
    assert content_sha256(tmp_path / "a.glb") == hashlib.sha256(GOOD).hexdigest()
    (tmp_path / "b.gltf").write_text(json.dumps(ASSET | {"buffers": [{"uri": "b.bin"}]}))
    (tmp_path / "b.bin").write_bytes(b"one")
    before = content_sha256(tmp_path / "b.gltf")
    (tmp_path / "b.bin").write_bytes(b"two")
    assert content_sha256(tmp_path / "b.gltf") != before


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(at=st.integers(0, 700), replacement=st.binary(min_size=1, max_size=6), cut=st.integers(0, 40))
def test_damaged_bytes_give_a_document_or_a_reason_and_nothing_else(tmp_path, at, replacement, cut):
    data = bytearray(CAR)
    data[at : at + len(replacement)] = replacement
    path = tmp_path / "x.glb"
    path.write_bytes(bytes(data[: len(data) - cut]))
    try:
        assert isinstance(check_file(path), dict)
    except FetchError as error:
        assert error.reason and error.detail


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("CC-BY-4.0 (http://creativecommons.org/licenses/by/4.0/)", "CC-BY-4.0"),
        ("Copyright 2018 Analytical Graphics, Inc, CC-BY 4.0 https://creativecommons.org/licenses/by/4.0/", "CC-BY-4.0"),
        ("CC BY-NC-SA 3.0", "CC-BY-NC-SA-3.0"),
        ("https://creativecommons.org/licenses/by-nd/4.0/", "CC-BY-ND-4.0"),
        ("CC0 1.0 Universal", "CC0-1.0"),
        ("https://creativecommons.org/publicdomain/zero/1.0/", "CC0-1.0"),
        ("CC-BY", "CC-BY"),
        ("MIT", "MIT"),
        ("(c) somebody, all rights reserved", "unknown"),
        ("", "unknown"),
    ],
)
def test_licences_by_the_words_people_use(text, name):
    assert licence_name(text) == name


def test_the_licence_field_wins_over_the_notice_and_odd_ones_are_passed_on():
    document = {"asset": {"copyright": "CC0", "extras": {"license": "CC-BY-NC-4.0", "author": "Ann", "title": "Cup"}}}
    assert licence_in_file(document) == ("CC-BY-NC-4.0", "Cup, Ann")
    assert licence_in_file({"asset": {"extras": {"license": "Sketchfab Standard"}}})[0] == "Sketchfab Standard"
    assert licence_in_file({"asset": {"extras": [1]}}) == ("unknown", "")


def test_real_files_are_read(assets: Path):
    licences = {path.name: licence_in_file(read_document(path)) for path in sorted(assets.glob("*.gl*"))}
    assert licences["egyptian_cat_webp.glb"][0] == "CC-BY-4.0" and "Ankledot" in licences["egyptian_cat_webp.glb"][1]
    assert licences["mixer_cameras.glb"][0] == "CC-BY-4.0" and "Shopify" in licences["mixer_cameras.glb"][1]
    assert licences["sunglasses_transmission.glb"][0] == "CC-BY-4.0"
    assert licences["milk_truck.glb"] == ("unknown", "")
    truck = read_document(assets / "milk_truck_external" / "CesiumMilkTruck.gltf")
    assert external_uris(truck) == ["CesiumMilkTruck.png", "CesiumMilkTruck0.bin"]
