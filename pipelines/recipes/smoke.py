"""`smoke`: the whole graph in the least time, for tests of the plumbing. Nothing is learnt."""

from dataclasses import replace

from pipelines.recipe import Recipe
from pipelines.recipes import tiny
from training.methods.mvdiffusionpp_config import smoke


def recipe() -> Recipe:
    """6 objects at 32 px, 3 training steps a stage, 4 sampling steps."""
    base = tiny.recipe()
    train = {
        name: replace(
            stage,
            steps=3,
            global_batch=4,
            micro_batch=2,
            warmup_steps=0,
            validate_every=0,
            validate_objects=2,
            checkpoint_every=2,
            log_every=1,
            sample_every=0,
        )
        for name, stage in base.train.items()
    }
    return replace(
        base,
        name="smoke",
        model=smoke(),
        train=train,
        catalog=replace(base.catalog, count=6),
        render=replace(base.render, resolution=32, samples=2, num_conditions=2),
        generate=replace(base.generate, steps=4),
        reconstruct=replace(base.reconstruct, resolution=32),
        score=replace(base.score, points=2000, volume_resolution=24, truth_hull_resolution=24),
        report=replace(base.report, title="mvforge: smoke"),
    )
