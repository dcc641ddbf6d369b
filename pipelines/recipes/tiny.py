"""`tiny`: every step for real on two CPU cores in minutes. Too small to be good; shows that each part learns."""

from evaluation.generate import GenerateConfig
from evaluation.report import ReportConfig
from evaluation.score import ScoreConfig
from infra.job import Resources
from pipelines.recipe import Recipe
from rendering.catalog import CatalogConfig
from rendering.render import RenderConfig
from training.config import TrainConfig
from training.methods.mvdiffusionpp_config import tiny
from training.model_card import LIMITS
from training.register import RegisterConfig

NOTE = "tiny: not trained to quality"


def recipe() -> Recipe:
    """24 procedural objects at 64 px, 8x8 latents, two ZeRO workers."""
    train = {
        "mvae": TrainConfig(
            method="mvdiffusionpp",
            stage="mvae",
            steps=240,
            global_batch=4,
            micro_batch=2,
            lr=1.2e-3,
            betas=(0.9, 0.99),
            warmup_steps=10,
            zero_stage=2,
            ema_decay=0.98,
            validate_every=120,
            validate_objects=4,
            checkpoint_every=120,
            sample_every=240,
            sample_objects=2,
        ),
        "unet1": _unet("unet1", steps=150, lr=1e-3),
        "unet2": _unet("unet2", steps=80, lr=1e-3),
        "unet3": _unet("unet3", steps=80, lr=5e-4),
    }
    return Recipe(
        name="tiny",
        method="mvdiffusionpp",
        model=tiny(),
        train=train,
        catalog=CatalogConfig(source="procedural", count=24),
        render=RenderConfig(resolution=64, samples=8, num_conditions=4),
        register=RegisterConfig(limits=f"{NOTE[0].upper()}{NOTE[1:]}. {LIMITS}"),
        generate=GenerateConfig(steps=20, quality_note=NOTE),
        # A fifth of the default's cost; the protocol's name in every result says so.
        score=ScoreConfig(points=20_000, volume_resolution=64, truth_hull_resolution=48),
        report=ReportConfig(title="mvforge: tiny", note=NOTE),
        resources={"render": Resources(workers=2), "train": Resources(workers=2)},
    )


def _unet(stage: str, steps: int, lr: float) -> TrainConfig:
    return TrainConfig(
        method="mvdiffusionpp",
        stage=stage,
        steps=steps,
        global_batch=4,
        micro_batch=2,
        lr=lr,
        warmup_steps=10,
        zero_stage=2,
        ema_decay=0.95,
        validate_every=40,
        validate_objects=4,
        checkpoint_every=40,
        sample_every=steps,
        sample_objects=2,
    )
