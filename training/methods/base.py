"""What a method is: ordered stages, each with weights and a loss, and a generator made of their checkpoints.

The DAG, the training loop and the evaluation know methods only through these types. A new method is one file
beside this one, one row in `METHODS`, one recipe.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from rendering.view_set import ViewSet

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Stage:
    """One training step of a method, in order.

    Attributes:
        name: unique in the method; the DAG step is `train.<name>`.
        starts_from: stage whose checkpoint initialises the weights; None means `build` from the config alone.
        encodes_with: stage whose checkpoint turns views into the arrays (latents, tokens) this stage trains on;
            None means the stage trains on views directly.
        reads: fields of the method's config that matter to this stage; empty means all. The others are put back to
            their defaults in the stage's identity, so that changing them does not train it again.
        encoding_reads: the same for encoding with this stage.
        pictures: whether `example` looks at the views' pictures. A stage that trains on arrays alone says False and is given
            views with empty `rgba` there, which saves decoding them; held-out objects always come with pictures.
        settings: constants of the stage that the method's own code reads (for example the prediction type).
    """

    name: str
    starts_from: str | None = None
    encodes_with: str | None = None
    reads: tuple[str, ...] = ()
    encoding_reads: tuple[str, ...] = ()
    pictures: bool = True
    settings: dict[str, Any] = field(default_factory=dict)


@dataclass
class TrainObject:
    """One object as a stage sees it: its rendered views, and the arrays `encode` made of them if the stage asks for them."""

    views: ViewSet
    arrays: Arrays | None = None


@dataclass
class Preview:
    """What a person looks at while a stage trains.

    Attributes:
        figures: for example PSNR of the pictures shown.
        pictures: uint8 `[H, W, 3]` (sRGB) by a name that may be a folder's, for example `samples`.
    """

    figures: dict[str, float]
    pictures: dict[str, np.ndarray] = field(default_factory=dict)


class Trainable(Protocol):
    """Something with weights and a loss. All randomness comes from the generators passed in; `example` is called from
    several threads at once.

    Three methods more are optional, and what needs one is left out where it is absent:

    - `cost(batch) -> dict[str, float]`: `flops` of the forward and backward pass over this micro-batch and its `tokens`, counted
      on the host (TFLOP/s, MFU, tokens/s); called with the batch that `collate` made.
    - `preview(module, objects, seed) -> Preview`: sample grids and figures of a few held-out objects, under no_grad.
    - `synthetic(views, rng) -> Arrays`: random arrays of the names, shapes and dtypes that `encode` would make of these views
      (`mvforge train --try-run`).
    """

    def build(self) -> nn.Module:
        """Freshly initialised trainable module (everything with `requires_grad` is trained), before any `starts_from`."""
        ...

    def load(self, module: nn.Module, folder: Path) -> None:
        """Initialise `module` from the checkpoint of the stage named by `starts_from` (or of this very stage)."""
        ...

    def save(self, module: nn.Module, folder: Path) -> None:
        """Write weights and every setting needed to load them again; safetensors, no pickles."""
        ...

    def example(self, obj: TrainObject, rng: np.random.Generator) -> dict[str, Any]:
        """One training example (NumPy arrays and plain values) drawn from one object."""
        ...

    def collate(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        """Examples -> one batch; tensors on the CPU, plus `uid: list[str]`."""
        ...

    def loss(
        self, module: nn.Module, batch: dict[str, Any], generator: torch.Generator, step: int
    ) -> tuple[Tensor, dict[str, float | Tensor]]:
        """Scalar loss to minimise and the terms to log; `module` may be wrapped (DeepSpeed, DDP) and must be called once."""
        ...

    def validate(self, module: nn.Module, objects: list[TrainObject], seed: int) -> dict[str, float]:
        """Held-out figures under fixed noise; always holds `loss`. Called under no_grad with the unwrapped module."""
        ...


Encoder = Callable[[ViewSet], Arrays]


class Generator(Protocol):
    """A trained method, ready to make views."""

    def generate(self, conditions: ViewSet, seed: int, *args: Any, **options: Any) -> ViewSet:
        """Condition views (the first is the reference) -> target views in the frame where the reference azimuth is 0."""
        ...


@dataclass(frozen=True)
class StageBudget:
    """What one stage costs per object, counted, not measured.

    Attributes:
        parameters: trained weights.
        views: views of an object in a training example (a mean).
        flops: operations of one object's forward and backward pass (a mean), nothing computed twice.
        forward_flops: of its forward pass alone, which is computed twice when activations are recomputed.
        encoding_flops: operations of encoding one object with this stage, for stages that others read through.
        array_bytes: what that writes per object.
        validation_flops: operations of one object's held-out figures.
        preview_flops: of its sample pictures.
    """

    parameters: int
    views: float
    flops: float
    forward_flops: float
    encoding_flops: float = 0.0
    array_bytes: int = 0
    validation_flops: float = 0.0
    preview_flops: float = 0.0


class Method(Protocol):
    """A published method: its stages, and how their checkpoints become one generator folder.

    Two methods more are optional, and only `mvforge plan` asks for them: `budget(stage, config, conditions) -> StageBudget`, where
    `conditions` is how many condition views an object has, and `sampling_flops(config, steps) -> float` of one object.
    """

    name: str
    Config: type
    stages: tuple[Stage, ...]

    def smoke(self) -> Any:
        """A Config so small (32 px) that every stage can be tried in a unit test."""
        ...

    def trainable(self, stage: str, config: Any, weights: dict[str, Path]) -> Trainable:
        """The trainable of a stage; `weights` holds checkpoint folders of earlier stages by name."""
        ...

    def encoder(self, stage: str, config: Any, checkpoint: Path, device: str) -> Encoder:
        """What the `encode` step runs per object, from the checkpoint of stage `stage`."""
        ...

    def export(self, config: Any, checkpoints: dict[str, Path], folder: Path) -> None:
        """Assemble one self-contained generator folder (settings included) from all stages' checkpoints."""
        ...

    def load_generator(self, folder: Path, device: str) -> Generator:
        """Open a folder written by `export`."""
        ...
