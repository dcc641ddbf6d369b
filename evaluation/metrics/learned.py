"""Image metrics that need other people's network weights, which come from local files only.

A figure whose weights are missing or unreadable is None and has a reason: it is never computed with random weights.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from evaluation.metrics.distribution import frechet_distance, inception_score, kernel_distance, small_sample_note
from infra.errors import UserError
from infra.storage import sha256_of_tree

if TYPE_CHECKING:
    from evaluation.metrics.feature_network import FeatureNetwork
    from training.nn.conditioning import ImageTokens
    from training.nn.lpips import Lpips

PAIR_METRICS = ("lpips", "clip_similarity")
SET_METRICS = ("fid", "kid", "inception_score")

_DEFINITIONS = {
    "lpips": "LPIPS v0.1 with VGG-16 (not AlexNet, whose figures differ), mean over pixels, full frame on white at its own size",
    "clip_similarity": "cosine of the projected CLIP embeddings of both pictures, on white, resized bicubically with antialiasing",
    "fid": "squared Fréchet distance of Gaussians fitted to the features of all true and all generated pictures, on white",
    "kid": "unbiased squared maximum mean discrepancy of the same features, kernel (x.y / D + 1)^3, all pictures, no subsets",
    "inception_score": "exp of the mean KL divergence of class probabilities from their mean, generated pictures only, one split",
}
T = TypeVar("T")


@dataclass(frozen=True)
class LocalWeights:
    """Where the weights are.

    Attributes:
        lpips: file of VGG-16 and LPIPS heads (`training.nn.lpips`); None: no LPIPS.
        clip: folder of a CLIP vision tower with projection in transformers' layout, safetensors; None: no CLIP similarity.
        features: TorchScript file or transformers folder of the network for FID, KID and IS (`evaluation.metrics.feature_network`);
            None: none of them.
    """

    lpips: str | None = None
    clip: str | None = None
    features: str | None = None


class LearnedMetrics:
    """The metrics whose weights were found, and why the others have none.

    Attributes:
        names: of the pair metrics, available or not: `PAIR_METRICS`.
        reasons: metric (of a pair or of a set) -> why it is unavailable; absent where it is available.
    """

    names: tuple[str, ...] = PAIR_METRICS

    def __init__(self, device: str = "cpu") -> None:
        """All metrics unavailable; `load` makes one with weights."""
        self.reasons = {name: "no weights were given" for name in (*PAIR_METRICS, *SET_METRICS)}
        self._about: dict[str, dict[str, str]] = {}
        self._device = device
        self._lpips: Lpips | None = None
        self._clip: ImageTokens | None = None
        self._network: FeatureNetwork | None = None

    @classmethod
    def load(cls, weights: LocalWeights, device: str = "cpu") -> LearnedMetrics:
        """Whatever can be had from `weights`; what cannot is told in `reasons`. Never raises for missing or damaged files."""
        made = cls(device)
        made._lpips = made._loaded(("lpips",), weights.lpips, _lpips, "VGG-16")
        made._clip = made._loaded(("clip_similarity",), weights.clip, _clip, "CLIP vision tower")
        made._network = made._loaded(SET_METRICS, weights.features, _features, "feature network")
        if made._network is not None:
            for metric in SET_METRICS:
                made._about[metric]["network"] = made._network.name
            if made._network.no_classes:
                made.reasons["inception_score"] = made._network.no_classes
        return made

    def _loaded(self, metrics: tuple[str, ...], path: str | None, load: Callable[[str, str], T], network: str) -> T | None:
        if path is None:
            return None
        try:
            found = load(path, self._device)
            digest = sha256_of_tree(Path(path).expanduser())
        except UserError as error:
            reason = error.message
        except (ImportError, RuntimeError, OSError) as error:  # a library with a broken binary part raises RuntimeError at import
            reason = _root(error)
        else:
            for metric in metrics:
                self._about[metric] = {"network": network, "weights_sha256": digest}
                del self.reasons[metric]
            return found
        self.reasons |= dict.fromkeys(metrics, reason)
        return None

    def described(self) -> dict[str, Any]:
        """Metric -> `definition`, `network` and `weights_sha256`, or `unavailable` with the reason; for result files."""
        return {
            metric: {"definition": _DEFINITIONS[metric]}
            | ({"unavailable": self.reasons[metric]} if metric in self.reasons else self._about[metric])
            for metric in (*PAIR_METRICS, *SET_METRICS)
        }

    def pair(self, reference_rgb: np.ndarray, generated_rgb: np.ndarray) -> dict[str, float | None]:
        """`lpips` (0: alike, lower is better) and `clip_similarity` (cosine, 1: alike); None where unavailable.

        Pictures are float RGB `[H, W, 3]` in [0, 1] on white. Raises ValueError when shapes differ or, for LPIPS, a side is
        under 16 px.
        """
        if reference_rgb.shape != generated_rgb.shape:
            raise ValueError(f"pictures differ in shape: {reference_rgb.shape} and {generated_rgb.shape}")
        figures: dict[str, float | None] = dict.fromkeys(PAIR_METRICS)
        if self._lpips is None and self._clip is None:
            return figures
        import torch

        with torch.inference_mode():
            both = torch.from_numpy(np.stack([reference_rgb, generated_rgb]).astype(np.float32)).permute(0, 3, 1, 2)
            both = both.to(self._device) * 2.0 - 1.0
            if self._lpips is not None:
                figures["lpips"] = float(self._lpips(both[:1], both[1:])[0])
            if self._clip is not None:
                embeddings = self._clip(both).double()
                figures["clip_similarity"] = float(torch.nn.functional.cosine_similarity(embeddings[0], embeddings[1], dim=0))
        return figures

    def features(self, pictures: np.ndarray) -> np.ndarray | None:
        """Float RGB `[N, H, W, 3]` in [0, 1] on white -> float32 `[N, D]`; None where unavailable.

        What `set_figures` reads. Raises ValueError where the network gives no finite vector per picture.
        """
        return None if self._network is None else self._network.features(pictures)

    def probabilities(self, pictures: np.ndarray) -> np.ndarray | None:
        """Float RGB `[N, H, W, 3]` in [0, 1] on white -> class probabilities `[N, C]`; None where unavailable. Raises as `features`."""
        return None if self._network is None else self._network.probabilities(pictures)


def set_figures(
    reference: np.ndarray, generated: np.ndarray, probabilities: np.ndarray | None = None
) -> tuple[dict[str, float | None], dict[str, str]]:
    """`SET_METRICS` of features `[N, D]` and `[M, D]` and of the generated pictures' class probabilities; and notes by metric.

    A note says why a figure is None, or why it is to be read with care (how many pictures, of how many dimensions).
    """
    figures: dict[str, float | None] = dict.fromkeys(SET_METRICS)
    notes: dict[str, str] = {}
    if min(len(reference), len(generated)) < 2:
        notes |= dict.fromkeys(("fid", "kid"), f"{len(reference)} and {len(generated)} pictures are too few; two a side are needed")
    else:
        if note := small_sample_note(len(reference), len(generated), reference.shape[1]):
            notes["fid"] = note
        figures["fid"] = frechet_distance(reference, generated, warn=False)
        figures["kid"] = kernel_distance(reference, generated)
    if probabilities is None or len(probabilities) == 0:
        notes["inception_score"] = "there are no class probabilities"
    else:
        figures["inception_score"] = inception_score(probabilities)
    return figures, notes


def _root(error: BaseException) -> str:
    """The first cause of a failure: a broken package shows as a missing name several imports later."""
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {error}".partition("\n")[0]


def _lpips(path: str, device: str) -> Lpips:
    from training.nn.lpips import Lpips

    return Lpips(path).to(device).eval()


def _clip(path: str, device: str) -> ImageTokens:
    from training.nn.conditioning import ImageTokens, image_encoder
    from training.nn.config import ClipConfig

    # The training part knows towers with random weights by name; a metric never takes one.
    if not Path(path).expanduser().is_dir():
        raise UserError(f"no CLIP weights at '{path}'", "give a folder in transformers' layout")
    with _without_bars():
        return ImageTokens(image_encoder(ClipConfig(source=path))).to(device)


def _features(path: str, device: str) -> FeatureNetwork:
    from evaluation.metrics.feature_network import load_feature_network

    with _without_bars():
        return load_feature_network(path, device)


@contextlib.contextmanager
def _without_bars() -> Iterator[None]:
    """transformers draws a bar for every folder it opens, which says nothing in a worker's log."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
