"""A whole method: every target view is the silhouette of the reference view in one colour, learnt from the condition view."""

import json
import shutil
from dataclasses import asdict, dataclass

import numpy as np
import torch
from torch import nn

from rendering.view_set import CONDITION, TARGET, on_white
from training.methods.base import Stage
from training.methods.simple import SimpleTrainable, target_views


@dataclass(frozen=True)
class Config:
    width: int = 16
    """Units of the hidden layer."""


class ColourTraining(SimpleTrainable):
    def __init__(self, config):
        self.config = config

    def build(self):
        return nn.Sequential(nn.Linear(3, self.config.width), nn.SiLU(), nn.Linear(self.config.width, 3))

    def example(self, obj, rng):
        colours = obj.arrays["colours"] if obj.arrays else mean_colours(obj.views)
        roles = np.asarray(obj.views.roles)
        return {"uid": obj.views.uid, "given": rng.choice(colours[roles == CONDITION]), "wanted": colours[roles == TARGET].mean(0)}

    def loss(self, module, batch, generator, step):
        noise = 0.01 * torch.randn(batch["given"].shape, generator=generator, device=batch["given"].device)
        loss = (module(batch["given"] + noise) - batch["wanted"]).square().mean()
        return loss, {"rmse": loss.detach().sqrt()}


class FlatGenerator:
    def __init__(self, module):
        self.module = module

    def generate(self, conditions, seed, **options):
        with torch.no_grad():
            colour = self.module(torch.from_numpy(mean_colours(conditions)).mean(0)).clamp(0, 1).numpy()
        picture = np.concatenate([np.full((*conditions.rgba.shape[1:3], 3), colour) * 255, conditions.rgba[0, ..., 3:]], -1)
        return target_views(conditions.uid, np.repeat(picture.round().astype(np.uint8)[None], 32, 0), "mvdiffusionpp", "flat_colour")


class FlatColour:
    name = "flat_colour"
    Config = Config
    stages = (Stage("rough"), Stage("fine", starts_from="rough", encodes_with="rough"))

    def smoke(self):
        return Config(width=8)

    def trainable(self, stage, config, weights):
        return ColourTraining(config)

    def encoder(self, stage, config, checkpoint, device):
        return lambda views: {"colours": mean_colours(views)}

    def export(self, config, checkpoints, folder):
        shutil.copytree(checkpoints["fine"], folder, dirs_exist_ok=True)
        (folder / "mvforge.json").write_text(json.dumps({"method": f"{__name__}:METHOD", "config": asdict(config)}))

    def load_generator(self, folder, device):
        training = ColourTraining(Config(**json.loads((folder / "mvforge.json").read_text())["config"]))
        module = training.build()
        training.load(module, folder)
        return FlatGenerator(module)


def mean_colours(views):
    """Mean colour over each view's object: float32 `[V, 3]` in [0, 1]."""
    return np.stack([on_white(v)[v[..., 3] >= 128].mean(0) if (v[..., 3] >= 128).any() else np.ones(3) for v in views.rgba]).astype(
        np.float32
    )


METHOD = FlatColour()
