"""The score-views tool on folders of pictures."""

import json

import numpy as np
import pytest
from PIL import Image

from evaluation.metrics.image import compare_images
from evaluation.metrics.learned import LocalWeights
from evaluation.score_views import FolderOptions, convention_table, score_views
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


def test_views_that_the_model_was_given_can_be_left_out_and_it_is_said(folders):
    reference, generated = folders
    Image.open(reference / "000.png").save(generated / "000.png")  # an input view, handed back as it came
    leaked, honest = score_views(*folders), score_views(*folders, FolderOptions(exclude=("000",)))
    assert leaked["identical_views"] == 1 and leaked["psnr"] > honest["psnr"] + 20
    assert honest["left_out"] == ["000"] and honest["completed"] == 2 and "1 pictures" in honest["protocol"]["input_views"]
    assert [view["name"] for view in score_views(*folders, FolderOptions(include=("sub/*", "002")))["views"]] == ["002", "sub/001"]
    (generated / "000.png").unlink()  # what is left out need not be there
    assert score_views(*folders, FolderOptions(exclude=("000",)))["psnr"] == honest["psnr"]
    with pytest.raises(UserError, match="leave no picture"):
        score_views(*folders, FolderOptions(include=("9*",)))


def test_objects_are_folders_and_have_figures_of_their_own(folders):
    answer = score_views(*folders)
    assert set(answer["objects"]) == {"", "sub"} and answer["objects"]["sub"]["psnr"] == answer["views"][2]["psnr"]
    assert answer["over_objects"]["psnr"]["objects"] == 2 and answer["over_objects"]["psnr"]["std"] is not None


def test_pictures_without_alpha_count_as_on_white_without_masks(folders):
    """The same figures as with alpha over the full frame; none where the object would have to be known."""
    reference, generated = folders
    with_alpha = score_views(*folders)
    for folder in folders:
        for path in folder.rglob("*.png"):
            white = Image.new("RGBA", (24, 24), "white")
            white.alpha_composite(Image.open(path))
            white.convert("RGB").save(path)
    with pytest.raises(UserError, match="no alpha") as error:
        score_views(*folders)
    assert "--background white" in error.value.mend
    answer = score_views(*folders, FolderOptions(background="white"))
    assert answer["psnr"] == pytest.approx(with_alpha["psnr"], abs=0.01) and answer["ssim"] == pytest.approx(with_alpha["ssim"], abs=1e-3)
    assert answer["mask_iou"] is None and answer["psnr_foreground"] is None and "no masks" in answer["reasons"]["mask_iou"]
    with pytest.raises(UserError, match="unknown background"):
        score_views(*folders, FolderOptions(background="black"))


def test_masks_from_a_folder_stand_for_alpha(folders, tmp_path):
    with_alpha = score_views(*folders)
    for folder in folders:
        for path in sorted(folder.rglob("*.png")):
            mask = tmp_path / f"{folder.name}_masks" / path.relative_to(folder)
            mask.parent.mkdir(parents=True, exist_ok=True)
            picture = Image.open(path)
            picture.getchannel("A").save(mask)
            picture.convert("RGB").save(path)
    masks = FolderOptions(reference_masks=tmp_path / "reference_masks", generated_masks=tmp_path / "generated_masks")
    answer = score_views(*folders, masks)
    assert {key: answer[key] for key in ("psnr", "psnr_foreground", "ssim", "mask_iou")} == {
        key: with_alpha[key] for key in ("psnr", "psnr_foreground", "ssim", "mask_iou")
    }
    (tmp_path / "generated_masks" / "002.png").unlink()
    with pytest.raises(UserError, match="no mask of 002"):
        score_views(*folders, masks)
    Image.new("L", (5, 5)).save(tmp_path / "generated_masks" / "002.png")
    with pytest.raises(UserError, match="mask of 002 .* 5 x 5 px"):
        score_views(*folders, masks)


