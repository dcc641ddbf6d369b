"""Learned metrics on tiny checkpoints in the formats of the real ones, and on everything that is no such checkpoint."""

import json
import pickle
import shutil
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import (
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
    Dinov2Config,
    Dinov2Model,
    ResNetConfig,
    ResNetForImageClassification,
    ResNetModel,
)

from evaluation.metrics.learned import PAIR_METRICS, SET_METRICS, LearnedMetrics, LocalWeights, set_figures
from training.nn.lpips import Lpips

VGG = ((0, 3, 64), (2, 64, 64), (5, 64, 128), (7, 128, 128), (10, 128, 256), (12, 256, 256), (14, 256, 256))
VGG += ((17, 256, 512), (19, 512, 512), (21, 512, 512), (24, 512, 512), (26, 512, 512), (28, 512, 512))


def pictures(seed: int, count: int, size: int = 32) -> np.ndarray:
    return np.random.default_rng(seed).random((count, size, size, 3))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("weights")


@pytest.fixture(scope="module")
def vgg(folder: Path) -> Path:
    generator = torch.Generator().manual_seed(0)
    values = {}
    for number, inputs, outputs in VGG:
        values[f"features.{number}.weight"] = torch.randn(outputs, inputs, 3, 3, generator=generator) * (2 / (9 * inputs)) ** 0.5
        values[f"features.{number}.bias"] = torch.zeros(outputs)
    for stage, width in enumerate((64, 128, 256, 512, 512)):
        values[f"lin{stage}.model.1.weight"] = torch.rand(1, width, 1, 1, generator=generator)
    save_file(values, folder / "vgg.safetensors")
    return folder / "vgg.safetensors"


@pytest.fixture(scope="module")
def clip(folder: Path) -> Path:
    torch.manual_seed(1)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    CLIPVisionModelWithProjection(CLIPVisionConfig(**sizes, image_size=32, patch_size=8, projection_dim=12)).save_pretrained(
        folder / "clip"
    )
    preprocessor(folder / "clip", size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}, do_center_crop=True, resample=3)
    return folder / "clip"


@pytest.fixture(scope="module")
def resnet(folder: Path) -> Path:
    torch.manual_seed(2)
    config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 12], depths=[1, 1], num_labels=5)
    ResNetForImageClassification(config).save_pretrained(folder / "resnet")
    preprocessor(folder / "resnet", size={"height": 32, "width": 32})
    return folder / "resnet"


def preprocessor(folder: Path, **facts) -> None:
    facts = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.25, 0.3], "resample": 2} | facts
    (folder / "preprocessor_config.json").write_text(json.dumps(facts))


class Scripted(torch.nn.Module):
    """The call of the published Inception file: whole numbers up to 255 in, features or probabilities out."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("weight", torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 1]]) / 255)
        self.register_buffer("bias", torch.tensor([0.0, 0, 0, 9]))

    def forward(self, img: Tensor, return_features: bool = False, no_output_bias: bool = False) -> Tensor:
        mean = img.round().mean(dim=(2, 3)) @ self.weight.t()
        if return_features:
            return mean
        return torch.softmax(mean if no_output_bias else mean + self.bias, 1)


class FeaturesOnly(torch.nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mean(dim=(2, 3))


class Writes(torch.nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        torch.save(x, "stolen.pt")
        return x.mean(dim=(2, 3))


def scripted(module: torch.nn.Module, path: Path) -> Path:
    torch.jit.script(module).save(str(path))
    return path


def test_nothing_given_nothing_measured():
    metrics = LearnedMetrics.load(LocalWeights())
    assert metrics.names == PAIR_METRICS and metrics.pair(*pictures(0, 2)) == {"lpips": None, "clip_similarity": None}
    assert metrics.features(pictures(0, 2)) is None and metrics.probabilities(pictures(0, 2)) is None
    assert set(metrics.reasons) == {*PAIR_METRICS, *SET_METRICS}
    assert all(row["unavailable"] and row["definition"] for row in metrics.described().values())


def test_lpips_is_the_projects_own_on_values_from_minus_one_to_one(vgg: Path):
    metrics = LearnedMetrics.load(LocalWeights(lpips=str(vgg)))
    a, b = pictures(3, 2)
    value = metrics.pair(a, b)["lpips"]
    expected = Lpips(vgg)(*(torch.from_numpy(x * 2 - 1).float().permute(2, 0, 1)[None] for x in (a, b)))
    assert value == pytest.approx(float(expected), rel=1e-6) and value > 0.01
    assert metrics.pair(b, a)["lpips"] == pytest.approx(value, rel=1e-6)
    assert metrics.pair(a, a)["lpips"] == 0.0
    near = metrics.pair(a, np.clip(a + 0.05 * (b - 0.5), 0, 1))["lpips"]
    assert 0 < near < value
    # The backbone is part of the name: figures of VGG and AlexNet do not compare.
    told = metrics.described()["lpips"]
    assert "VGG-16" in told["definition"] and len(told["weights_sha256"]) == 64
    with pytest.raises(ValueError, match="16 px"):
        metrics.pair(a[:12], b[:12])
    with pytest.raises(ValueError, match="shape"):
        metrics.pair(a, b[:16])


def test_weights_of_another_backbone_are_refused(folder: Path):
    """AlexNet's first convolution is 64 x 3 x 11 x 11."""
    save_file({"features.0.weight": torch.zeros(64, 3, 11, 11), "features.0.bias": torch.zeros(64)}, folder / "alex.safetensors")
    metrics = LearnedMetrics.load(LocalWeights(lpips=str(folder / "alex.safetensors")))
    assert metrics.pair(*pictures(0, 2))["lpips"] is None and "VGG-16" in metrics.reasons["lpips"]


