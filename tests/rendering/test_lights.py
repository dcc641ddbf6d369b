"""Lights: what is drawn, what is refused, and what real renders show under each."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import trimesh
from scipy import ndimage

from infra.errors import UserError
from rendering import lights
from rendering.blender import BlenderLimits, BlenderWorker, Rendered, RenderRequest
from rendering.cameras import Camera, orbit
from rendering.lights import WHITE, check_map, light_identity, lights_for, pinned_light, uniform
from rendering.render_config import RenderConfig
from rendering.rigs import RigViews
from rendering.view_set import TARGET, ViewSet
from tests.rendering import glbs, hdri

MATTE = glbs.each_material(KHR_materials_specular={"specularFactor": 0.0})
SIZE = 72


@pytest.fixture(scope="module")
def worker() -> Iterator[BlenderWorker]:
    with BlenderWorker(BlenderLimits(deadline_s=120)) as running:
        yield running


@pytest.fixture(scope="module")
def sphere(tmp_path_factory):
    """A white diffuse sphere of radius one half after normalisation, with smooth normals."""
    ball = glbs.coloured(trimesh.creation.icosphere(5), [1.0, 1.0, 1.0])
    return glbs.write(tmp_path_factory.mktemp("sphere") / "sphere.glb", ball, edit=MATTE)


def cameras(*azimuths: float, sets: tuple[int, ...] = ()) -> RigViews:
    count = len(azimuths)
    angles = np.array(azimuths, float), np.full(count, 20.0), np.full(count, 2.0)
    return RigViews("test", orbit(*angles, 40.0), (TARGET,) * count, *angles, sets)


def rendered(worker: BlenderWorker, mesh, views: RigViews, *spec, samples: int = 16) -> ViewSet:
    result = worker.render(RenderRequest("u", mesh, views, resolution=SIZE, samples=samples, denoise="none", lights=spec or (WHITE,)))
    assert isinstance(result, Rendered), result
    return result.views


def linear(rgba: np.ndarray) -> np.ndarray:
    """sRGB uint8 -> linear grey `[H, W]`."""
    value = rgba[..., :3].mean(-1) / 255.0
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)


def normals(camera: Camera, radius: float = 0.5) -> np.ndarray:
    """Unit outward normals `[H, W, 3]` of the sphere at the pixel centres of one camera, NaN beside it."""
    origin, direction = camera.rays(SIZE, SIZE)
    along = (origin * direction).sum(-1)
    root = along**2 - (origin**2).sum(-1) + radius**2
    distance = -along - np.sqrt(np.where(root > 0, root, np.nan))
    return (origin + distance[..., None] * direction) / radius


def unit(azimuth_deg: float, elevation_deg: float) -> np.ndarray:
    return orbit(azimuth_deg, elevation_deg, 1.0, 60.0).position[0]


def lit(kind: str, towards: np.ndarray, irradiance=(2.0, 2.0, 2.0), **more) -> dict:
    return {**uniform(0.0), "lamps": [{"kind": kind, "towards": towards.tolist(), "irradiance": list(irradiance), **more}]}


@pytest.mark.blender
def test_a_sun_gives_the_lambert_cosine(worker, sphere):
    towards, views = unit(60, 35), cameras(0, 100, 240)
    pictures = rendered(worker, sphere, views, lit("SUN", towards, angle_deg=0.0)).rgba
    compared = 0
    for view, rgba in enumerate(pictures):
        normal = normals(views.camera[view])
        expected = 2.0 / np.pi * np.maximum(normal @ towards, 0.0)
        inner = np.isfinite(expected) & (rgba[..., 3] == 255) & (np.abs(normal @ views.camera.position[view] / 2.0) > 0.35)
        assert np.abs(linear(rgba) - expected)[inner].max() < 0.02
        compared += (expected[inner] > 0.1).sum()
    assert compared > 1000


@pytest.mark.blender
def test_a_lamp_keeps_colour_strength_and_stays_out_of_the_picture(worker, sphere):
    towards = unit(0, 20)
    spec = lit("AREA", towards, irradiance=(2.0, 1.0, 0.5), distance=3.0, size=0.4)
    rgba = rendered(worker, sphere, cameras(0, 180), spec, samples=64).rgba
    middle = rgba[0, SIZE // 2 - 2 : SIZE // 2 + 2, SIZE // 2 - 2 : SIZE // 2 + 2].mean((0, 1))[:3]
    # The sphere's pole is 2.5 from a lamp that gives its irradiance at distance 3.
    expected = np.array([2.0, 1.0, 0.5]) / np.pi * (3.0 / 2.5) ** 2
    np.testing.assert_allclose(linear(np.repeat(middle[:, None], 3, -1)), expected, rtol=0.04)
    wide = lit("AREA", unit(0, -20), distance=3.0, size=4.0)  # right behind the sphere, and far larger
    behind = rendered(worker, sphere, cameras(180), wide).rgba[0]
    outside = ndimage.minimum_filter(np.isnan(normals(cameras(180).camera[0])[..., 0]), 5)
    assert outside.any() and (behind[outside] == 0).all() and (behind[SIZE // 2, SIZE // 2, 3] == 255)


@pytest.mark.blender
def test_an_environment_map_lights_from_where_it_says_and_turns_like_an_azimuth(worker, sphere, tmp_path):
    # Equirectangular as Blender reads it: the middle column is +X (azimuth 90), azimuth falls to the right, top row is up.
    file = hdri.spot(tmp_path / "spot.hdr", column=16, row=10)
    azimuth, elevation = 90 + 180 - 360 * 16.5 / 64, 90 - 180 * 10.5 / 32
    for turn in (0.0, 100.0):
        spec = {**WHITE, "file": str(file), "turn_deg": turn}
        views = cameras(azimuth + turn - 40, azimuth + turn + 40)
        pictures = rendered(worker, sphere, views, spec, samples=24).rgba
        normal = np.stack([normals(views.camera[view]) for view in range(2)])
        shown = np.isfinite(normal[..., 0]) & (pictures[..., 3] == 255)
        matrix, values = normal[shown], np.stack([linear(rgba) for rgba in pictures])[shown]
        bright = values > 0.25 * values.max()
        towards = np.linalg.lstsq(matrix[bright], values[bright], rcond=None)[0]
        towards /= np.linalg.norm(towards)
        assert np.degrees(np.arccos(towards @ unit(azimuth + turn, elevation))) < 2.5
        assert (pictures[:, :3, :, 3] == 0).all() and (pictures[:, :3, :, :3] == 0).all()  # the map itself is not seen


@pytest.mark.blender
def test_view_sets_of_one_object_have_their_own_light_in_any_order(worker, sphere, tmp_path):
    spec = (
        {**WHITE, "file": str(hdri.spot(tmp_path / "a.hdr", 10, 8))},
        uniform(0.5),
        lit("SUN", unit(0, 60), angle_deg=5.0),
    )
    views = rendered(worker, sphere, cameras(0, 90, 0, 90, 0, 90, sets=(0, 1, 2, 0, 1, 2)), *spec)
    mixed = views.rgba
    alone = [rendered(worker, sphere, cameras(0, 90), one).rgba for one in spec]
    told = views.facts["lights"]
    assert [light["file"] for light in told] == ["a.hdr", None, None] and views.facts["light_of_view"] == [0, 1, 2, 0, 1, 2]
    for view, (number, azimuth) in enumerate([(0, 0), (1, 1), (2, 0), (0, 1), (1, 0), (2, 1)]):
        assert np.abs(mixed[view].astype(int) - alone[number][azimuth]).max() <= 1
    white = rendered(worker, sphere, cameras(0)).rgba[0]
    assert np.abs(white[white[..., 3] == 255][:, :3].astype(int) - 255).max() <= 1  # nothing stays behind


@pytest.mark.blender
def test_one_light_serves_all_sets(worker, sphere):
    rgba = rendered(worker, sphere, cameras(0, 0, sets=(0, 1)), uniform(0.5)).rgba
    np.testing.assert_array_equal(rgba[0], rgba[1])


@pytest.fixture
def folder(tmp_path):
    place = tmp_path / "hdris"
    place.mkdir()
    for number in range(5):
        hdri.spot(place / f"{number}.hdr", column=number, row=3)
    return place


def test_lights_follow_from_uid_seed_and_set_only(folder):
    for light in ("random", f"hdri:{folder}", pinned_light(f"hdri:{folder}")):
        two, three = lights_for(light, "a", 1, sets=2), lights_for(light, "a", 1, sets=3)
        assert two == three[:2] and two[0] != two[1]
        json.dumps(two)
        assert lights_for(light, "b", 1)[0] != two[0] and lights_for(light, "a", 2)[0] != two[0]
    drawn = [lights_for(f"hdri:{folder}", str(number))[0] for number in range(200)]
    assert {light["file"] for light in drawn} == {str(folder / f"{number}.hdr") for number in range(5)}
    assert max(light["turn_deg"] for light in drawn) > 340 and min(light["turn_deg"] for light in drawn) < 20


def test_random_lights_stay_in_their_ranges():
    drawn = [lights_for("random", str(number))[0] for number in range(500)]
    lamps = [lamp for light in drawn for lamp in light["lamps"]]
    assert {len(light["lamps"]) for light in drawn} == {1, 2, 3} and {lamp["kind"] for lamp in lamps} == {"SUN", "AREA"}
    towards = np.array([lamp["towards"] for lamp in lamps])
    np.testing.assert_allclose(np.linalg.norm(towards, axis=-1), 1.0)
    assert towards[:, 2].min() >= 0 and abs(towards[:, 2].mean() - 0.5) < 0.05 and np.abs(towards[:, :2].mean(0)).max() < 0.08
    irradiance = np.array([lamp["irradiance"] for lamp in lamps])
    assert irradiance.min() >= 0.4 and irradiance.max() <= 1.5
    world = np.array([light["radiance"] for light in drawn])
    assert world.min() >= 0.15 and world.max() <= 0.5


def test_uniform_lights_are_what_evaluation_sets_use():
    assert lights_for("white", "u", sets=2) == (uniform(1.0),)
    assert lights_for("syncdreamer", "u") == (uniform(0.5),)


def test_a_folder_of_lights_is_known_by_its_content(folder, tmp_path):
    before, pinned = light_identity(f"hdri:{folder}"), pinned_light(f"hdri:{folder}")
    assert light_identity(pinned) == before and str(folder) not in before
    moved = shutil.copytree(folder, tmp_path / "elsewhere")
    assert light_identity(f"hdri:{moved}") == before
    hdri.spot(folder / "2.hdr", column=30, row=3)  # the same size, another picture
    lights._sha256_of_map.cache_clear()
    assert light_identity(f"hdri:{folder}") != before
    here, there = (RenderConfig(light=f"hdri:{place}") for place in (folder, moved))
    assert here.digest() != there.digest() and there.digest() == RenderConfig(light=pinned_light(f"hdri:{moved}")).digest()
    assert {RenderConfig().digest(), RenderConfig(light="random").digest()}.isdisjoint({here.digest(), there.digest()})
    hdri.spot(folder / "new.hdr", column=3, row=3)
    with pytest.raises(UserError, match="changed"):
        lights_for(pinned, "u")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("whit", "did you mean 'white'"),
        ("hdri:/no/such/folder", "cannot be read"),
        ("sunset", "choose one of"),
        ("hdri:", "holds no|broken|"),
    ],
)
def test_unknown_lights_are_refused(name, message):
    with pytest.raises(UserError, match=message):
        pinned_light(name)


def test_a_folder_may_have_any_name(folder, tmp_path):
    odd = folder.rename(tmp_path / "a#b c")
    pinned = pinned_light(f"hdri:{odd}")
    assert pinned_light(pinned) == pinned and lights_for(pinned, "u")[0]["file"].startswith(f"{odd}/")


def test_an_empty_folder_is_refused(tmp_path):
    (tmp_path / "readme.txt").write_text("no maps here")
    with pytest.raises(UserError, match="holds no .hdr or .exr"):
        pinned_light(f"hdri:{tmp_path}")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.hdr", b"", "no environment map"),
        ("a.hdr", b"#?RADIANCE\n\nnonsense\n", "no resolution"),
        ("a.hdr", b"#?RADIANCE\n\n-Y 99999 +X 99999\n", "99999x99999"),
        ("a.hdr", b"#?RADIANCE\n\n-Y 0 +X 5\n", "5x0"),
        ("a.exr", b"\x89PNG", "OpenEXR"),
        ("a.exr", b"\x76\x2f\x31\x01\x02\0\0\0", "no environment map"),
        ("a.exr", hdri.exr_header(40000, 20000), "40000x20000"),
        ("a.exr", hdri.exr_header(64, 32)[:-30], "no environment map"),
    ],
)
def test_files_that_are_no_maps_are_refused_before_blender_sees_them(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        pinned_light(f"hdri:{tmp_path}")


def test_an_openexr_header_is_read(tmp_path):
    (tmp_path / "good.exr").write_bytes(hdri.exr_header(4096, 2048))
    check_map(tmp_path / "good.exr")


@pytest.mark.blender
def test_a_map_with_a_good_header_and_no_pixels_is_this_objects_failure_or_dark(worker, sphere, tmp_path):
    (tmp_path / "cut.exr").write_bytes(hdri.exr_header(64, 32))
    spec = {**WHITE, "file": str(tmp_path / "cut.exr")}
    result = worker.render(replace(RenderRequest("u", sphere, cameras(0), resolution=16, samples=1), lights=(spec,)))
    assert not isinstance(result, Rendered) and result.reason in ("environment_map", "render_failed"), result


@pytest.mark.blender
def test_a_cut_map_is_never_taken_for_darkness(worker, sphere, tmp_path):
    whole = hdri.spot(tmp_path / "whole.hdr", column=4, row=2).read_bytes()
    (tmp_path / "cut.hdr").write_bytes(whole[: len(whole) // 3])
    spec = {**WHITE, "file": str(tmp_path / "cut.hdr")}
    result = worker.render(RenderRequest("u", sphere, cameras(0), resolution=16, samples=1, lights=(spec,)))
    assert not isinstance(result, Rendered) and result.reason == "environment_map", result
