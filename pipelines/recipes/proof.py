"""`proof` and `proof_gpu`: the data and the sizes of the learning proofs (`mvforge prove`); they run as a pipeline too."""

from dataclasses import replace

from evaluation.generate import GenerateConfig
from evaluation.proofs.setups import Setup, cpu, gpu
from infra.job import Resources
from pipelines.recipe import Recipe
from rendering.catalog import CatalogConfig
from rendering.render import RenderConfig


def recipe() -> Recipe:
    """340 procedural objects of 15 families at 32 px: 264 to train on, 36 and 40 held out."""
    return _recipe("proof", cpu(), objects=340, samples=8, workers=2, gpus=0.0)


def gpu_recipe() -> Recipe:
    """400 objects at 64 px with 10 condition views, few enough for a file that can be carried to the card (not made yet)."""
    return _recipe("proof_gpu", gpu(), objects=400, samples=8, workers=2, gpus=1.0)


def _recipe(name: str, setup: Setup, objects: int, samples: int, workers: int, gpus: float) -> Recipe:
    first = replace(setup.condition, stage="unet1", steps=setup.condition.steps // 4)
    return Recipe(
        name=name,
        method="mvdiffusionpp",
        model=setup.model,
        train={"mvae": setup.vae_rgb, "unet1": first, "unet2": setup.condition, "unet3": setup.sparse},
        # Shades of one hue: a picture tells the colours of the far sides. Of contrasting objects it does not, and the best
        # guess of a view from behind is grey, whatever the condition.
        catalog=CatalogConfig(source="procedural", count=objects, colours="harmonious", val_fraction=0.1, test_fraction=0.1),
        render=RenderConfig(resolution=setup.model.resolution, samples=samples, num_conditions=setup.model.max_conditions),
        generate=GenerateConfig(steps=setup.sampling_steps),
        resources={"render": Resources(workers=workers), "train": Resources(workers=1, gpus=gpus)},
    )
