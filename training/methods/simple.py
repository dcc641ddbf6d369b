"""Ready-made parts for a method without special needs: a trainable of which only model, example and loss are missing."""

from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from infra.errors import UserError
from infra.seeds import rng_for, seed_for
from rendering.rigs import RigConfig, rig_named
from rendering.view_set import TARGET, ViewSet
from training.batch import to_device
from training.methods.base import TrainObject

WEIGHTS = "model.safetensors"
VALIDATION_EXAMPLES = 4  # drawn from each held-out object


class SimpleTrainable:
    """A `Trainable` with the usual answers; a method writes `build`, `example` and `loss`, and replaces what differs.

    Checkpoints are whole state dicts, batches are stacked arrays, validation is the training loss on fixed examples.
    """

    def build(self) -> nn.Module:
        raise NotImplementedError

    def example(self, obj: TrainObject, rng: np.random.Generator) -> dict[str, Any]:
        raise NotImplementedError

    def loss(
        self, module: nn.Module, batch: dict[str, Any], generator: torch.Generator, step: int
    ) -> tuple[Tensor, dict[str, float | Tensor]]:
        raise NotImplementedError

    def load(self, module: nn.Module, folder: Path) -> None:
        """Raises UserError when the folder holds no weights of this kind."""
        if not (Path(folder) / WEIGHTS).is_file():
            raise UserError(f"{folder} holds no {WEIGHTS}", "give the checkpoint of the stage that this one starts from")
        module.load_state_dict(load_file(Path(folder) / WEIGHTS))

    def save(self, module: nn.Module, folder: Path) -> None:
        save_file({name: value.detach().cpu().contiguous() for name, value in module.state_dict().items()}, Path(folder) / WEIGHTS)

    def collate(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        """Arrays and numbers stacked along a new first axis; everything else (the `uid`) as a list."""
        batch: dict[str, Any] = {}
        for name in examples[0]:
            values = [example[name] for example in examples]
            numbers = isinstance(values[0], np.ndarray | np.number | int | float | bool)
            batch[name] = torch.from_numpy(np.stack(values)) if numbers else values
        return batch

    def validate(self, module: nn.Module, objects: list[TrainObject], seed: int) -> dict[str, float]:
        """Mean over the objects of the training loss and its terms, on the same examples with the same noise every time."""
        parameter = next(module.parameters(), None)
        device = torch.device("cpu") if parameter is None else parameter.device
        rows: list[dict[str, float]] = []
        for obj in objects:
            rng = rng_for(seed, obj.views.uid, "validation")
            batch = to_device(self.collate([self.example(obj, rng) for _ in range(VALIDATION_EXAMPLES)]), device)
            generator = torch.Generator(device).manual_seed(seed_for(seed, obj.views.uid, "validation noise"))
            loss, terms = self.loss(module, batch, generator, 0)
            rows.append({"loss": float(loss), **{name: float(value) for name, value in terms.items()}})
        return {name: sum(row[name] for row in rows) / len(rows) for name in rows[0]}


def target_views(uid: str, rgba: np.ndarray, rig: str, origin: str, **facts: Any) -> ViewSet:
    """Generated pictures uint8 `[V, H, W, 4]` as the V target views of a rig, in the frame where the reference azimuth is 0.

    Raises:
        UserError: unknown rig, or another number of pictures than it has targets.
    """
    cameras = rig_named(rig)(uid, RigConfig(num_conditions=0))
    if len(cameras) != len(rgba):
        raise UserError(f"{len(rgba)} pictures for the {len(cameras)} targets of rig {rig}", "make one picture per target")
    spherical = (cameras.azimuth_deg, cameras.elevation_deg, cameras.radius)
    return ViewSet(uid, cast(np.ndarray, rgba), cameras.camera, (TARGET,) * len(rgba), *spherical, rig, origin, facts=facts)