def test_clip_similarity_is_the_cosine_of_the_embeddings(clip: Path):
    metrics = LearnedMetrics.load(LocalWeights(clip=str(clip)))
    a, b = pictures(4, 2)
    mean, std = np.array([0.48145466, 0.4578275, 0.40821073]), np.array([0.26862954, 0.26130258, 0.27577711])
    tower = CLIPVisionModelWithProjection.from_pretrained(clip).eval()

    def embedding(rgb: np.ndarray) -> np.ndarray:
        pixels = torch.from_numpy(((rgb - mean) / std).transpose(2, 0, 1)[None]).float()
        return tower(pixel_values=pixels).image_embeds.detach().double().numpy()[0]

    def cosine(x: np.ndarray, y: np.ndarray) -> float:
        return float(x @ y / np.linalg.norm(x) / np.linalg.norm(y))

    value = metrics.pair(a, b)["clip_similarity"]
    assert value == pytest.approx(cosine(embedding(a), embedding(b)), abs=1e-5) and value < 1 - 1e-4
    assert metrics.pair(a, a)["clip_similarity"] == pytest.approx(1.0, abs=1e-6)
    # Other sizes are brought to the tower's, as Pillow's bicubic filter does it.
    large = np.kron(pictures(5, 2, 16), np.ones((1, 5, 5, 1)))
    small = [
        np.asarray(Image.fromarray((x * 255).round().astype(np.uint8)).resize((32, 32), Image.Resampling.BICUBIC)) / 255 for x in large
    ]
    assert metrics.pair(*large)["clip_similarity"] == pytest.approx(cosine(*map(embedding, small)), abs=2e-3)


def test_a_scripted_network_gives_features_and_probabilities(folder: Path):
    metrics = LearnedMetrics.load(LocalWeights(features=str(scripted(Scripted(), folder / "inception.pt"))))
    x = pictures(6, 70, 16).astype(np.float32)  # more than one batch
    means = (x * np.float32(255)).round().mean((1, 2), dtype=np.float64) / 255
    expected = np.concatenate([means, means.sum(1, keepdims=True)], 1)
    features, probabilities = metrics.features(x), metrics.probabilities(x)
    assert np.abs(features - expected).max() < 1e-5
    share = np.exp(expected)
    assert np.abs(probabilities - share / share.sum(1, keepdims=True)).max() < 1e-5  # without the bias, as the score's authors do
    assert not set(metrics.reasons) & set(SET_METRICS)
    assert metrics.described()["fid"]["network"] == "TorchScript inception.pt"


def test_figures_of_sets_and_what_is_to_be_known_about_them(folder: Path):
    metrics = LearnedMetrics.load(LocalWeights(features=str(scripted(Scripted(), folder / "sets.pt"))))
    truth, made = pictures(7, 12, 16), pictures(8, 9, 16) * np.array([1.0, 0.8, 0.6])
    a, b, p = metrics.features(truth), metrics.features(made), metrics.probabilities(made)
    figures, notes = set_figures(a, b, p)
    assert figures["fid"] > ((a.mean(0) - b.mean(0)) ** 2).sum() > 0.01 and figures["kid"] > 0 and figures["inception_score"] >= 1
    assert notes == {}
    _, notes = set_figures(a[:4], b[:3])
    assert "4 and 3 pictures" in notes["fid"] and notes["inception_score"]
    figures, notes = set_figures(a[:1], b)
    assert figures == dict.fromkeys(SET_METRICS) and set(notes) == set(SET_METRICS) and "too few" in notes["kid"]


def test_a_network_without_classes_has_no_inception_score(folder: Path):
    metrics = LearnedMetrics.load(LocalWeights(features=str(scripted(FeaturesOnly(), folder / "plain.pt"))))
    assert metrics.features(pictures(9, 3)).shape == (3, 3) and metrics.probabilities(pictures(9, 3)) is None
    assert list(name for name in SET_METRICS if name in metrics.reasons) == ["inception_score"]
    assert "features only" in metrics.described()["inception_score"]["unavailable"]


def test_a_program_that_writes_files_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(folder)
    metrics = LearnedMetrics.load(LocalWeights(features=str(scripted(Writes(), folder / "writes.pt"))))
    assert metrics.features(pictures(0, 2)) is None and "writes files" in metrics.reasons["fid"]
    assert not (folder / "stolen.pt").exists()


