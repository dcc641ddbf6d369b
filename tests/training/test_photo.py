"""A user's picture becomes a condition picture: box, middle, alpha, and what is refused."""

import io

import numpy as np
import pytest
from PIL import Image

from infra.errors import UserError
from rendering.view_set import on_white
from training.photo import cut_out, framed


def scene(width: int, height: int, box: tuple[int, int, int, int], colour: tuple[int, int, int] = (200, 40, 10)) -> np.ndarray:
    """A filled box (left, top, right, bottom) on nothing."""
    rgba = np.zeros((height, width, 4), np.uint8)
    left, top, right, bottom = box
    rgba[top:bottom, left:right] = (*colour, 255)
    return rgba


@pytest.mark.parametrize(
    "box", [(10, 20, 70, 50), (0, 0, 30, 90), (60, 70, 100, 100)], ids=["inside", "at two edges", "in the last corner"]
)
@pytest.mark.parametrize("share", [0.75, 0.5, 1.0])
def test_the_longest_side_has_its_share_and_the_box_is_in_the_middle(box: tuple[int, int, int, int], share: float) -> None:
    made = framed(scene(100, 100, box), 96, share)
    width, height = box[2] - box[0], box[3] - box[1]
    scale = share * 96 / max(width, height)
    alpha = made[..., 3].astype(float) / 255
    rows, columns = np.mgrid[:96, :96] + 0.5
    # Analytic: area and centre of a box drawn with soft edges are those of the box.
    assert alpha.sum() == pytest.approx(width * height * scale**2, rel=0.03)
    assert (alpha * columns).sum() / alpha.sum() == pytest.approx(48, abs=0.5 * scale + 0.01)
    assert (alpha * rows).sum() / alpha.sum() == pytest.approx(48, abs=0.5 * scale + 0.01)
    assert (np.abs(made[alpha > 0][:, :3].astype(int) - (200, 40, 10)) <= 1).all()  # no dark rims
    assert not made[alpha == 0].any() and (on_white(made)[alpha == 0] == 1).all()


def test_a_wide_photo_is_padded_not_stretched() -> None:
    round_thing = scene(300, 120, (0, 0, 0, 0))
    y, x = np.mgrid[:120, :300]
    round_thing[(x - 200) ** 2 + (y - 60) ** 2 < 50**2] = (9, 99, 199, 255)
    seen = framed(round_thing, 64)[..., 3] >= 128
    assert np.ptp(np.flatnonzero(seen.any(0))) == pytest.approx(np.ptp(np.flatnonzero(seen.any(1))), abs=1)
    assert seen.any(0).sum() == pytest.approx(48, abs=1)


def test_alpha_comes_from_the_mask_the_alpha_channel_or_nowhere() -> None:
    rgba = scene(40, 30, (5, 5, 30, 25))
    mask = Image.new("L", (40, 30))
    mask.paste(255, (0, 0, 20, 20))
    picture = Image.fromarray(rgba)
    assert np.array_equal(cut_out(picture), rgba)
    assert np.array_equal(cut_out(picture, mask)[..., 3], np.asarray(mask))
    assert np.array_equal(cut_out(picture.convert("RGB"), mask.convert("1"))[..., 3], np.asarray(mask))
    assert (cut_out(picture.convert("RGB"), needs_mask=False)[..., 3] == 255).all()
    two = picture.convert("RGB").quantize(4)
    two.info["transparency"] = two.getpixel((0, 0))
    assert np.array_equal(cut_out(two)[..., 3], rgba[..., 3])
    for opaque in (picture.convert("RGB"), picture.convert("RGB").convert("RGBA"), picture.convert("L")):
        with pytest.raises(UserError, match="no transparent background"):
            cut_out(opaque)


def test_a_photo_is_turned_as_its_camera_noted() -> None:
    upright = Image.fromarray(scene(40, 30, (5, 5, 30, 10)))
    sideways = upright.transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: show it rotated clockwise
    file = io.BytesIO()
    sideways.save(file, "PNG", exif=exif)
    assert np.array_equal(cut_out(Image.open(file)), np.asarray(upright))


def test_an_empty_or_tiny_object_is_refused() -> None:
    with pytest.raises(UserError, match="empty"):
        framed(scene(40, 40, (0, 0, 0, 0)), 32)
    with pytest.raises(UserError, match="15 pixels long"):
        framed(scene(40, 40, (10, 10, 25, 20)), 32)
    for share in (0.0, 1.01):
        with pytest.raises(UserError, match="share"):
            framed(scene(40, 40, (0, 0, 30, 30)), 32, share)
