"""Image tokens: pooled ones are CLIP's own embeddings, patch tokens its patches through the same last layers."""

import hashlib
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import CLIPVisionModelWithProjection

from infra.errors import UserError
from infra.seeds import rng_for
from rendering.view_set import TARGET
from tests.conftest import ROOT
from tests.training.painted import painted_views
from training.batch import signed_rgba
from training.methods.base import TrainObject
from training.methods.mvdiffusionpp import stage_named
from training.methods.mvdiffusionpp_config import smoke
from training.methods.mvdiffusionpp_encode import ViewEncoder
from training.methods.mvdiffusionpp_unet import UnetTraining
from training.nn.conditioning import CLIP_MEAN, CLIP_STD, ImageTokens, image_encoder
from training.nn.config import ClipConfig
from training.nn.vae import MaskAwareVAE, empty_autoencoder

CONFIG = smoke().clip  # 32 px, patches of 8


def digest(config: ClipConfig) -> str:
    """SHA-256 of the weights of a random tower."""
    weights = image_encoder(config).state_dict().values()
    return hashlib.sha256(b"".join(weight.numpy().tobytes() for weight in weights)).hexdigest()


def _pixels(rgb: torch.Tensor) -> torch.Tensor:
    return ((rgb + 1) / 2 - torch.tensor(CLIP_MEAN)[:, None, None]) / torch.tensor(CLIP_STD)[:, None, None]


@torch.no_grad()
def test_tokens_against_transformers_own_layers() -> None:
    tower = image_encoder(CONFIG)
    rgb = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    pooled, patch = ImageTokens(tower), ImageTokens(tower, "patch")
    torch.testing.assert_close(pooled(rgb), tower(pixel_values=_pixels(rgb)).image_embeds)
    got = patch(rgb)
    assert got.shape == (3, 16, CONFIG.projection_dim)
    hidden = tower.vision_model(pixel_values=_pixels(rgb)).last_hidden_state
    norm = tower.vision_model.post_layernorm
    for k, t in ((0, 0), (2, 5), (1, 15)):
        x = hidden[k, 1 + t]
        x = (x - x.mean()) / (x.var(unbiased=False) + norm.eps).sqrt() * norm.weight + norm.bias
        torch.testing.assert_close(got[k, t], tower.visual_projection.weight @ x, atol=1e-5, rtol=1e-4)
    # The class token through the same layers is the pooled token.
    torch.testing.assert_close(tower.visual_projection(norm(hidden[:, 0])), pooled(rgb), atol=1e-5, rtol=1e-4)


def test_a_seed_names_one_tower_to_the_last_bit_in_every_process() -> None:
    """Sums of floats differ between processes and numbers of threads; the weights that follow from them must not."""
    program = (
        "import sys, hashlib, torch; torch.set_num_threads(int(sys.argv[1]))\n"
        "from tests.training.test_clip_tokens import CONFIG, digest\n"
        "print(digest(CONFIG))"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    others = [
        subprocess.Popen([sys.executable, "-c", program, threads], env=environment, stdout=subprocess.PIPE, text=True) for threads in "12"
    ]
    here = digest(CONFIG)
    assert [other.communicate()[0].strip() for other in others] == [here] * 2


@torch.no_grad()
def test_patches_come_row_by_row() -> None:
    """In a tower without layers a token knows its own patch alone."""
    tokens = ImageTokens(image_encoder(replace(CONFIG, num_layers=0)), "patch")
    rgb = torch.zeros(1, 3, 32, 32)
    changed = rgb.clone()
    changed[:, :, 8:16, 24:32] = 1.0  # second row, last column
    moved = (tokens(changed) - tokens(rgb)).abs().amax((0, 2)) > 1e-6
    assert moved.nonzero().flatten().tolist() == [1 * 4 + 3]


def test_a_stored_tower_is_read_as_safetensors_only(tmp_path: Path) -> None:
    tower = image_encoder(CONFIG)
    tower.half().save_pretrained(tmp_path / "image_encoder")
    for folder in (tmp_path, tmp_path / "image_encoder"):
        opened = image_encoder(replace(CONFIG, source=str(folder)))
        assert isinstance(opened, CLIPVisionModelWithProjection) and opened.dtype == torch.float32
        assert not any(p.requires_grad for p in opened.parameters())
    weights = tmp_path / "image_encoder" / "model.safetensors"
    save_file({n: w for n, w in load_file(weights).items() if "projection" not in n}, weights, {"format": "pt"})
    with pytest.raises(UserError, match="lacks 1 weights, the first 'visual_projection.weight'"):
        image_encoder(replace(CONFIG, source=str(tmp_path)))
    weights.unlink()
    torch.save(tower.state_dict(), weights.with_name("pytorch_model.bin"))
    with pytest.raises(UserError, match="cannot be loaded"):
        image_encoder(replace(CONFIG, source=str(tmp_path)))
    with pytest.raises(UserError, match="no CLIP weights"):
        image_encoder(replace(CONFIG, source=str(tmp_path / "nowhere")))
    with pytest.raises(UserError, match="clip.tokens"):
        ClipConfig(tokens="class")


def test_patch_tokens_through_encoding_and_a_training_step() -> None:
    """Tokens of every chosen condition picture in order, padding in front of the object with fewer."""
    config = replace(smoke(), clip=replace(CONFIG, tokens="patch"), condition_drop=0.0)
    torch.manual_seed(0)
    encoder = ViewEncoder(config, MaskAwareVAE(empty_autoencoder(config.vae), 1.0), ImageTokens(image_encoder(config.clip), "patch"), "cpu")
    views = painted_views("a", 32)
    arrays = encoder(views)
    assert arrays["clip_tokens"].shape == (4, 16, CONFIG.projection_dim)
    assert encoder(views.with_role(TARGET))["clip_tokens"].shape == (0, 16, CONFIG.projection_dim)
    training = UnetTraining(config, stage_named("unet3"))
    shapes = {name: (array.shape, array.dtype) for name, array in arrays.items()}
    assert {name: (a.shape, a.dtype) for name, a in training.synthetic(views, rng_for(0, "b")).items()} == shapes
    examples = [training._example(TrainObject(views, arrays), rng_for(0, "a"), count, 500, dropped=False) for count in (1, 3)]
    for example, count in zip(examples, (1, 3), strict=True):
        rows = example["image_tokens"].reshape(count, 16, -1)
        assert all(any(np.array_equal(row, array.astype(np.float32)) for array in arrays["clip_tokens"]) for row in rows)
    batch = training.collate(examples)
    assert batch["image_tokens"].shape[:2] == (2, 48) and batch["token_valid"].sum(1).tolist() == [16, 48]
    loss, _ = training.loss(training.build(), batch, torch.Generator(), 0)
    assert torch.isfinite(loss)


def test_a_random_tower_tells_pictures_apart() -> None:
    """Tokens of unseen pictures vary as much as they are large; the model stays a plain CLIP tower."""
    views = np.concatenate([painted_views(f"object-{n}", 32, seed=n).rgba[:2] for n in range(12)])
    pictures = torch.from_numpy(signed_rgba(views))[:, :3]
    for kind in ("pooled", "patch"):
        tokens = ImageTokens(image_encoder(replace(CONFIG, tokens=kind)), kind)(pictures).reshape(-1, CONFIG.projection_dim)
        spread = float(tokens.std(0).mean())
        assert 0.3 < spread < 3.0 and float(tokens.mean(0).abs().mean()) < 2 * spread
    assert torch.equal(image_encoder(CONFIG).visual_projection.weight, image_encoder(CONFIG).visual_projection.weight)
