"""One training of a proof: the project's own loop in this process, resumable, and never repeated once finished."""

import copy
import json
import logging
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from evaluation.proofs.data import VAL, ProofData
from infra.seeds import seed_for
from training.checkpoint import LocalCheckpoints
from training.config import TrainConfig
from training.engine import PlainEngine, device_here
from training.loop import fit
from training.methods.base import Trainable

CURVES, WEIGHTS = "curves.json", "checkpoint"
Figures = Callable[[nn.Module], dict[str, float]]

log = logging.getLogger(__name__)


def fitted(
    trainable: Trainable, config: TrainConfig, data: ProofData, out: Path, *, init: Path | None = None, figures: Figures | None = None
) -> Path:
    """Train to the end and return the folder of the weights (averaged ones, if the config averages).

    A finished training is not repeated; an interrupted one goes on from its last checkpoint.

    Args:
        init: folder of weights to start from.
        figures: further held-out figures of the whole module, written into the curves beside the loss.
    """
    if (out / CURVES).is_file():
        return out / WEIGHTS
    device = device_here()
    torch.manual_seed(seed_for(config.seed, config.stage, "initial weights"))
    module = trainable.build()
    if init is not None:
        trainable.load(module, init)
    evaluated = copy.deepcopy(module).to(device).eval()
    engine = PlainEngine(
        module,
        lr=config.lr,
        betas=config.betas,
        weight_decay=config.weight_decay,
        clip=config.clip,
        ema_decay=config.ema_decay,
        micro_batches=config.micro_batches(1),
        device=device,
    )
    held_out = [data.read(uid) for uid in data.of(VAL)[: config.validate_objects]]

    @torch.no_grad()
    def validate(weights: dict[str, Tensor]) -> dict[str, float]:
        _fill(evaluated, weights)
        rows = {"loss": trainable.validate(evaluated, held_out, seed_for(config.seed, "validation"))["loss"]} if held_out else {}
        return rows | (figures(evaluated) if figures else {})

    began = time.monotonic()

    def report(kind: str, row: dict[str, float]) -> None:
        shown = ", ".join(f"{name} {value:.4g}" for name, value in row.items() if name != "step")
        left = (time.monotonic() - began) / max(1, row["step"]) * (config.steps - row["step"])
        print(f"[{out.name}] {kind} step {row['step']:.0f}/{config.steps} (about {left / 60:.0f} min left) {shown}", flush=True)

    curves = fit(trainable, engine, _Train(data), config, checkpoints=LocalCheckpoints(out / "state"), validate=validate, log=report)
    weights = engine.full_weights(ema=config.ema_decay > 0)
    assert weights is not None
    (out / WEIGHTS).mkdir(parents=True, exist_ok=True)
    trainable.save(_fill(evaluated, weights), out / WEIGHTS)
    unfinished = out / f"{CURVES}.part"
    unfinished.write_text(json.dumps({"history": curves.history, "validation": curves.validation}))
    unfinished.replace(out / CURVES)
    return out / WEIGHTS


class _Train:
    """The training objects, as the loop asks for them."""

    def __init__(self, data: ProofData) -> None:
        self.train, self.read = data.train, data.read


def curves_of(out: Path) -> dict[str, list[dict[str, float]]]:
    """`history` and `validation` rows of a finished training."""
    return json.loads((out / CURVES).read_text())


def scaled(config: TrainConfig, share: float) -> TrainConfig:
    """The same training with a share of the steps, for trying the commands out; its results prove nothing."""
    return replace(config, steps=max(2, round(config.steps * share)))


@torch.no_grad()
def _fill(module: nn.Module, weights: dict[str, Tensor]) -> nn.Module:
    tensors = dict(module.named_parameters()) | dict(module.named_buffers())
    for name, value in weights.items():
        tensors[name].copy_(value)
    return module
