from dataclasses import replace

import numpy as np
import pytest

from rendering.rigs import RIGS, RigConfig
from rendering.sheet import contact_sheet, view_grid
from rendering.view_set import ViewSet


def flat_views(num_conditions: int = 2) -> ViewSet:
    """Every view is one colour that encodes its index."""
    rig = RIGS["mvdiffusionpp"]("u", RigConfig(num_conditions=num_conditions))
    rgba = np.full((len(rig), 8, 8, 4), 255, np.uint8)
    rgba[..., 0] = 6 * np.arange(len(rig))[:, None, None]
    rgba[..., 1:3] = 0
    return ViewSet("u", rgba, rig.camera, rig.roles, rig.azimuth_deg, rig.elevation_deg, rig.radius, rig.name, "painted")


def test_rows_fall_in_elevation_and_columns_rise_in_azimuth():
    rows, azimuths, elevations = view_grid(flat_views())
    assert elevations == [60, 30, 0, -30] and azimuths == [45.0 * step for step in range(8)]
    assert rows == [[8 * e + a for a in range(8)] for e in (3, 2, 1, 0)]


def test_columns_start_at_the_first_target_and_missing_views_leave_a_hole():
    views = flat_views().turned(90)
    assert view_grid(views)[1] == [90, 135, 180, 225, 270, 315, 0, 45]
    assert view_grid(flat_views().select([8, 10, 18]))[0] == [[None, 2], [0, 1]]


def test_every_view_is_on_the_sheet_where_its_neighbours_are():
    pixels = np.asarray(contact_sheet([flat_views()], cell_px=8)).astype(int)
    found = {}
    for index in range(34):
        y, x = np.nonzero((pixels == [6 * index, 0, 0]).all(-1))
        assert len(y) >= 30, index
        found[index] = (y.mean(), x.mean())
    assert found[32][1] < found[0][1]  # conditions stand in front
    assert found[8][0] < found[0][0] and found[1][1] > found[0][1]  # higher elevation above, next azimuth to the right


def test_alpha_shows_the_chosen_background():
    views = flat_views(0)
    clear = replace(views, rgba=np.zeros_like(views.rgba))
    white = np.asarray(contact_sheet([clear], cell_px=8))
    checker = np.asarray(contact_sheet([clear], cell_px=8, background="checker"))
    assert (checker == 205).all(-1).sum() > (white == 205).all(-1).sum() + 32 * 20
    with pytest.raises(ValueError, match="checker"):
        contact_sheet([clear], background="black")


def test_sets_are_stacked_and_an_empty_sheet_is_still_a_picture():
    one, two = contact_sheet([flat_views()], cell_px=8), contact_sheet([flat_views()] * 2, cell_px=8, labels=["a", "b"])
    assert two.width == one.width and two.height > 1.8 * one.height
    assert contact_sheet([]).size[0] > 0


def test_white_objects_are_seen_on_grey():
    rig = RIGS["syncdreamer16"]("u", RigConfig())
    rgba = np.zeros((len(rig), 8, 8, 4), np.uint8)
    rgba[:, 2:6, 2:6] = 255
    views = ViewSet("u", rgba, rig.camera, rig.roles, rig.azimuth_deg, rig.elevation_deg, rig.radius, rig.name, "painted")
    sheet = np.asarray(contact_sheet([views], cell_px=8, background="grey"))
    assert (sheet == 208).all(-1).sum() > 16 * 16
