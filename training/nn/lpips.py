"""LPIPS (Zhang et al. 2018, arXiv 1801.03924) with VGG-16: a perceptual distance of pictures, as loss and as metric.

The weights are other people's and are never fetched. One file holds them, safetensors or a torch file of plain tensors:

    features.0.weight, features.0.bias ... features.28.*   the 13 convolutions, as torchvision names them in vgg16
    lin0.model.1.weight ... lin4.model.1.weight            the learnt heads [1, C, 1, 1], as the LPIPS release names them

A state dict of the whole LPIPS model serves too: there the convolutions are `net.slice1.0.*` to `net.slice5.28.*`, heads are
repeated as `lins.*`, and `scaling_layer.*` holds the constants below. Torchvision's `classifier.*` is ignored.
"""

import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from infra.errors import UserError

# Pictures in [-1, 1] -> what VGG was trained on (mean and deviation of ImageNet, in that range).
SHIFT = (-0.030, -0.088, -0.188)
SCALE = (0.458, 0.448, 0.450)
# Convolutions of VGG-16 by their number in torchvision's `features`; a picture is halved before each stage but the first.
STAGES = ((0, 2), (5, 7), (10, 12, 14), (17, 19, 21), (24, 26, 28))
WIDTHS = (64, 128, 256, 512, 512)
SMALLEST_SIDE = 16  # four halvings
IGNORED = re.compile(r"classifier\.|lins\.|scaling_layer\.")
NO_WEIGHTS = "no LPIPS weights: the metric needs a file of VGG-16 and head weights (perceptual = lpips(PATH))"


class Lpips(nn.Module):
    """Distance of picture pairs. Frozen; gradients flow to the pictures. Always computed in float32."""

    shift: Tensor
    scale: Tensor

    def __init__(self, path: str | Path) -> None:
        """Raises UserError when `path` is missing, no weights file, or holds other keys or shapes."""
        super().__init__()
        weights = _renamed(_read(path), path)
        for number, inputs, outputs in _convolutions():
            self.register_buffer(f"weight{number}", _take(weights, f"features.{number}.weight", (outputs, inputs, 3, 3), path))
            self.register_buffer(f"bias{number}", _take(weights, f"features.{number}.bias", (outputs,), path))
        for stage, width in enumerate(WIDTHS):
            head = _take(weights, f"lin{stage}.model.1.weight", (1, width, 1, 1), path)
            if float(head.min()) < -1e-6:
                raise UserError(f"{path}: lin{stage} has negative weights, LPIPS' are not", "give the published heads of VGG-16")
            self.register_buffer(f"head{stage}", head.clamp(min=0.0))
        if weights:
            raise UserError(f"{path} holds {_listed(weights)}, which LPIPS with VGG-16 has not", "give a file in the documented layout")
        self.register_buffer("shift", torch.tensor(SHIFT)[:, None, None])
        self.register_buffer("scale", torch.tensor(SCALE)[:, None, None])

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """`[N, 3, H, W]` each, RGB in [-1, 1], sides of at least 16 pixels -> distances `[N]`."""
        if a.shape != b.shape or a.shape[1] != 3 or min(a.shape[-2:]) < SMALLEST_SIDE:
            raise ValueError(f"LPIPS needs two equally sized RGB batches of {SMALLEST_SIDE} px or more: {tuple(a.shape)}, {tuple(b.shape)}")
        with torch.autocast(a.device.type, enabled=False):
            total = torch.zeros(len(a), device=a.device)
            pairs = zip(self._features(a.float()), self._features(b.float()), strict=True)
            for stage, (left, right) in enumerate(pairs):
                difference = (_unit(left) - _unit(right)).square()
                total = total + F.conv2d(difference, self.get_buffer(f"head{stage}")).mean((1, 2, 3))
        return total

    def _features(self, pictures: Tensor) -> list[Tensor]:
        """relu1_2, relu2_2, relu3_3, relu4_3, relu5_3."""
        x = (pictures - self.shift) / self.scale
        found = []
        for stage, numbers in enumerate(STAGES):
            x = F.max_pool2d(x, 2) if stage else x
            for number in numbers:
                x = F.relu(F.conv2d(x, self.get_buffer(f"weight{number}"), self.get_buffer(f"bias{number}"), padding=1))
            found.append(x)
        return found


def lpips_unavailable(path: str | None) -> str | None:
    """Why the LPIPS metric is null; None when it can be computed. What stands in for it as a training loss is no metric.

    `path` is a file of weights, or `training.nn.config.lpips_file_of(config.perceptual)`.
    """
    if path is None:
        return NO_WEIGHTS
    return None if Path(path).expanduser().is_file() else f"no LPIPS weights at '{path}'"


def _convolutions() -> list[tuple[int, int, int]]:
    """(number, input width, output width) in order."""
    rows, inputs = [], 3
    for width, numbers in zip(WIDTHS, STAGES, strict=True):
        for number in numbers:
            rows.append((number, inputs, width))
            inputs = width
    return rows


def _unit(features: Tensor) -> Tensor:
    """Unit length along channels; the tiny term keeps the gradient finite where all channels are silent."""
    return features / (features.square().sum(1, keepdim=True) + 1e-20).sqrt()


def _read(path: str | Path) -> dict[str, Tensor]:
    file = Path(path).expanduser()
    if not file.is_file():
        raise UserError(f"no LPIPS weights at '{path}'", "give one file with the weights of VGG-16 and of the heads")
    try:
        values = load_file(file) if file.suffix == ".safetensors" else torch.load(file, map_location="cpu", weights_only=True)
    except (SafetensorError, pickle.UnpicklingError, zipfile.BadZipFile, RuntimeError, EOFError, ValueError, KeyError) as error:
        reason = str(error).partition("\n")[0]
        message = f"{path} is no file of plain tensors: {type(error).__name__}: {reason}"
        raise UserError(message, "save a state dict, best as safetensors") from error
    if not isinstance(values, Mapping) or not all(isinstance(value, Tensor) for value in values.values()):
        raise UserError(f"{path} holds something else than named tensors", "save a state dict, best as safetensors")
    return dict(values)


def _renamed(values: dict[str, Tensor], path: str | Path) -> dict[str, Tensor]:
    """Keys in the documented layout."""
    found: dict[str, Tensor] = {}
    for name, value in values.items():
        if IGNORED.match(name):
            continue
        key = re.sub(r"^net\.slice\d\.", "features.", name)
        if key in found:
            raise UserError(f"{path} holds '{key}' twice", "give either torchvision's names or LPIPS' own")
        found[key] = value
    return found


def _take(weights: dict[str, Tensor], name: str, shape: tuple[int, ...], path: str | Path) -> Tensor:
    if name not in weights:
        raise UserError(f"{path} lacks '{name}'", "give VGG-16 and the heads in one file")
    value = weights.pop(name)
    if tuple(value.shape) != shape:
        raise UserError(f"{path}: '{name}' is {tuple(value.shape)}, VGG-16's is {shape}", "give the weights of VGG-16")
    if not bool(torch.isfinite(value).all()):
        raise UserError(f"{path}: '{name}' holds values that are not finite", "give an undamaged file")
    return value.detach().float()


def _listed(weights: dict[str, Tensor]) -> str:
    names = sorted(weights)
    return ", ".join(f"'{name}'" for name in names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