class Opened:
    def __reduce__(self):
        return (Path.touch, (Path("opened"),))


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("kind", ["torch.save", "pickle"])
def test_pickles_are_never_opened(kind: str, folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(folder)
    path = folder / f"{kind}.pt"
    if kind == "pickle":
        path.write_bytes(pickle.dumps(Opened()))
    else:
        torch.save({"weights": Opened()}, path)
    metrics = LearnedMetrics.load(LocalWeights(lpips=str(path), features=str(path)))
    assert metrics.pair(*pictures(0, 2))["lpips"] is None and metrics.features(pictures(0, 2)) is None
    assert "no TorchScript" in metrics.reasons["kid"] and "plain tensors" in metrics.reasons["lpips"]
    assert not (folder / "opened").exists()


def test_a_classifier_folder_gives_what_its_head_reads_and_its_classes(resnet: Path):
    metrics = LearnedMetrics.load(LocalWeights(features=str(resnet)))
    x = pictures(10, 3)
    pixels = torch.from_numpy(((x - [0.5, 0.4, 0.3]) / [0.2, 0.25, 0.3]).transpose(0, 3, 1, 2)).float()
    expected = ResNetModel.from_pretrained(resnet).eval()(pixel_values=pixels).pooler_output.flatten(1).detach().numpy()
    assert expected.shape == (3, 12) and np.abs(metrics.features(x) - expected).max() < 1e-5
    logits = ResNetForImageClassification.from_pretrained(resnet).eval()(pixel_values=pixels).logits.detach().double().numpy()
    share = np.exp(logits)
    assert np.abs(metrics.probabilities(x) - share / share.sum(1, keepdims=True)).max() < 1e-5
    assert metrics.described()["kid"]["network"] == "ResNetForImageClassification in resnet"
    assert metrics.features(pictures(10, 2, 20)).shape == (2, 12)  # resized


def test_folders_without_classes(clip: Path, folder: Path):
    torch.manual_seed(3)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 28, "patch_size": 14}
    Dinov2Model(Dinov2Config(**sizes)).save_pretrained(folder / "dino")
    preprocessor(folder / "dino", size={"shortest_edge": 28})
    for place, width in ((clip, 12), (folder / "dino", 16)):
        metrics = LearnedMetrics.load(LocalWeights(features=str(place)))
        assert metrics.features(pictures(11, 2)).shape == (2, width)
        assert "no classifier" in metrics.reasons["inception_score"] and "fid" not in metrics.reasons


def test_damaged_and_incomplete_weights_have_reasons_never_numbers(resnet: Path, clip: Path, vgg: Path, folder: Path):
    """transformers would fill a missing tensor with random numbers and go on."""
    incomplete = {}
    for name, source in (("resnet", resnet), ("clip", clip)):
        incomplete[name] = Path(shutil.copytree(source, folder / f"incomplete-{name}"))
        values = load_file(source / "model.safetensors")
        values.pop("classifier.1.weight" if name == "resnet" else "visual_projection.weight")
        save_file(values, incomplete[name] / "model.safetensors", metadata={"format": "pt"})
    cut = folder / "cut.safetensors"
    cut.write_bytes(vgg.read_bytes()[:1000])
    metrics = LearnedMetrics.load(LocalWeights(str(cut), str(incomplete["clip"]), str(incomplete["resnet"])))
    assert "lacks" in metrics.reasons["clip_similarity"] and "lacks" in metrics.reasons["fid"] and "cut" in metrics.reasons["lpips"]
    assert metrics.pair(*pictures(0, 2)) == {"lpips": None, "clip_similarity": None} and metrics.features(pictures(0, 2)) is None
    bare = shutil.copytree(resnet, folder / "bare")
    (Path(bare) / "preprocessor_config.json").unlink()
    assert "preprocessor_config.json" in LearnedMetrics.load(LocalWeights(features=str(bare))).reasons["fid"]
    absent = LearnedMetrics.load(LocalWeights("no.safetensors", "random(0)", str(folder / "nowhere")))
    assert "no.safetensors" in absent.reasons["lpips"] and "random(0)" in absent.reasons["clip_similarity"]
    assert "nowhere" in absent.reasons["inception_score"]


def test_a_library_that_breaks_at_import_is_a_reason(clip: Path, monkeypatch: pytest.MonkeyPatch):
    """A wheel built for another torch raises RuntimeError, not ImportError."""

    class Broken(types.ModuleType):
        def __getattr__(self, name: str):
            raise RuntimeError("operator torchvision::nms does not exist")

    monkeypatch.setitem(sys.modules, "training.nn.conditioning", Broken("training.nn.conditioning"))
    metrics = LearnedMetrics.load(LocalWeights(clip=str(clip)))
    assert "torchvision::nms" in metrics.reasons["clip_similarity"]
    assert metrics.pair(*pictures(0, 2))["clip_similarity"] is None
