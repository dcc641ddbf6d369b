"""From linear premultiplied light to 8-bit pictures: against the formula of the standard, and against known noise."""

import numpy as np
import pytest
from skimage.metrics import peak_signal_noise_ratio

from rendering.develop import developed, noise_db


def layers(colour, alpha, **more):
    shape = np.shape(alpha)
    combined = np.concatenate([np.broadcast_to(colour, (*shape, 3)) * np.asarray(alpha)[..., None], np.asarray(alpha)[..., None]], -1)
    return {"Combined": combined.astype(np.float32), **more}


def srgb(linear):
    """IEC 61966-2-1, one value at a time."""
    return 12.92 * linear if linear <= 0.0031308 else 1.055 * linear ** (1 / 2.4) - 0.055


def test_every_level_of_light_becomes_its_srgb_level():
    linear = np.linspace(0, 1, 5001, dtype=np.float32)
    combined = np.ones((1, 5001, 4), np.float32)
    combined[..., :3] = linear[None, :, None]
    found = developed({"Combined": combined}, [], np.eye(3))["rgba"][0, :, 0]
    exact = np.array([255 * srgb(float(value)) for value in linear])
    assert np.abs(found - exact).max() < 0.56  # rounding, and a twentieth of a level from the table


@pytest.mark.parametrize(("light", "level"), [(1.0, 255), (0.5, 188), (0.0, 0), (7.0, 255)])
def test_straight_alpha_keeps_the_colour_of_thin_coverage(light, level):
    """Edge pixels have the colour of what they show, whatever part of them it covers."""
    rgba = developed(layers([light] * 3, np.array([[1.0, 0.5, 0.02, 0.0]])), [], np.eye(3))["rgba"]
    assert rgba[0, :3, :3].tolist() == [[level] * 3] * 3
    assert rgba[0, 3].tolist() == [0, 0, 0, 0] and rgba[0, :, 3].tolist() == [255, 128, 5, 0]


def test_alpha_that_rounds_to_nothing_takes_its_passes_along():
    alpha = np.array([[0.001, 1.0]])
    more = {"Depth": np.array([[2.0, 3.0]], np.float32), "Normal": np.ones((1, 2, 3), np.float32), "albedo": np.ones((1, 2, 3), np.float32)}
    found = developed(layers([1.0] * 3, alpha, **more), ["depth", "normal", "albedo"], np.eye(3))
    assert found["rgba"][0, 0].tolist() == [0] * 4
    assert found["depth"][0].tolist() == [0.0, 3.0]
    assert not found["normal"][0, 0].any() and np.allclose(np.linalg.norm(found["normal"][0, 1]), 1)
    assert found["albedo"][0].tolist() == [[0, 0, 0], [255, 255, 255]]


def test_depth_of_nothing_is_zero_and_normals_are_turned_and_made_unit():
    turn = np.array([[0.0, 1, 0], [0, 0, -1], [-1, 0, 0]])
    world = np.array([[[0.3, 0.0, 0.0], [0.0, 0.0, 0.2]]], np.float32)  # means of few samples: short
    found = developed(
        layers([0.2] * 3, np.ones((1, 2)), Depth=np.array([[1e10, 1.5]], np.float32), Normal=world), ["depth", "normal"], turn
    )
    assert found["depth"][0].tolist() == [0.0, 1.5]
    assert np.allclose(found["normal"][0], [[0, 0, -1], [0, -1, 0]])


def test_noise_of_a_pair_is_the_psnr_of_each_against_the_truth():
    random = np.random.default_rng(3)
    truth = random.integers(60, 190, (64, 64, 3))
    pair = []
    for _ in range(2):
        noisy = np.clip(np.rint(truth + random.normal(0, 6, truth.shape)), 0, 255).astype(np.uint8)
        pair.append(np.concatenate([noisy, np.full((64, 64, 1), 255, np.uint8)], -1))
    against_truth = peak_signal_noise_ratio(truth.astype(np.uint8), pair[0][..., :3])
    assert noise_db(*pair) == pytest.approx(against_truth, abs=0.2)


def test_empty_pictures_have_no_noise():
    nothing = np.zeros((4, 4, 4), np.uint8)
    assert noise_db(nothing, nothing) == float("inf")