def test_a_protocol_brings_pictures_to_its_size_and_lens(folders, tmp_path):
    """Generated at fov 60 and twice the size: cropped and reduced, a smooth picture of the plane z = 1 is that of the other lens."""
    slope = {60.0: np.tan(np.radians(30)), 49.134: np.tan(np.radians(24.567))}

    def gradient(fov: float, size: int) -> np.ndarray:
        x = ((np.arange(size) + 0.5) / size * 2 - 1) * slope[fov]
        level = np.tile(128 + 150 * x, (size, 1))
        return np.stack([level, level, level, np.full_like(level, 255)], -1).round().astype(np.uint8)

    for folder, fov, size in (("a", 49.134, 300), ("b", 60.0, 600)):
        (tmp_path / folder).mkdir()
        Image.fromarray(gradient(fov, size)).save(tmp_path / folder / "000.png")
    options = FolderOptions("syncdreamer-gso30", reference_fov_deg=49.134, generated_fov_deg=60.0)
    answer = score_views(tmp_path / "a", tmp_path / "b", options)
    assert answer["psnr"] > 45 and "ssim_auto_range" in answer and "0.7918" in answer["protocol"]["fov_fit"]
    unfitted = score_views(tmp_path / "a", tmp_path / "b", FolderOptions("syncdreamer-gso30"))
    assert unfitted["psnr"] < 35 and unfitted["protocol"]["fov_fit"] == "none"
    with pytest.raises(UserError, match="one field of view alone"):
        score_views(tmp_path / "a", tmp_path / "b", FolderOptions(generated_fov_deg=60.0))


def test_several_seeds_are_averaged_and_the_best_is_told_apart(folders, tmp_path):
    reference, generated = folders
    worse = tmp_path / "worse"
    for path in generated.rglob("*.png"):
        target = worse / path.relative_to(generated)
        target.parent.mkdir(parents=True, exist_ok=True)
        source = reference / "sub" / "001.png" if path.name == "001.png" else generated / "000.png"
        Image.open(source).save(target)
    one, two = score_views(reference, generated), score_views(reference, worse)
    both = score_views(reference, [generated, worse])
    assert both["psnr"] == pytest.approx((one["psnr"] + two["psnr"]) / 2) and both["completed"] == 6
    best = both["best_of"]["psnr"]
    assert best["seeds"] == 2 and best["best_seed"]["sub"] == 1
    assert best["best"]["mean"] == pytest.approx((max(one["objects"][""]["psnr"], two["objects"][""]["psnr"]) + 100.0) / 2)
    assert "best_of" not in one


def test_a_protocol_that_draws_views_wants_the_objects_name(folders, tmp_path):
    for kind in ("a", "b"):
        (tmp_path / kind).mkdir()
        for number in range(60):
            Image.fromarray(picture(number)).save(tmp_path / kind / f"{number:03d}.png")
    with pytest.raises(UserError, match="draws views by the object's name"):
        score_views(tmp_path / "a", tmp_path / "b", FolderOptions("instant3d-gso64"))
    drawn = [
        [view["name"] for view in score_views(tmp_path / "a", tmp_path / "b", FolderOptions("instant3d-gso64", object_name=name))["views"]]
        for name in ("shoe", "shoe-0123abcd", "lion")
    ]
    assert len(drawn[0]) == 10 and drawn[0] == drawn[1] != drawn[2]


def test_weights_that_are_named_and_wrong_are_refused_before_work(folders, tmp_path):
    for name, path in (("lpips", tmp_path / "none.safetensors"), ("clip", tmp_path / "none"), ("features", tmp_path / "none.pt")):
        with pytest.raises(UserError, match=f"{name}: .*none"):
            score_views(*folders, FolderOptions(weights=LocalWeights(**{name: str(path)})))
    answer = score_views(*folders)
    assert answer["lpips"] is None and answer["reasons"]["lpips"] == answer["sets"]["fid"]["note"] == "no weights were given"
    assert answer["protocol"]["learned"]["fid"]["unavailable"]


def test_table_of_conventions(folders):
    rows = convention_table(*folders, FolderOptions())
    assert rows[0]["value"] == pytest.approx(score_views(*folders)["psnr"])


def test_exported_objects_side_by_side_count_by_their_images_alone(folders, tmp_path):
    """As `export-views --out truth/shoe` writes them: masks and passes lie beside the pictures, object by object."""
    for kind, source in zip(("truth", "mine"), folders, strict=True):
        for name in ("shoe", "lion"):
            for part in ("images", "mask", "depth"):
                (tmp_path / kind / name / part).mkdir(parents=True)
                if part == "images" or kind == "truth":
                    Image.open(source / "000.png").save(tmp_path / kind / name / part / "000.png")
    answer = score_views(tmp_path / "truth", tmp_path / "mine")
    assert answer["completed"] == 2 and set(answer["objects"]) == {"shoe", "lion"}
