"""Sample grids and their figures: against a denoiser that knows the answer, against pictures and metrics made another way."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from skimage.metrics import peak_signal_noise_ratio

from infra.errors import UserError
from infra.seeds import rng_for
from infra.storage import Location
from rendering.view_set import on_white
from tests.training.painted import painted_views
from training.diffusion.objective import target_of
from training.methods import METHODS
from training.methods.base import TrainObject
from training.methods.mvdiffusionpp_preview import GAP, SMALLEST_TILE, preview_samples
from training.methods.mvdiffusionpp_vae import open_vae
from training.methods.mvdiffusionpp_views import choose_views
from training.pictures import write_pictures
from training.plots import loss_plot

METHOD = METHODS["mvdiffusionpp"]
CONFIG = METHOD.smoke()
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def vae_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("mvae")
    trainable = METHOD.trainable("mvae", CONFIG, {})
    trainable.save(trainable.build(), folder)
    return folder


@pytest.fixture(scope="module")
def objects(vae_folder: Path) -> list[TrainObject]:
    encode = METHOD.encoder("mvae", CONFIG, vae_folder, "cpu")
    return [TrainObject(views, encode(views)) for views in (painted_views("a"), painted_views("b"))]


@pytest.mark.parametrize("stage", ["unet1", "unet2"])
def test_a_denoiser_that_knows_the_answer_reaches_what_the_vae_allows(stage: str, vae_folder: Path, objects: list[TrainObject]) -> None:
    training = METHOD.trainable(stage, CONFIG, {"mvae": vae_folder})

    def oracle(batch, noisy, timesteps):
        alpha, sigma = training.schedule.levels(timesteps, 5)
        return target_of(training.prediction, batch["latents"], (noisy - alpha * batch["latents"]) / sigma, alpha, sigma)

    shown = [training._shown(obj, 5, CPU) for obj in objects]
    figures = preview_samples(oracle, open_vae(vae_folder), shown, training.prediction, training.schedule).figures
    for name in ("psnr", "psnr_foreground"):
        assert figures[name] == pytest.approx(figures[f"{name}_latents"], abs=0.02)
        assert figures[f"{name}_one_step"] == pytest.approx(figures[f"{name}_latents"], abs=0.02)


def test_the_grid_shows_the_condition_and_the_true_views_from_its_side(vae_folder: Path, objects: list[TrainObject]) -> None:
    training = METHOD.trainable("unet2", CONFIG, {"mvae": vae_folder})
    torch.manual_seed(0)
    module = training.build().eval()
    first, again, other = (training.preview(module, objects, seed) for seed in (5, 5, 6))
    grid = first.pictures["samples"]
    assert np.array_equal(grid, again.pictures["samples"]) and first.figures == again.figures
    assert not np.array_equal(grid, other.pictures["samples"])
    tile = SMALLEST_TILE + 2 * GAP  # 32 pixels, three times as large
    assert grid.shape == (2 * 3 * tile + GAP, 9 * tile, 3) and grid.dtype == np.uint8
    for n, obj in enumerate(objects):
        chosen = choose_views(obj.views, CONFIG, 1, rng_for(5, obj.views.uid, "preview"))
        for column, view in enumerate([*chosen.conditions, *chosen.targets]):
            top, left = n * (3 * tile + GAP) + GAP, column * tile + GAP
            inside = grid[top : top + SMALLEST_TILE : 3, left : left + SMALLEST_TILE : 3]
            np.testing.assert_allclose(inside, on_white(obj.views.rgba[view]) * 255, atol=1.0)


def test_figures_are_those_of_the_pictures(vae_folder: Path, objects: list[TrainObject]) -> None:
    """PSNR by scikit-image on what stands in the grid, which is rounded to bytes."""
    training = METHOD.trainable("unet2", CONFIG, {"mvae": vae_folder})
    torch.manual_seed(0)
    made = training.preview(training.build().eval(), objects[:1], 5)
    tile = SMALLEST_TILE + 2 * GAP
    truth, sampled, one_step = (made.pictures["samples"][row * tile : (row + 1) * tile] for row in range(3))

    def psnr(row):
        pairs = [slice(column * tile + GAP, (column + 1) * tile - GAP) for column in range(1, 9)]
        cut = slice(GAP, tile - GAP)
        return np.mean([peak_signal_noise_ratio(truth[cut, pair], row[cut, pair]) for pair in pairs])

    assert made.figures["psnr"] == pytest.approx(psnr(sampled), abs=0.05)
    assert made.figures["psnr_one_step"] == pytest.approx(psnr(one_step), abs=0.05)


def test_reconstructions_stand_below_their_pictures(objects: list[TrainObject], vae_folder: Path) -> None:
    training = METHOD.trainable("mvae", CONFIG, {})
    made = training.preview(open_vae(vae_folder), objects, 0)
    grid, tile = made.pictures["reconstructions"], SMALLEST_TILE + 2 * GAP
    assert grid.shape == (2 * 2 * tile + GAP, 8 * tile, 3)
    np.testing.assert_allclose(grid[GAP : tile - GAP : 3, GAP : tile - GAP : 3], on_white(objects[0].views.rgba[0]) * 255, atol=1.0)
    assert set(made.figures) == {"psnr", "psnr_foreground", "mask_iou"}


def test_without_a_vae_the_mend_is_said(objects: list[TrainObject]) -> None:
    training = METHOD.trainable("unet2", CONFIG, {})
    with pytest.raises(UserError, match="checkpoint of mvae"):
        training.preview(training.build(), objects, 0)


def test_pictures_become_files_that_anyone_opens(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    (path,) = write_pictures(Location(str(tmp_path)), 100, {"samples": pixels})
    assert path == "pictures/samples/step-000100.png"
    assert np.array_equal(np.asarray(Image.open(tmp_path / path)), pixels)


def test_the_plot_gets_a_second_panel_for_psnr() -> None:
    rows = [{"step": step, "loss": 1.0 / step} for step in (1, 2, 3)]
    previews = [{"step": step, "psnr": 10.0 + step, "psnr_one_step": 12.0, "seconds": 1.0} for step in (1, 3)]
    width, both = (Image.open(io_bytes(loss_plot(rows, rows, "t", shown))).width for shown in ((), previews))
    assert both == 2 * width


def io_bytes(data: bytes):
    import io

    return io.BytesIO(data)


def test_objects_shown_stay_the_same_while_the_stage_trains(objects: list[TrainObject], vae_folder: Path) -> None:
    training = METHOD.trainable("unet3", replace(CONFIG, sparse_share=1.0), {"mvae": vae_folder})
    shown = partial(training._shown, device=CPU)
    assert torch.equal(shown(objects[0], 1).batch["noise"], shown(objects[0], 1).batch["noise"])
    assert len(shown(objects[0], 1).condition) == 1
