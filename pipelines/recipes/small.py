"""`small`: one GPU, hours. 128 px, 4,000 procedural objects, or any source with --set source=."""

from evaluation.generate import GenerateConfig
from evaluation.meshing.settings import STAGES, ReconstructConfig
from infra.job import Resources
from pipelines.recipe import Recipe
from rendering.catalog import CatalogConfig
from rendering.render import RenderConfig
from training.config import TrainConfig
from training.methods.mvdiffusionpp_config import small


def recipe() -> Recipe:
    """A scaled copy of the paper's run for a single device."""

    def unet(stage: str, steps: int, lr: float) -> TrainConfig:
        return TrainConfig(
            method="mvdiffusionpp",
            stage=stage,
            steps=steps,
            global_batch=64,
            micro_batch=16,
            lr=lr,
            warmup_steps=200,
            ema_decay=0.999,
            precision="bf16",
            validate_every=500,
            validate_objects=16,
            checkpoint_every=500,
            sample_every=1000,
        )

    train = {
        "mvae": TrainConfig(
            method="mvdiffusionpp",
            stage="mvae",
            steps=4000,
            global_batch=32,
            micro_batch=16,
            lr=2e-4,
            warmup_steps=200,
            ema_decay=0.999,
            precision="bf16",
            validate_every=500,
            validate_objects=16,
            checkpoint_every=500,
        ),
        "unet1": unet("unet1", 6000, 2e-4),
        "unet2": unet("unet2", 6000, 2e-4),
        "unet3": unet("unet3", 6000, 1e-4),
    }
    return Recipe(
        name="small",
        method="mvdiffusionpp",
        model=small(),
        train=train,
        catalog=CatalogConfig(count=4000),
        render=RenderConfig(resolution=128, profile="throughput", num_conditions=10),
        generate=GenerateConfig(steps=25),
        reconstruct=ReconstructConfig(stages=STAGES),
        resources={
            "train": Resources(workers=1, gpus=1.0),
            "encode": Resources(workers=1, gpus=1.0),
            "generate": Resources(workers=1, gpus=1.0),
        },
    )
