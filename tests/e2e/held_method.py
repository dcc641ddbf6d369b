"""The toy method in one stage, with moments at which its workers wait for a test to kill them.

Where `$MVFORGE_TEST_HOLD/<moment>` exists, a worker leaves `<moment>.<pid>` beside it and waits until it is gone.
"""

import json
import os
import time
from dataclasses import replace
from pathlib import Path

from infra.job import Resources
from pipelines.recipe import Recipe
from tests.e2e import toy_recipe
from tests.e2e.toy_method import ColourTraining, FlatColour, FlatGenerator
from training.methods.base import Stage

HOLD = "MVFORGE_TEST_HOLD"
HELD_STEP = 14  # four steps after the last checkpoint before it


def hold(moment: str) -> None:
    folder = os.environ.get(HOLD)
    if not folder or not (Path(folder) / moment).exists():
        return
    (Path(folder) / f"{moment}.{os.getpid()}").touch()
    while (Path(folder) / moment).exists():
        time.sleep(0.05)


class HeldTraining(ColourTraining):
    def loss(self, module, batch, generator, step):
        if step == HELD_STEP:
            hold("train.fine")
        return super().loss(module, batch, generator, step)


class HeldGenerator(FlatGenerator):
    def generate(self, conditions, seed, **options):
        hold("generate")
        return super().generate(conditions, seed, **options)


class Held(FlatColour):
    name = "held"
    stages = (Stage("fine"),)

    def trainable(self, stage, config, weights):
        return HeldTraining(config)

    def export(self, config, checkpoints, folder):
        super().export(config, checkpoints, folder)
        described = json.loads((folder / "mvforge.json").read_text())
        (folder / "mvforge.json").write_text(json.dumps({**described, "method": f"{__name__}:METHOD"}))

    def load_generator(self, folder, device):
        return HeldGenerator(super().load_generator(folder, device).module)


METHOD = Held()


def recipe() -> Recipe:
    """Two training workers that fill a node of two logical CPUs each."""
    base = toy_recipe.recipe()
    train, resources = {"fine": base.train["fine"]}, {"train": Resources(workers=2, cpus=2.0)}
    return replace(base, name="held", method=f"{__name__}:METHOD", train=train, resources=resources)
