"""The network behind FID, KID and IS: someone else's, from local files, in one of two formats.

1. A TorchScript file (`.pt`), as StyleGAN2-ADA and clean-fid publish the Inception network of 2015 (`inception-2015-12-05.pt`).
   Called with float RGB `[N, 3, H, W]` of whole numbers from 0 to 255; it resizes and normalises by itself. With an argument
   `return_features` it gives features for True and class probabilities otherwise (`no_output_bias`, where it exists, is set,
   as the Inception score's authors have it); without that argument its output counts as features and there is no IS.
2. A folder in transformers' layout: `config.json`, `preprocessor_config.json` and safetensors of an image classifier (features
   are what its classifier reads), of a CLIP vision tower, or of another image model with a pooled output. No IS without classes.

Pickled files are never opened. A TorchScript file is a program, though one that cannot call Python: files whose program reads
or writes files are refused, and still none should be used that one does not trust.
"""

import json
import re
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from infra.errors import UserError

BATCH = 32
# Operators by which a TorchScript program reaches files; everything else in it computes.
FILE_OPERATORS = re.compile(r"\b(?:save|load|from_file|_save_parameters|open)\(")
BILINEAR, BICUBIC = 2, 3
# Float RGB `[N, 3, H, W]` in [0, 1] -> a row per picture.
Network = Callable[[Tensor], Tensor]


class FeatureNetwork:
    """Pictures -> features, and class probabilities where the network has classes.

    Attributes:
        name: what it is, in words.
        no_classes: why there are no class probabilities; empty where there are.
    """

    def __init__(self, name: str, features: Network, probabilities: Network | str, device: str) -> None:
        """A text instead of the network for `probabilities` is why there are none."""
        self.name, self._features, self._device = name, features, device
        self._probabilities = None if isinstance(probabilities, str) else probabilities
        self.no_classes = probabilities if isinstance(probabilities, str) else ""

    def features(self, pictures: np.ndarray) -> np.ndarray:
        """Float RGB `[N, H, W, 3]` in [0, 1] -> float32 `[N, D]`. Raises ValueError where the answer is no finite vector per picture."""
        return self._answers(self._features, pictures)

    def probabilities(self, pictures: np.ndarray) -> np.ndarray | None:
        """Float RGB `[N, H, W, 3]` in [0, 1] -> float32 `[N, C]`; None without classes. Raises ValueError as `features`."""
        return None if self._probabilities is None else self._answers(self._probabilities, pictures)

    @torch.inference_mode()
    def _answers(self, network: Network, pictures: np.ndarray) -> np.ndarray:
        if len(pictures) == 0:
            raise ValueError(f"{self.name} was given no pictures")
        found = []
        for batch in _batches(pictures):
            try:
                answer = network(batch.to(self._device))
            except RuntimeError as error:  # pictures of a size that a foreign network cannot take
                raise ValueError(f"{self.name} cannot read pictures of shape {pictures.shape[1:]}: {error}") from error
            if not isinstance(answer, Tensor) or len(answer) != len(batch):
                raise ValueError(f"{self.name} gives no tensor with a row per picture")
            found.append(answer.flatten(1).float().cpu().numpy())
        values = np.concatenate(found)
        if not np.isfinite(values).all():
            raise ValueError(f"{self.name} gives values that are not finite")
        return values


def _batches(pictures: np.ndarray) -> Iterator[Tensor]:
    for start in range(0, len(pictures), BATCH):
        yield torch.from_numpy(np.ascontiguousarray(pictures[start : start + BATCH].transpose(0, 3, 1, 2), np.float32))


def load_feature_network(path: str | Path, device: str = "cpu") -> FeatureNetwork:
    """Raises UserError, naming the path, for anything that is neither of the two formats, damaged, or lacks weights."""
    place = Path(path).expanduser()
    if place.is_file():
        return _scripted(place, device)
    if (place / "config.json").is_file():
        return _from_folder(place, device)
    raise UserError(f"no feature network at '{path}'", "give a TorchScript file, or a folder in transformers' layout")


