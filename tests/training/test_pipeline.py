"""The diffusers pipeline as a user meets it: a folder, their own pictures, 32 views with cameras."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline
from PIL import Image

from infra.errors import UserError
from tests.training.painted import painted_views
from tests.training.random_model import CONFIG, random_model
from training.lookup import load_generator
from training.methods.mvdiffusionpp_pipeline import MVDiffusionPPPipeline

ROOT = Path(__file__).resolve().parents[2]
QUICK: dict[str, Any] = {"num_inference_steps": 2, "output_type": "np"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_model(tmp_path_factory.mktemp("pipeline"))


@pytest.fixture(scope="module")
def pipe(folder: Path) -> MVDiffusionPPPipeline:
    opened = MVDiffusionPPPipeline.from_pretrained(folder)
    opened.set_progress_bar_config(disable=True)
    return opened


@pytest.fixture(autouse=True)
def modules_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where diffusers copies a folder's pipeline.py before it runs it."""
    monkeypatch.setattr("diffusers.utils.dynamic_modules_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))


def pictures(uid: str = "a", count: int = 2, size: int = 40) -> list[Image.Image]:
    return [Image.fromarray(rgba) for rgba in painted_views(uid, size, count).rgba[32:]]


def test_the_readme_lines_make_32_views_in_a_fresh_process(folder: Path, tmp_path: Path) -> None:
    section = (ROOT / "README.md").read_text().split("## Use a trained model with diffusers")[1]
    block = re.search(r"```python\n(.*?)```", section, re.S)
    assert block and len([line for line in block[1].splitlines() if line]) == 5
    shutil.copytree(folder, tmp_path / "model")
    pictures(count=1)[0].save(tmp_path / "photo.png")
    check = (
        "assert len(views.images) == len(views.cameras) == 32 and all(view.mode == 'RGBA' for view in views.images)\n"
        "assert views.cameras.c2w.shape == (32, 4, 4) and views.azimuth_deg.tolist() == [45.0 * a for a in range(8)] * 4\n"
        "print('made', views.elevation_deg[::8].tolist())"
    )
    environment = os.environ | {"HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    environment.pop("PYTHONPATH", None)
    run = subprocess.run([sys.executable, "-c", block[1] + check], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert run.returncode == 0 and "made [-30.0, 0.0, 30.0, 60.0]" in run.stdout, run.stderr[-3000:]
    assert Image.open(tmp_path / "front.png").mode == "RGBA"


def test_pipeline_and_generator_are_one_sampler(folder: Path, pipe: MVDiffusionPPPipeline) -> None:
    conditions = painted_views("same", 48, 3).select([33, 34])
    made = load_generator(folder, "cpu").generate(conditions, seed=3, steps=2, guidance=2.0)
    given = [Image.fromarray(rgba) for rgba in conditions.rgba]
    views = pipe(given, generator=made.facts["noise_seed"], preprocess="none", guidance_scale=2.0, **QUICK)
    assert np.array_equal(views.images, made.rgba)
    np.testing.assert_array_equal(views.cameras.c2w, made.camera.c2w)
    assert np.ptp(made.rgba, axis=0).max() > 0  # views differ, so the comparison means something


def test_saved_again_it_makes_the_same_bits_through_both_doors(folder: Path, pipe: MVDiffusionPPPipeline, tmp_path: Path) -> None:
    wanted = pipe(pictures(), generator=1, **QUICK).images
    pipe.save_pretrained(tmp_path / "again")
    assert {p.name for p in (tmp_path / "again").iterdir()} == {p.name for p in folder.iterdir()}
    with pytest.raises(ValueError, match="trust_remote_code"):
        DiffusionPipeline.from_pretrained(tmp_path / "again")
    through_diffusers = DiffusionPipeline.from_pretrained(tmp_path / "again", trust_remote_code=True)
    assert type(through_diffusers) is MVDiffusionPPPipeline
    for reopened in (through_diffusers, MVDiffusionPPPipeline.from_pretrained(tmp_path / "again")):
        reopened.set_progress_bar_config(disable=True)
        assert np.array_equal(reopened(pictures(), generator=1, **QUICK).images, wanted)
    assert load_generator(tmp_path / "again", "cpu").config == CONFIG


def test_naming_the_class_runs_no_code_of_the_folder(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "model")
    (tmp_path / "model" / "pipeline.py").write_text("raise RuntimeError('was run')\n")
    MVDiffusionPPPipeline.from_pretrained(tmp_path / "model")
    load_generator(tmp_path / "model", "cpu")
    with pytest.raises(RuntimeError, match="was run"):
        DiffusionPipeline.from_pretrained(tmp_path / "model", trust_remote_code=True)


def test_an_object_depends_on_its_own_pictures_and_seed_only(pipe: MVDiffusionPPPipeline) -> None:
    a, b = pictures("a", 1), pictures("b", 3)
    together = pipe([a, b, a], generator=[4, 5, 6], **QUICK).images
    assert np.array_equal(together[0], pipe(a, generator=4, **QUICK).images)
    assert np.array_equal(together[1], pipe(b, generator=[torch.Generator().manual_seed(5)], **QUICK).images)
    assert not np.array_equal(together[0], together[2])
    torch.manual_seed(9)
    first = pipe(a, **QUICK).images
    assert not np.array_equal(first, pipe(a, **QUICK).images)
    torch.manual_seed(9)
    assert np.array_equal(first, pipe(a, **QUICK).images)


def test_subsets_samplers_steps_and_progress(pipe: MVDiffusionPPPipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []

    class Bar:
        def __init__(self, total: int) -> None:
            seen.append(total)

        def __enter__(self) -> "Bar":
            return self

        def __exit__(self, *error: object) -> None:
            pass

        def update(self) -> None:
            seen[-1] -= 1

    monkeypatch.setattr(pipe, "progress_bar", lambda total: Bar(total))
    for sampler, steps in (("ddpm", 75), ("ddim", 25), ("dpm++", 25)):
        views = pipe(pictures(count=1), sampler=sampler, views=[9, 0], generator=0)
        assert views.view_sets[0].facts["steps"] == steps and seen[-1] == 0
        assert [view.size for view in views.images] == [(32, 32)] * 2
        assert views.azimuth_deg.tolist() == [45.0, 0.0] and views.elevation_deg.tolist() == [0.0, -30.0]
        # Azimuth 45, elevation 0 at distance 1.5: half way between the cameras on -Y and on +X.
        np.testing.assert_allclose(views.cameras.position[0], [1.5 * 0.5**0.5, -1.5 * 0.5**0.5, 0.0], atol=1e-12)


def test_half_precision_and_decoding_in_parts_stay_near(folder: Path, pipe: MVDiffusionPPPipeline) -> None:
    # In double precision, so that a convolution chosen by batch size cannot make the difference; only rounding to a byte can.
    double = MVDiffusionPPPipeline.from_pretrained(folder, torch_dtype=torch.float64)
    double.set_progress_bar_config(disable=True)
    parts = [double(pictures(), generator=1, decode_chunk_size=size, **QUICK).images.astype(int) for size in (5, 32)]
    assert np.abs(parts[0] - parts[1]).max() <= 1
    whole = pipe(pictures(), generator=1, **QUICK).images.astype(int)
    low = MVDiffusionPPPipeline.from_pretrained(folder, torch_dtype=torch.bfloat16)
    low.set_progress_bar_config(disable=True)
    assert {part.dtype for part in (low.unet, low.vae, low.image_encoder, low.view_embedding)} == {torch.bfloat16}
    made = low(pictures(), generator=1, **QUICK).images.astype(int)
    assert np.abs(made - whole).mean() < 8 < np.abs(pipe(pictures(), generator=2, **QUICK).images.astype(int) - whole).mean()
    assert np.array_equal(low.to(torch.float32)(pictures(), generator=1, **QUICK).images.shape, whole.shape)


def test_impossible_calls_are_one_clear_message(pipe: MVDiffusionPPPipeline) -> None:
    good, grey = pictures(count=1)[0], Image.new("L", (40, 40))
    wrong: list[tuple[str, Any, dict[str, Any]]] = [
        ("0 pictures", [], {}),
        ("11 pictures", [good] * 11, {}),
        ("0 pictures", [[good], []], {}),
        ("type str", "photo.png", {}),
        ("mode I", Image.new("I", (40, 40)), {}),
        ("no transparent background", good.convert("RGB"), {}),
        ("mask is empty", good, {"mask": grey}),
        ("mask has 20x20", good, {"mask": Image.new("L", (20, 20), 255)}),
        ("as many masks", [good, good], {"mask": grey}),
        ("15x40 pixels", good.crop((0, 0, 15, 40)), {}),
        ("not square", good.crop((0, 0, 40, 30)), {"preprocess": "none"}),
        ("foreground share", good, {"foreground_share": 1.5}),
        ("preprocess", good, {"preprocess": "crop"}),
        ("output_type", good, {"output_type": "pt"}),
        ("unknown sampler", good, {"sampler": "euler"}),
        ("0 sampling steps", good, {"num_inference_steps": 0}),
        ("not all different", good, {"views": [1, 1]}),
        ("0..31", good, {"views": [32]}),
        ("2 generators for 1", good, {"generator": [1, 2]}),
    ]
    for message, image, options in wrong:
        with pytest.raises(UserError, match=re.escape(message)) as caught:
            pipe(image, **{"num_inference_steps": 1} | options)
        assert caught.value.mend


def test_an_older_folder_is_refused(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "old")
    facts = json.loads((tmp_path / "old" / "mvforge.json").read_text()) | {"format": 1}
    (tmp_path / "old" / "mvforge.json").write_text(json.dumps(facts))
    with pytest.raises(UserError, match="format 1"):
        load_generator(tmp_path / "old", "cpu")
