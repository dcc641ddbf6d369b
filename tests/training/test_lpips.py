"""LPIPS against a slow loop on random weights, and its weights file against everything that is not one."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from infra.errors import UserError
from infra.seeds import rng_for
from tests.training.painted import painted_views
from training.methods.base import TrainObject
from training.methods.mvdiffusionpp_config import smoke
from training.methods.mvdiffusionpp_vae import VaeTraining
from training.nn.lpips import Lpips, lpips_unavailable

VGG = ((0, 3, 64), (2, 64, 64), (5, 64, 128), (7, 128, 128), (10, 128, 256), (12, 256, 256), (14, 256, 256))
VGG += ((17, 256, 512), (19, 512, 512), (21, 512, 512), (24, 512, 512), (26, 512, 512), (28, 512, 512))
SLICE = {0: 1, 2: 1, 5: 2, 7: 2, 10: 3, 12: 3, 14: 3, 17: 4, 19: 4, 21: 4, 24: 5, 26: 5, 28: 5}


@pytest.fixture(scope="module")
def weights() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    values = {}
    for number, inputs, outputs in VGG:
        values[f"features.{number}.weight"] = torch.randn(outputs, inputs, 3, 3, generator=generator) * (2 / (9 * inputs)) ** 0.5
        values[f"features.{number}.bias"] = torch.randn(outputs, generator=generator) * 0.1
    for stage, width in enumerate((64, 128, 256, 512, 512)):
        values[f"lin{stage}.model.1.weight"] = torch.rand(1, width, 1, 1, generator=generator)
    return values


@pytest.fixture(scope="module")
def network(weights: dict[str, Tensor], tmp_path_factory: pytest.TempPathFactory) -> Lpips:
    path = tmp_path_factory.mktemp("lpips") / "lpips.safetensors"
    save_file(weights, path)
    return Lpips(path)


def _pictures(size: int = 20) -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    return torch.rand(2, 3, size, size) * 2 - 1, torch.rand(2, 3, size, size) * 2 - 1


def _by_hand(weights: dict[str, Tensor], a: np.ndarray, b: np.ndarray) -> float:
    """One pair `[3, H, W]`: convolutions as sums over shifted pictures, pooling by slices, cell by cell at the end."""
    values = {name: value.double().numpy() for name, value in weights.items()}

    def taps(picture: np.ndarray) -> list[np.ndarray]:
        x = (picture - np.array([-0.030, -0.088, -0.188])[:, None, None]) / np.array([0.458, 0.448, 0.450])[:, None, None]
        found = []
        for number, _, _ in VGG:
            if number in (5, 10, 17, 24):
                found.append(x)
                h, w = x.shape[1] // 2 * 2, x.shape[2] // 2 * 2
                x = x[:, :h, :w].reshape(len(x), h // 2, 2, w // 2, 2).max((2, 4))
            kernel, padded = values[f"features.{number}.weight"], np.pad(x, ((0, 0), (1, 1), (1, 1)))
            total = values[f"features.{number}.bias"][:, None, None]
            for i in range(3):
                for j in range(3):
                    total = total + np.einsum("oc,chw->ohw", kernel[:, :, i, j], padded[:, i : i + x.shape[1], j : j + x.shape[2]])
            x = np.maximum(total, 0)
        return [*found, x]

    distance = 0.0
    for stage, (left, right) in enumerate(zip(taps(a), taps(b), strict=True)):
        head, cells = values[f"lin{stage}.model.1.weight"][0, :, 0, 0], []
        for row, column in np.ndindex(left.shape[1:]):
            one, two = left[:, row, column], right[:, row, column]
            cells.append(head @ (one / (np.linalg.norm(one) + 1e-10) - two / (np.linalg.norm(two) + 1e-10)) ** 2)
        distance += float(np.mean(cells))
    return distance


def test_distance_equals_the_loop(network: Lpips, weights: dict[str, Tensor]) -> None:
    a, b = _pictures()
    want = [_by_hand(weights, a[i].double().numpy(), b[i].double().numpy()) for i in range(2)]
    np.testing.assert_allclose(network(a, b).numpy(), want, rtol=1e-4)


def test_distance_is_symmetric_positive_and_zero_for_equal_pictures(network: Lpips) -> None:
    a, b = _pictures()
    torch.testing.assert_close(network(a, b), network(b, a))
    assert (network(a, b) > 0).all() and network(a, a).tolist() == [0.0, 0.0]
    assert not list(network.parameters())  # nothing to train


def test_gradients_reach_the_pictures_and_lower_the_distance(network: Lpips) -> None:
    a, b = _pictures(32)
    a.requires_grad_()
    before = network(a, b).sum()
    (slope,) = torch.autograd.grad(before, a)
    assert torch.isfinite(slope).all() and float(network((a - 0.1 * slope / slope.norm()).detach(), b).sum()) < float(before.detach())
    flat = torch.zeros(1, 3, 16, 16, requires_grad=True)  # equal pictures: the root's gradient must not become NaN
    network(flat, torch.zeros(1, 3, 16, 16)).sum().backward()
    assert torch.isfinite(flat.grad).all()


def test_mixed_precision_does_not_touch_it(network: Lpips) -> None:
    a, b = _pictures()
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(network(a, b), network(a, b)) and network(a, b).dtype == torch.float32
        inside = network(a.bfloat16(), b.bfloat16())
    torch.testing.assert_close(inside, network(a.bfloat16(), b.bfloat16()))


def test_the_published_names_serve_too(network: Lpips, weights: dict[str, Tensor], tmp_path: Path) -> None:
    theirs = {}
    for name, value in weights.items():
        parts = name.split(".")
        if parts[0] == "features":
            theirs[f"net.slice{SLICE[int(parts[1])]}.{parts[1]}.{parts[2]}"] = value
        else:
            theirs |= {name: value, name.replace("lin", "lins."): value.clone()}
    theirs["scaling_layer.shift"] = torch.zeros(1, 3, 1, 1)
    torch.save(theirs, tmp_path / "lpips.pth")
    assert torch.equal(Lpips(tmp_path / "lpips.pth")(*_pictures()), network(*_pictures()))


class Evil:
    def __reduce__(self):
        return (print, ("opened a pickle",))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"features.28.weight": None}, "lacks 'features.28.weight'"),
        ({"lin2.model.1.weight": None}, "lacks 'lin2"),
        ({"lin0.model.1.weight": torch.rand(64)}, "is \\(64,\\)"),
        ({"features.0.weight": torch.rand(64, 4, 3, 3)}, "\\(64, 4, 3, 3\\)"),
        ({"lin1.model.1.weight": -torch.rand(1, 128, 1, 1)}, "negative"),
        ({"features.0.bias": torch.full((64,), float("nan"))}, "not finite"),
        ({"features.30.weight": torch.rand(1)}, "'features.30.weight'"),
        ({"net.slice1.0.bias": torch.rand(64)}, "twice"),
        ({"features.0.weight": Evil()}, "plain tensors"),
    ],
)
def test_other_files_are_refused(weights: dict[str, Tensor], tmp_path: Path, change: dict, message: str, capsys) -> None:
    values = {name: value for name, value in (weights | change).items() if value is not None}
    torch.save(values, tmp_path / "lpips.pt")
    with pytest.raises(UserError, match=message):
        Lpips(tmp_path / "lpips.pt")
    assert "opened a pickle" not in capsys.readouterr().out


def test_damaged_and_missing_files_are_refused(tmp_path: Path) -> None:
    for name in ("a.safetensors", "a.pt"):
        (tmp_path / name).write_bytes(b"\x00" * 40)
        with pytest.raises(UserError, match="plain tensors"):
            Lpips(tmp_path / name)
    with pytest.raises(UserError, match="no LPIPS weights"):
        Lpips(tmp_path / "none.pt")


def test_why_there_is_no_metric(tmp_path: Path) -> None:
    (tmp_path / "there.pt").touch()
    assert "needs a file" in lpips_unavailable(None)
    assert "none.pt" in lpips_unavailable(str(tmp_path / "none.pt"))
    assert lpips_unavailable(str(tmp_path / "there.pt")) is None


def test_as_the_loss_of_the_vae(network: Lpips, weights: dict[str, Tensor], tmp_path: Path) -> None:
    """In the loss by its weight, reported at validation, and nowhere in what is trained or saved."""
    save_file(weights, tmp_path / "lpips.safetensors")
    config = replace(smoke(), perceptual=f"lpips({tmp_path / 'lpips.safetensors'})", perceptual_weight=0.7, vae_views=2)
    torch.manual_seed(0)
    training, bare = VaeTraining(config), VaeTraining(replace(config, perceptual="none"))
    module = training.build()
    views = TrainObject(painted_views("a", 32))
    batch = training.collate([training.example(views, rng_for(0, "a"))])
    loss, terms = training.loss(module, batch, torch.Generator(), 0)
    plain, _ = bare.loss(module, batch, torch.Generator(), 0)
    decoded = module(batch["pictures"], batch["noise"])[0]
    want = network(decoded[:, :3], batch["pictures"][:, :3]).mean()
    torch.testing.assert_close(terms["perceptual"], want.detach(), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(loss - plain, 0.7 * want, rtol=1e-3, atol=1e-5)
    loss.backward()
    assert all(torch.isfinite(p.grad).all() for p in module.parameters())
    figures = training.validate(module, [views], seed=0)
    assert figures["lpips"] > 0 and "lpips" not in bare.validate(module, [views], seed=0)
    training.save(module, tmp_path)
    assert {name.partition(".")[0] for name in module.state_dict()} == {"autoencoder", "latent_mean", "latent_power"}
    with pytest.raises(UserError, match="no LPIPS weights"):
        VaeTraining(replace(config, perceptual="lpips(/no/such/file.pt)")).build()
