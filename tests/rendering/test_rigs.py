import json

import numpy as np
import pytest

from infra.errors import UserError
from rendering.cameras import orbit
from rendering.render_config import RenderConfig
from rendering.rigs import RIGS, RigConfig, check_containment, rig_identity, rig_named
from rendering.view_set import CONDITION, TARGET


def test_mvdiffusionpp_has_32_targets_elevation_major_at_distance_one_and_a_half():
    rig = RIGS["mvdiffusionpp"]("any", RigConfig(num_conditions=0))
    for e, elevation in enumerate((-30, 0, 30, 60)):
        for a in range(8):
            assert (rig.elevation_deg[8 * e + a], rig.azimuth_deg[8 * e + a]) == (elevation, 45 * a)
    np.testing.assert_allclose(np.linalg.norm(rig.camera.position, axis=-1), 1.5)
    np.testing.assert_allclose(rig.camera.intrinsics[:, 0], 0.5 / np.tan(np.radians(30)))
    assert set(rig.roles) == {TARGET}


def test_condition_views_lie_on_the_eight_azimuths_and_fill_their_ranges():
    rig = RIGS["mvdiffusionpp"]("any", RigConfig(num_conditions=4000))
    conditions = [index for index, role in enumerate(rig.roles) if role == CONDITION]
    assert conditions == list(range(32, 4032))
    azimuths, counts = np.unique(rig.azimuth_deg[conditions], return_counts=True)
    np.testing.assert_array_equal(azimuths, np.arange(8) * 45.0)
    assert counts.min() > 400
    for values, low, high in ((rig.elevation_deg[conditions], -10, 45), (rig.radius[conditions], 1.5, 2.2)):
        assert low <= values.min() < low + 0.01 * (high - low) and high - 0.01 * (high - low) < values.max() <= high
        np.testing.assert_allclose(values.mean(), (low + high) / 2, atol=0.02 * (high - low))


def test_draws_depend_on_uid_and_seed_only():
    rig = RIGS["mvdiffusionpp"]
    few, many = rig("a", RigConfig(num_conditions=3)), rig("a", RigConfig(num_conditions=9))
    np.testing.assert_array_equal(few.camera.c2w, many.camera.c2w[: len(few)])
    assert not np.allclose(few.elevation_deg[32:], rig("b", RigConfig(num_conditions=3)).elevation_deg[32:])
    assert not np.allclose(few.elevation_deg[32:], rig("a", RigConfig(num_conditions=3, seed=1)).elevation_deg[32:])


def test_syncdreamer_focal_length_is_280_pixels_of_256():
    rig = RIGS["syncdreamer16"]("any", RigConfig())
    np.testing.assert_allclose(rig.camera.intrinsics[:, 0] * 256, 280.0)
    np.testing.assert_allclose(np.diff(rig.azimuth_deg), 22.5)
    assert len(rig) == 16 and set(rig.elevation_deg) == {30.0}


@pytest.mark.parametrize("name", sorted(RIGS))
def test_the_literal_reading_of_the_paper_is_refused(name):
    with pytest.raises(UserError, match="extent 2"):
        RIGS[name]("any", RigConfig(extent=2.0))


def test_containment_threshold():
    check_containment(1.0, 1.5, 60.0)
    with pytest.raises(UserError):
        check_containment(1.0, 1.5, 35.0)
    with pytest.raises(UserError):
        check_containment(1.0, 0.7, 120.0)


def test_an_unknown_rig_gets_the_nearest_name():
    with pytest.raises(UserError, match="mvdiffusionpp"):
        rig_named("mvdifusion")