def _scripted(path: Path, device: str) -> FeatureNetwork:
    for line in _program(path).splitlines():
        if FILE_OPERATORS.search(line):
            raise UserError(f"{path} reads or writes files: '{line.strip()}'", "use the file from its publisher")
    try:
        module: Any = torch.jit.load(path, map_location=device).eval()
        arguments = {argument.name for argument in module.forward.schema.arguments}
    except (RuntimeError, ValueError, AttributeError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise UserError(f"{path} cannot be loaded as TorchScript: {reason}", "fetch the file again") from error
    bias = {"no_output_bias": True} if "no_output_bias" in arguments else {}
    if "return_features" not in arguments:
        return FeatureNetwork(f"TorchScript {path.name}", lambda x: module(_bytes(x)), f"{path.name} gives features only", device)
    return FeatureNetwork(
        f"TorchScript {path.name}",
        lambda x: module(_bytes(x), return_features=True),
        lambda x: module(_bytes(x), **bias),
        device,
    )


def _program(path: Path) -> str:
    """The source text in a TorchScript archive."""
    try:
        with zipfile.ZipFile(path) as archive:
            code = [name for name in archive.namelist() if "/code/" in name and name.endswith(".py")]
            text = "\n".join(archive.read(name).decode() for name in code)
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        raise UserError(f"{path} is no TorchScript file", "pickled weights are not opened; give TorchScript or a folder") from error
    if not code:
        raise UserError(f"{path} is no TorchScript file but pickled data, which is not opened", "give TorchScript or a transformers folder")
    return text


def _bytes(pictures: Tensor) -> Tensor:
    """[0, 1] -> whole numbers from 0 to 255, as a picture file would hold them."""
    return (pictures * 255.0).round().clamp(0, 255)


def _from_folder(folder: Path, device: str) -> FeatureNetwork:
    prepare = _preparation(folder)
    architecture = (_json(folder / "config.json").get("architectures") or [""])[0]
    model = _stored(folder, architecture).to(device)
    name = f"{architecture or type(model).__name__} in {folder.name}"
    if not architecture.endswith("ForImageClassification"):
        return FeatureNetwork(name, lambda x: _pooled(model, prepare(x), folder), f"{folder.name} holds no classifier", device)
    if not hasattr(model, "classifier"):
        raise UserError(f"{folder}: {architecture} has no part named classifier", "give a classifier such as ResNet, ViT or ConvNeXt")

    def features(pictures: Tensor) -> Tensor:
        read: list[Tensor] = []
        hook = model.classifier.register_forward_pre_hook(lambda _, given: read.append(given[0]))
        try:
            model(pixel_values=prepare(pictures))
        finally:
            hook.remove()
        return read[0]

    return FeatureNetwork(name, features, lambda x: model(pixel_values=prepare(x)).logits.float().softmax(-1), device)


def _pooled(model: Any, pixels: Tensor, folder: Path) -> Tensor:
    seen = model(pixel_values=pixels)
    answer = seen.get("image_embeds", seen.get("pooler_output"))
    if answer is None:
        raise UserError(f"{folder}: {type(model).__name__} has no pooled output", "give a classifier or a CLIP vision tower")
    return answer


def _stored(folder: Path, architecture: str) -> Any:
    options: dict[str, Any] = {"local_files_only": True, "use_safetensors": True, "trust_remote_code": False, "dtype": torch.float32}
    try:
        import transformers

        if architecture.startswith("CLIP"):
            kind: Any = transformers.CLIPVisionModelWithProjection
            options.pop("trust_remote_code")
        else:
            classifier = architecture.endswith("ForImageClassification")
            kind = transformers.AutoModelForImageClassification if classifier else transformers.AutoModel
        model, facts = kind.from_pretrained(folder, output_loading_info=True, **options)
    except ImportError:
        raise
    except Exception as error:  # foreign files, read by a library that fails in many ways
        reason = str(error).strip().partition("\n")[0]
        raise UserError(
            f"{folder} cannot be loaded: {type(error).__name__}: {reason}", "give an undamaged folder with safetensors"
        ) from error
    # transformers fills what it misses with random numbers; a figure from those would look plausible.
    if absent := sorted([*facts["missing_keys"], *(str(key) for key in facts["mismatched_keys"])]):
        raise UserError(f"{folder} lacks {len(absent)} weights, the first '{absent[0]}'", "give the whole model")
    return model.requires_grad_(False).eval()


def _preparation(folder: Path) -> Callable[[Tensor], Tensor]:
    """[0, 1] pictures -> what the network reads: resized without cropping, then normalised, as `preprocessor_config.json` says."""
    file = folder / "preprocessor_config.json"
    if not file.is_file():
        raise UserError(f"{folder} has no preprocessor_config.json, which tells size and normalisation of pictures", "add it to the folder")
    told = _json(file)
    size = _sides(told.get("crop_size") if told.get("do_center_crop") else told.get("size"), file)
    mode = "bilinear" if told.get("resample", BICUBIC) == BILINEAR else "bicubic"
    normalised = told.get("do_normalize", True)
    if normalised and not ("image_mean" in told and "image_std" in told):
        raise UserError(f"{file} lacks image_mean or image_std", "give the file as the model's publisher has it")
    mean, std = (
        torch.tensor(told[key] if normalised else [empty] * 3)[:, None, None] for key, empty in (("image_mean", 0.0), ("image_std", 1.0))
    )

    def prepare(pictures: Tensor) -> Tensor:
        if list(pictures.shape[-2:]) != size:
            pictures = F.interpolate(pictures, size, mode=mode, antialias=True, align_corners=False).clamp(0, 1)
        return (pictures - mean.to(pictures)) / std.to(pictures)

    return prepare


def _sides(value: Any, file: Path) -> list[int]:
    """Height and width from transformers' several ways to say it."""
    if isinstance(value, dict):
        value = [value["height"], value["width"]] if "height" in value and "width" in value else value.get("shortest_edge")
    sides = [value, value] if isinstance(value, int) else value
    if not (isinstance(sides, list) and len(sides) == 2 and all(isinstance(side, int) and side > 0 for side in sides)):
        raise UserError(f"{file} does not tell the size of pictures", "give the file as the model's publisher has it")
    return sides


def _json(file: Path) -> dict[str, Any]:
    try:
        told = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {file}: {error}", "give an undamaged folder") from error
    if not isinstance(told, dict):
        raise UserError(f"{file} holds no JSON object", "give an undamaged folder")
    return told
