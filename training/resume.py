"""What the loop saves beside the engine's share, and how it goes on from it: at any number of workers."""

from dataclasses import dataclass, field
from pathlib import Path

from infra.errors import UserError
from training.checkpoint import Checkpoints, State
from training.config import TrainConfig
from training.engine import Engine


@dataclass
class Curves:
    """Rows logged so far: training figures (averages since the row before), validations and previews; and, for the guard
    against spikes, which figures were usual."""

    history: list[dict[str, float]] = field(default_factory=list)
    validation: list[dict[str, float]] = field(default_factory=list)
    previews: list[dict[str, float]] = field(default_factory=list)
    usual: dict[str, list[float]] = field(default_factory=dict)


def save(engine: Engine, config: TrainConfig, checkpoints: Checkpoints, step: int, curves: Curves, window: list[dict[str, float]]) -> None:
    """One checkpoint after `step` updates: every rank's share, the curves and the rows not yet logged (`window`)."""
    state = {
        "step": step,
        "world": engine.world,
        "zero_stage": config.zero_stage,
        "history": curves.history,
        "validation": curves.validation,
        "previews": curves.previews,
        "usual": curves.usual,
        "window": window,
    }
    score = curves.validation[-1].get("loss") if curves.validation else None
    checkpoints.save(step, engine.save, state, score)


def resume(engine: Engine, config: TrainConfig, checkpoints: Checkpoints) -> tuple[Curves, list[dict[str, float]], int]:
    """Curves, the unlogged rows and the next step; from nothing when there is no checkpoint.

    Which samples a step sees depends on `(seed, epoch, step)` and not on the number of workers, so the curve goes on as it
    would have at the old number, up to the order of float additions.

    Raises:
        UserError: the checkpoint is of another ZeRO stage.
    """

    def every_rank(state: State) -> bool:
        return engine.reads_all_shares(state["world"])

    with checkpoints.latest(every_rank) as saved:
        if saved is None:
            return Curves(), [], 0
        state = saved.state
        if state["zero_stage"] != config.zero_stage:
            raise UserError(
                f"train.{config.stage} was interrupted with zero_stage {state['zero_stage']} and cannot go on with {config.zero_stage}",
                f"set zero_stage back to {state['zero_stage']}, or redo it with --rerun train.{config.stage}",
            )
        engine.load(Path(saved.folder), state["world"])
        return Curves(state["history"], state["validation"], state["previews"], state["usual"]), state["window"], state["step"]