def test_mvdream_draws_fov_elevation_distance_and_light_once_a_set():
    rigs = [RIGS["mvdream"](str(number), RigConfig()) for number in range(400)]
    for rig in rigs[:20]:
        assert len(rig) == 64 and set(rig.roles) == {TARGET} and rig.light_of_view == (0,) * 32 + (1,) * 32
        np.testing.assert_allclose(rig.azimuth_deg, np.tile(np.arange(32) * 360 / 32, 2))
        for values in (rig.fov_deg, rig.elevation_deg, rig.radius):
            np.testing.assert_allclose(values, np.repeat(values[[0, 32]], 32))
        assert abs(rig.fov_deg[0] - rig.fov_deg[32]) > 1e-3
    fov = np.concatenate([rig.fov_deg[[0, 32]] for rig in rigs])
    elevation = np.concatenate([rig.elevation_deg[[0, 32]] for rig in rigs])
    factor = np.concatenate([rig.radius[[0, 32]] for rig in rigs]) * np.tan(np.radians(fov) / 2) / 0.75
    for values, low, high in ((fov, 15, 60), (elevation, 0, 30), (factor, 0.9, 1.1)):
        assert low <= values.min() < low + 0.02 * (high - low) and high - 0.02 * (high - low) < values.max() <= high + 1e-9
        np.testing.assert_allclose(values.mean(), (low + high) / 2, atol=0.05 * (high - low))


def test_gso64_is_the_grid_of_four_elevations_with_the_four_inputs_last():
    rig = RIGS["gso64"]("any", RigConfig())
    grid = {(e, 22.5 * a) for e in (0, 20, 40, 60) for a in range(16)}
    assert set(zip(rig.elevation_deg, rig.azimuth_deg, strict=True)) == grid and len(rig) == 64
    inputs = [index for index, role in enumerate(rig.roles) if role == CONDITION]
    assert inputs == [60, 61, 62, 63]
    assert [(rig.elevation_deg[i], rig.azimuth_deg[i]) for i in inputs] == [(20, 45), (20, 135), (20, 225), (20, 315)]
    four = RIGS["instant3d"]("any", RigConfig())
    np.testing.assert_allclose(four.camera.c2w, rig.camera.c2w[60:])
    np.testing.assert_allclose(rig.fov_deg, 50.0)


def test_dmv3d_is_uniform_on_its_band_of_the_sphere():
    rigs = [RIGS["dmv3d"](str(number), RigConfig()) for number in range(100)]
    heights = np.concatenate([rig.camera.position[:, 2] / rig.radius for rig in rigs])
    radius, azimuth = np.concatenate([rig.radius for rig in rigs]), np.concatenate([rig.azimuth_deg for rig in rigs])
    for values, low, high in ((heights, *np.sin(np.radians([-20, 50]))), (radius, 1.5, 2.8), (azimuth, 0, 360)):
        parts, _ = np.histogram(values, 8, (low, high))  # an equal share of 3200 draws in each eighth of the range
        assert parts.sum() == 3200 and np.abs(parts - 400).max() < 90
    assert all(len(rig) == 32 and rig.light_of_view == (0,) * 32 for rig in rigs)
    np.testing.assert_allclose(rigs[0].fov_deg, 50.0)


def test_zero123pp_azimuths_are_relative_to_any_of_its_conditions():
    rig = RIGS["zero123pp"]("any", RigConfig(num_conditions=40))
    targets = {(30.0 + 60 * k, [20.0, -10.0][k % 2]) for k in range(6)}
    assert set(zip(rig.azimuth_deg[:6], rig.elevation_deg[:6], strict=True)) == targets
    for azimuth in np.unique(rig.azimuth_deg[6:]):
        turned = {((a - azimuth) % 360, e) for a, e in zip(rig.azimuth_deg[:6], rig.elevation_deg[:6], strict=True)}
        assert turned == targets
    assert set(rig.azimuth_deg[6:]) == {0.0, 120.0, 240.0}
    np.testing.assert_allclose(rig.fov_deg, 30.0)
    assert rig.roles == (TARGET,) * 6 + (CONDITION,) * 40


