"""The score-views tool on folders of pictures."""

import json

import numpy as np
import pytest
from PIL import Image

from evaluation.metrics.image import compare_images
from evaluation.score_views import score_views
from infra.errors import UserError


def picture(seed: int, size: int = 24) -> np.ndarray:
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (size, size, 4), dtype=np.uint8)
    image[..., 3] = np.where(np.add.outer(np.arange(size), np.arange(size)) < size, 255, 0)
    return image


@pytest.fixture
def folders(tmp_path):
    for kind, offset in (("reference", 0), ("generated", 10)):
        for name, seed in (("000", 0), ("sub/001", 1), ("002", 2)):
            path = tmp_path / kind / f"{name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture(seed + offset)).save(path)
    return tmp_path / "reference", tmp_path / "generated"


def test_mean_over_views_of_the_views_figures(folders):
    answer = score_views(*folders)
    expected = [compare_images(picture(i), picture(i + 10)) for i in (0, 2, 1)]
    assert [view["name"] for view in answer["views"]] == ["000", "002", "sub/001"]
    for metric in ("psnr", "psnr_foreground", "ssim", "mask_iou"):
        assert [view[metric] for view in answer["views"]] == [one[metric] for one in expected]
        assert answer[metric] == pytest.approx(np.mean([one[metric] for one in expected]))
    assert (answer["completed"], answer["failed"], answer["rejected"], answer["identical_views"]) == (3, 0, 0, 0)
    assert json.loads(json.dumps(answer, allow_nan=False)) == answer


def test_a_folder_against_itself(folders):
    answer = score_views(folders[0], folders[0])
    assert (answer["psnr"], answer["mask_iou"], answer["identical_views"]) == (100.0, 1.0, 3)
    json.dumps(answer, allow_nan=False)


def test_png_pairs_with_webp(folders):
    reference, generated = folders
    Image.open(generated / "000.png").save(generated / "000.webp", lossless=True, exact=True)
    before = score_views(*folders) if not (generated / "000.png").unlink() else None
    assert before["views"][0]["psnr"] == compare_images(picture(0), picture(10))["psnr"]


def test_palette_and_grey_pictures_with_alpha_are_read(folders):
    reference, generated = folders
    Image.open(generated / "000.png").convert("LA").save(generated / "000.png")
    Image.open(generated / "002.png").quantize(64).save(generated / "002.png")
    assert score_views(*folders)["completed"] == 3


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        ("missing", "no partner in the generated folder: .*002.png"),
        ("extra", "no partner in the reference folder: .*009.png"),
        ("alpha", "generated/002.png has no alpha"),
        ("size", "24 x 24 px, .*generated/002.png is 20 x 24"),
        ("broken", "cannot read .*generated/002.png"),
        ("text", "cannot read .*generated/002.png"),
        ("empty", "no pictures in .*generated"),
        ("absent", "no such folder: .*generated"),
        ("tiny", "002.png is 8 x 8 px"),
        ("twice", "have one name"),
    ],
)
def test_wrong_input_names_the_file(folders, harm, words):
    reference, generated = folders
    path = generated / "002.png"
    if harm == "missing":
        path.unlink()
    elif harm == "extra":
        Image.fromarray(picture(9)).save(generated / "009.png")
    elif harm == "alpha":
        Image.fromarray(picture(12)).convert("RGB").save(path)
    elif harm == "size":
        Image.fromarray(picture(12)[:, :20]).save(path)
    elif harm == "broken":
        path.write_bytes(path.read_bytes()[:300])
    elif harm == "text":
        path.write_text("not a picture")
    elif harm == "tiny":
        for folder in folders:
            Image.fromarray(picture(2)[:8, :8]).save(folder / "002.png")
    elif harm == "twice":
        Image.fromarray(picture(12)).save(generated / "002.webp")
    else:
        for file in sorted(generated.rglob("*.png")):
            file.unlink()
        if harm == "absent":
            (generated / "sub").rmdir()
            generated.rmdir()
    with pytest.raises(UserError, match=words) as error:
        score_views(*folders)
    assert error.value.mend
