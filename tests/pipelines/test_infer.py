"""`mvforge infer`: a user's pictures to files on disk."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipelines.__main__ import main
from tests.training.painted import painted_views
from tests.training.random_model import random_model
from training.lookup import load_generator
from training.photo import framed, given_views


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_model(tmp_path_factory.mktemp("infer"))


@pytest.fixture
def photo(tmp_path: Path) -> tuple[Path, Path]:
    """A picture without alpha, wider than high, and its mask."""
    cut = Image.fromarray(painted_views("photo", 120, 1).rgba[32]).crop((0, 10, 120, 110))
    shown = Image.new("RGB", cut.size, (90, 120, 70))
    shown.paste(cut, mask=cut.getchannel("A"))
    shown.save(tmp_path / "photo.png")
    cut.getchannel("A").save(tmp_path / "mask.png")
    return tmp_path / "photo.png", tmp_path / "mask.png"


def test_pictures_become_views_with_cameras_and_a_sheet(
    model: Path, photo: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "views"
    picture, mask = map(str, photo)
    asked = ["--image", picture, "--mask", mask, "--steps", "2", "--seed", "7", "--sampler", "ddim"]
    assert main(["infer", "--model", str(model), *asked, "--out", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["views"] == 32
    cut = np.dstack([np.asarray(Image.open(picture)), np.asarray(Image.open(mask))])
    shown = given_views("photo", framed(cut, 512)[None])
    wanted = load_generator(model, "cpu").generate(shown, 7, steps=2, sampler="ddim")
    for number in (0, 31):
        with Image.open(out / "images" / f"{number:03d}.png") as image:
            assert image.mode == "RGBA" and np.array_equal(np.asarray(image), wanted.rgba[number])
    frames = json.loads((out / "transforms.json").read_text())["frames"]
    assert len(frames) == 32 and [frame["azimuth_deg"] for frame in frames[:8]] == [45.0 * a for a in range(8)]
    with Image.open(out / "given" / "000.png") as image:
        box = image.getchannel("A").point(lambda level: 255 * (level >= 128)).getbbox()
        assert image.size == (32, 32) and max(box[2] - box[0], box[3] - box[1]) == pytest.approx(24, abs=1)
    with Image.open(out / "sheet.png") as sheet:
        assert sheet.width > 9 * 96 and sheet.height > 4 * 96


def test_mistakes_name_the_file(model: Path, photo: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture, mask = map(str, photo)
    (tmp_path / "text.png").write_text("no picture")
    for options, message in (
        (["--image", picture], "photo.png: a picture has no transparent background"),
        (["--image", str(tmp_path / "text.png")], "text.png cannot be read"),
        (["--image", picture, "--image", picture, "--mask", mask], "2 pictures and 1 mask"),
        (["--image", picture, "--preprocess", "none"], "not square"),
        (["--image", picture, "--mask", mask, "--model", str(tmp_path)], "no mvforge.json"),
        (["--image", picture, "--mask", mask] * 11, "11 condition pictures"),
    ):
        assert main(["infer", "--model", str(model), "--steps", "1", "--out", str(tmp_path / "out"), *options]) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