@pytest.mark.parametrize("name", sorted(RIGS))
def test_every_view_knows_where_it_is_and_depends_on_uid_and_seed_alone(name):
    rig, again = RIGS[name]("a", RigConfig()), RIGS[name]("a", RigConfig())
    np.testing.assert_array_equal(rig.camera.c2w, again.camera.c2w)
    expected = orbit(rig.azimuth_deg, rig.elevation_deg, rig.radius, rig.fov_deg)
    np.testing.assert_allclose(rig.camera.c2w, expected.c2w, atol=1e-12)
    np.testing.assert_allclose(rig.camera.intrinsics, expected.intrinsics)
    roles = list(rig.roles)
    assert roles == sorted(roles, key=(TARGET, CONDITION).index) and roles[0] == TARGET
    random = name not in ("instant3d", "gso64", "syncdreamer16", "gso30")
    for other in (RIGS[name]("b", RigConfig()), RIGS[name]("a", RigConfig(seed=1))):
        assert np.allclose(rig.camera.c2w, other.camera.c2w) != random


def test_selected_views_keep_what_belongs_to_them():
    rig = RIGS["mvdream"]("u", RigConfig())
    two = rig.select([40, 3])
    assert two.light_of_view == (1, 0) and len(two) == 2
    np.testing.assert_array_equal(two.camera.c2w, rig.camera.c2w[[40, 3]])
    np.testing.assert_array_equal(two.fov_deg, rig.fov_deg[[40, 3]])


RING = {
    "name": "ring",
    "fov_deg": 50,
    "radius": 1.8,
    "views": {"azimuth_deg": 10, "elevation_deg": 80, "radius": 2.5, "fov_deg": 40},
    "grids": [{"azimuths": 4, "elevation_deg": [0, 30]}, {"azimuth_deg": [5, 6], "elevation_deg": -10, "role": "condition"}],
    "random": {"count": 500, "elevation_deg": [-10, 45], "radius": [1.5, 2.2], "role": "condition", "light_set": 3},
}
RING_TOML = """
name = "ring"
fov_deg = 50
radius = 1.8
[[views]]
azimuth_deg = 10
elevation_deg = 80
radius = 2.5
fov_deg = 40
[[grids]]
azimuths = 4
elevation_deg = [0, 30]
[[grids]]
azimuth_deg = [5, 6]
elevation_deg = -10
role = "condition"
[random]
count = 500
elevation_deg = [-10, 45]
radius = [1.5, 2.2]
role = "condition"
light_set = 3
"""


@pytest.mark.parametrize("form", ["json", "toml", "inline"])
def test_a_rig_of_ones_own(tmp_path, form):
    (tmp_path / "ring.json").write_text(json.dumps(RING))
    (tmp_path / "ring.toml").write_text(RING_TOML)
    rig = rig_named(json.dumps(RING) if form == "inline" else f"file:{tmp_path}/ring.{form}")("u", RigConfig())
    assert rig.name == "ring" and rig.roles == (TARGET,) * 9 + (CONDITION,) * 502
    np.testing.assert_allclose(rig.azimuth_deg[:11], [10, 0, 90, 180, 270, 0, 90, 180, 270, 5, 6])
    np.testing.assert_allclose(rig.elevation_deg[:11], [80, 0, 0, 0, 0, 30, 30, 30, 30, -10, -10])
    np.testing.assert_allclose(rig.radius[:11], [2.5] + [1.8] * 10)
    np.testing.assert_allclose(rig.fov_deg[:11], [40] + [50] * 10)
    assert rig.light_of_view == (0,) * 11 + (1,) * 500
    for values, low, high in ((rig.azimuth_deg[11:], 0, 360), (rig.elevation_deg[11:], -10, 45), (rig.radius[11:], 1.5, 2.2)):
        assert low <= values.min() < low + 0.02 * (high - low) and high - 0.02 * (high - low) < values.max() <= high


