"""Image metrics against closed forms, scikit-image, and the traps of the field."""

import math

import numpy as np
import pytest
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from evaluation.metrics.image import PSNR_CAP_DB, compare_images, mask_iou, mask_of, psnr, ssim
from rendering.view_set import on_white


def noise(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).random(shape)


def disc(size: int, radius: float, rgb=(200, 60, 30)) -> np.ndarray:
    y, x = np.mgrid[:size, :size] + 0.5 - size / 2
    image = np.zeros((size, size, 4), np.uint8)
    inside = x**2 + y**2 < radius**2
    image[inside] = (*rgb, 255)
    return image


def test_psnr_of_a_constant_offset_is_its_closed_form():
    assert psnr(np.full((8, 8, 3), 0.5), np.full((8, 8, 3), 0.6)) == pytest.approx(20.0)
    assert psnr(np.zeros((8, 8, 3)), np.ones((8, 8, 3))) == pytest.approx(0.0)


def test_psnr_agrees_with_scikit_image():
    a, b = noise(0, 33, 47, 3), noise(1, 33, 47, 3)
    assert psnr(a, b) == pytest.approx(peak_signal_noise_ratio(a, b, data_range=1.0), abs=1e-12)


@pytest.mark.parametrize("multichannel", [True, False])
def test_ssim_agrees_with_scikit_image(multichannel):
    a = noise(0, 40, 31, 3)
    b = np.clip(a + 1.5 * (noise(1, 40, 31, 3) - 0.5), 0, 1) if multichannel else np.repeat(a.mean(-1, keepdims=True), 3, -1)
    oracle = structural_similarity(a, b, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=1.0, channel_axis=-1)
    assert ssim(a, b) == pytest.approx(oracle, abs=1e-10)
    # The trap: the library's defaults (7 x 7 uniform window, sample covariance) give another number.
    assert abs(ssim(a, b) - structural_similarity(a, b, data_range=1.0, channel_axis=-1)) > 1e-3


def test_ssim_of_constant_pictures_is_a_number():
    assert ssim(np.ones((12, 12, 3)), np.ones((12, 12, 3))) == pytest.approx(1.0)
    # mean 1 against 0: (2 * 0 + c1) / (1 + c1) with c1 = 1e-4
    assert ssim(np.ones((12, 12, 3)), np.zeros((12, 12, 3))) == pytest.approx(1e-4 / (1 + 1e-4))


def test_small_pictures_and_different_sizes_are_refused():
    assert ssim(np.ones((11, 11, 3)), np.ones((11, 11, 3))) == pytest.approx(1.0)
    with pytest.raises(ValueError, match="11 px"):
        ssim(np.ones((10, 64, 3)), np.ones((10, 64, 3)))
    with pytest.raises(ValueError, match="shape"):
        compare_images(np.zeros((16, 16, 4), np.uint8), np.zeros((16, 17, 4), np.uint8))


def test_white_background_raises_full_frame_psnr_by_its_share():
    """An object on 1/16 of the frame gains exactly 10 log10(16) = 12.04 dB from the white around it."""
    truth = np.zeros((32, 32, 4), np.uint8)
    truth[8:16, 8:16] = (100, 100, 100, 255)
    made = truth.copy()
    made[8:16, 8:16, :3] = 120
    figures = compare_images(truth, made)
    assert figures["psnr"] - figures["psnr_foreground"] == pytest.approx(10 * math.log10(16), abs=1e-4)
    assert figures["psnr_foreground"] == pytest.approx(20 * math.log10(255 / 20), abs=1e-4)


def test_foreground_is_the_reference_mask_not_the_generated_one():
    truth, made = disc(32, 8), disc(32, 12)
    assert compare_images(truth, made)["psnr_foreground"] == PSNR_CAP_DB  # all that is wrong lies outside the true object
    assert compare_images(made, truth)["psnr_foreground"] < 20


def test_identical_pictures_are_infinite_but_capped_in_tables():
    a = disc(24, 7)
    assert psnr(on_white(a), on_white(a)) == math.inf
    assert compare_images(a, a) == {"psnr": PSNR_CAP_DB, "psnr_foreground": PSNR_CAP_DB, "ssim": pytest.approx(1.0), "mask_iou": 1.0}


def test_the_cap_lies_above_the_smallest_difference_of_a_512_px_picture():
    a = np.zeros((512, 512, 3))
    b = a.copy()
    b[0, 0, 0] = 1 / 255
    assert psnr(a, b) == pytest.approx(-10 * math.log10((1 / 255) ** 2 / (512 * 512 * 3)))
    assert psnr(a, b) > PSNR_CAP_DB  # beyond it, a single step of one channel counts as identical


def test_colour_under_zero_alpha_does_not_count():
    a = disc(32, 9)
    b = a.copy()
    b[a[..., 3] == 0, :3] = 77
    assert compare_images(a, b)["psnr"] == PSNR_CAP_DB


def test_edges_are_composited_not_cut():
    """Half-covered red on white is (1, .5, .5), whatever an 'alpha == 0' test would make of it."""
    a = np.zeros((16, 16, 4), np.uint8)
    a[...] = (255, 0, 0, 51)
    b = np.full((16, 16, 4), 255, np.uint8)
    assert compare_images(a, b)["psnr"] == pytest.approx(-10 * math.log10(0.2**2 * 2 / 3), abs=1e-4)


def test_mask_iou_of_half_overlap_and_of_empty_masks():
    a, b = np.zeros((10, 10), bool), np.zeros((10, 10), bool)
    assert mask_iou(a, b) == 1.0
    a[:, :6], b[:, 3:9] = True, True
    assert mask_iou(a, b) == pytest.approx(3 / 9)
    assert mask_iou(a, np.zeros_like(a)) == 0.0


def test_mask_threshold_is_one_half():
    image = np.zeros((1, 2, 4), np.uint8)
    image[0, :, 3] = 127, 128
    assert mask_of(image).tolist() == [[False, True]]


def test_an_empty_reference_has_no_foreground_figure():
    assert compare_images(np.zeros((16, 16, 4), np.uint8), disc(16, 5))["psnr_foreground"] is None


def test_more_noise_is_never_better():
    truth = disc(48, 15)
    previous = {"psnr": math.inf, "ssim": 2.0}
    for amplitude in (0, 5, 20, 60):
        made = truth.copy()
        rng = np.random.default_rng(3)
        made[..., :3] = np.clip(truth[..., :3] + amplitude * (rng.random((48, 48, 3)) - 0.5), 0, 255)
        figures = compare_images(truth, made)
        assert figures["psnr"] < previous["psnr"] and figures["ssim"] < previous["ssim"]
        previous = figures
