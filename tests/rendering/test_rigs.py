import numpy as np
import pytest

from infra.errors import UserError
from rendering.rigs import RIGS, RigConfig, check_containment, rig_named
from rendering.views import CONDITION, TARGET


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