def test_random_views_of_ones_own_rig_do_not_depend_on_their_number():
    few, many = ({**RING, "random": {**RING["random"], "count": count}} for count in (3, 8))
    a, b = (rig_named(json.dumps(rig))("u", RigConfig()) for rig in (few, many))
    np.testing.assert_array_equal(a.camera.c2w, b.camera.c2w[: len(a)])
    assert not np.allclose(a.camera.c2w, rig_named(json.dumps(few))("v", RigConfig()).camera.c2w)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"grid": []}, "did you mean 'grids'"),
        ({"views": {"azimut_deg": 1}}, "did you mean 'azimuth_deg'"),
        ({"views": {"azimuth_deg": 1, "elevation_deg": 90}}, "elevation_deg of the rig is 90"),
        ({"views": {"azimuth_deg": 1, "elevation_deg": "up"}}, "'up'"),
        ({"views": {"azimuth_deg": True, "elevation_deg": 1}}, "True"),
        ({"views": {"azimuth_deg": [1, 2], "elevation_deg": 1}}, "azimuth_deg"),
        ({"views": {"azimuth_deg": 1}}, "no elevation_deg"),
        ({"views": {"azimuth_deg": 1, "elevation_deg": 0, "role": "input"}}, "'target' or 'condition'"),
        ({"views": [1]}, "list of tables"),
        ({"fov_deg": 175}, "fov_deg of the rig is 175"),
        ({"radius": -1}, "radius of the rig is -1"),
        ({"radius": 0.9}, "sees a sphere of radius"),
        ({"radius": 0.6, "may_crop": True}, "distance 0.6"),
        ({"may_crop": 1}, "true or false"),
        ({"grids": {"azimuths": 100, "elevation_deg": list(range(50))}}, "more than 4096"),
        ({"grids": {"azimuths": 10**12, "elevation_deg": 0}}, "azimuths of the rig"),
        ({"grids": {"azimuths": 0, "elevation_deg": 0}}, "azimuths of the rig"),
        ({"grids": {"azimuths": 1, "elevation_deg": []}}, "at least one"),
        ({"random": {"count": 1, "elevation_deg": [5, 4]}}, r"\[low, high\]"),
        ({"random": {"count": -1, "elevation_deg": 4}}, "count of the rig"),
        ({"random": {"count": 1, "elevation_deg": 4, "light_set": 0.5}}, "light_set"),
        ({"views": [], "grids": [], "random": {"count": 2, "elevation_deg": 0, "role": "condition"}}, "no target view"),
        ({"random": {"count": 1, "elevation_deg": 4, "radius": [0.9, 90]}}, "distance 0.9"),
        ({"name": "mvdream"}, "'mvdream'"),
        ({"name": "../x"}, "letters"),
        ({"name": 3}, "letters"),
    ],
)
def test_a_wrong_rig_file_is_refused_with_its_reason(change, message):
    with pytest.raises(UserError, match=message):
        rig_named(json.dumps({**RING, **change}))("u", RigConfig())


def test_a_rig_of_ones_own_may_crop_on_purpose():
    close = {**RING, "radius": 0.9, "may_crop": True}
    assert len(rig_named(json.dumps(close))("u", RigConfig())) == 511


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "cannot be read"),
        (b"[1]", "no table"),
        (b"\xff\xfe", "cannot be read"),
        (b"[" * 100000, "cannot be read"),
        (b'{"radius": NaN}', "NaN|no number"),
    ],
)
def test_unreadable_rig_files_are_refused(tmp_path, content, message):
    (tmp_path / "rig.json").write_bytes(content)
    with pytest.raises(UserError, match=message):
        rig_named(f"file:{tmp_path}/rig.json")
    with pytest.raises(UserError, match="cannot be read"):
        rig_named(f"file:{tmp_path}/missing.json")
    (tmp_path / "large.json").write_bytes(b" " * (2 << 20))
    with pytest.raises(UserError, match="larger than"):
        rig_named(f"file:{tmp_path}/large.json")


def test_a_changed_rig_file_is_another_render(tmp_path):
    place = tmp_path / "rig.json"
    place.write_text(json.dumps(RING))
    first = RenderConfig(rig=f"file:{place}")
    place.write_text(json.dumps(RING, indent=4))
    assert RenderConfig(rig=f"file:{place}").digest() == first.digest()  # only its form changed
    assert RenderConfig(rig=first.rig) == first  # workers get the content and need no file
    place.write_text(json.dumps({**RING, "radius": 1.9}))
    assert RenderConfig(rig=f"file:{place}").digest() != first.digest()
    with pytest.raises(UserError, match="did you mean 'mvdream'"):
        RenderConfig(rig="mvdreem")
    assert rig_identity("mvdream") == "mvdream"
