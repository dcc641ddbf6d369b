"""The recipe that `mvforge chaos` disturbs: `smoke` with trainings long enough to be hit, and checkpoints on the way."""

from dataclasses import replace

from pipelines.recipe import Recipe
from pipelines.recipes import smoke

UPDATES = 16
CHECKPOINT_EVERY = 4


def recipe() -> Recipe:
    """8 objects at 32 px, 16 training updates a stage, a checkpoint every 4, a row for every update."""
    base = smoke.recipe()
    train = {name: replace(stage, steps=UPDATES, checkpoint_every=CHECKPOINT_EVERY) for name, stage in base.train.items()}
    return replace(
        base, name="chaos", train=train, catalog=replace(base.catalog, count=8), report=replace(base.report, title="mvforge: chaos")
    )
