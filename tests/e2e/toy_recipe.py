"""The recipe of the toy method: data and evaluation as in `smoke`, two short training stages."""

from dataclasses import replace

from infra.job import Resources
from pipelines.recipe import Recipe
from pipelines.recipes import smoke
from tests.e2e.toy_method import Config
from training.config import TrainConfig


def recipe() -> Recipe:
    train = {name: TrainConfig(steps=20, global_batch=4, micro_batch=2, lr=1e-2, checkpoint_every=10) for name in ("rough", "fine")}
    resources = {"train": Resources(workers=1)}
    return replace(smoke.recipe(), name="flat", method="tests.e2e.toy_method:METHOD", model=Config(), train=train, resources=resources)
