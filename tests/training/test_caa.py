"""Correspondence-aware attention against a loop over pixels, and correspondences against projected points."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from infra.errors import UserError
from tests.training.test_unet import TINY, _inputs, _module
from training.methods.mvdiffusionpp_config import smoke
from training.nn.caa import CorrespondenceAttention, CorrespondenceBlock, cell_centres
from training.nn.config import UnetConfig
from training.nn.correspondences import DepthAndPose, Homographies, intrinsics, ring_neighbours
from training.nn.unet import MultiViewUNet, empty_unet


def _turn(axis: str, degrees: float) -> np.ndarray:
    """Rotation about +Y (down in the camera frame: a pan) or +X (a tilt)."""
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]] if axis == "y" else [[1, 0, 0], [0, c, -s], [0, s, c]])


def _panorama(scenes: int = 2, views: int = 4, step: float = 40.0) -> Homographies:
    """Cameras that pan by `step`, tilted a little differently in every scene."""
    rotation = np.stack([[_turn("y", step * v) @ _turn("x", 4.0 * b + v) for v in range(views)] for b in range(scenes)])
    camera = intrinsics(90.0, 80.0).expand(scenes, views, 3, 3)
    return Homographies(camera, torch.tensor(rotation, dtype=torch.float32), ring_neighbours(views))


def _project(camera: Tensor, pose: np.ndarray, point: np.ndarray) -> np.ndarray:
    """A world point in one picture, by the pinhole formula; `pose` camera-to-world."""
    x, y, z = pose[:3, :3].T @ (point - pose[:3, 3])
    matrix = camera.numpy()
    return np.array([matrix[0, 0] * x / z + matrix[0, 2], matrix[1, 1] * y / z + matrix[1, 2], z])


def test_homographies_agree_with_projected_points() -> None:
    between = _panorama()
    rng = np.random.default_rng(0)
    source, target = torch.tensor([0, 1, 2]), torch.tensor([1, 0, 3])
    for b in range(2):
        for number, (s, t) in enumerate(zip(source.tolist(), target.tolist(), strict=True)):
            poses = [np.eye(4), np.eye(4)]
            for pose, view in zip(poses, (s, t), strict=True):
                pose[:3, :3] = between.rotation[b, view].numpy()
            # Points in front of both cameras at any distance from their common centre.
            towards = poses[0][:3, 2] + poses[1][:3, 2]
            points = [(towards + rng.normal(size=3) * 0.2) * rng.uniform(0.5, 9) for _ in range(10)]
            here = np.stack([_project(between.camera[b, s], poses[0], p)[:2] for p in points])
            there = np.stack([_project(between.camera[b, t], poses[1], p)[:2] for p in points])
            given = torch.tensor(here, dtype=torch.float32).expand(2, 3, 10, 2)
            found, exists = between.locate(given, source, target)
            np.testing.assert_allclose(found[b, number], there, atol=1e-4)
            assert exists[b, number].all()
    behind, exists = between.locate(torch.full((2, 1, 1, 2), 0.5), torch.tensor([0]), torch.tensor([3]))
    assert not exists.any() and torch.isfinite(behind).all()  # 120 degrees away


def test_depth_correspondences_agree_with_projected_points() -> None:
    """Two posed cameras above a slanted plane: known depth in closed form."""
    size, normal, offset = 16, np.array([0.1, -0.2, 1.0]), 3.0  # points with normal . p = offset
    camera = intrinsics(60.0, 60.0)
    poses = [np.eye(4), np.eye(4)]
    poses[1][:3, :3], poses[1][:3, 3] = _turn("y", 12.0), [-0.5, 0.2, 0.1]
    centres = cell_centres(size, size).numpy()
    depths, surface = [], []
    for pose in poses:
        rays = np.concatenate([centres, np.ones((size * size, 1))], 1) @ np.linalg.inv(camera.numpy()).T  # z = 1
        along = (offset - normal @ pose[:3, 3]) / (rays @ pose[:3, :3].T @ normal)
        depths.append(along.reshape(size, size))
        surface.append((rays * along[:, None]) @ pose[:3, :3].T + pose[:3, 3])
    depth = torch.tensor(np.stack(depths), dtype=torch.float32)[None]
    depth[0, 0, 0, 0] = float("inf")
    depth[0, 0, 5, 5] = 0.0
    between = DepthAndPose(camera.expand(1, 2, 3, 3), torch.tensor(np.stack(poses), dtype=torch.float32)[None], depth, ring_neighbours(2))
    found, exists = between.locate(torch.tensor(centres, dtype=torch.float32)[None, None], torch.tensor([0]), torch.tensor([1]))
    want = np.stack([_project(camera, poses[1], point)[:2] for point in surface[0]])
    known = exists[0, 0].numpy()
    np.testing.assert_allclose(found[0, 0].numpy()[known], want[known], atol=1e-4)
    assert sorted(np.flatnonzero(~known)) == [0, 5 * size + 5]


def _bilinear(plane: np.ndarray, x: float, y: float) -> np.ndarray:
    """`[h, w, C]` at x, y in cells (centres at whole numbers), the border repeated outwards."""
    height, width, _ = plane.shape
    left, top = math.floor(x), math.floor(y)
    total = np.zeros(plane.shape[2])
    for j in (0, 1):
        for i in (0, 1):
            weight = (1 - abs(x - left - i)) * (1 - abs(y - top - j))
            total += weight * plane[min(max(top + j, 0), height - 1), min(max(left + i, 0), width - 1)]
    return total


def _gamma(displacement: np.ndarray, width: int) -> np.ndarray:
    count = width // 4
    parts = []
    for value in displacement:
        angles = [value * 10_000.0 ** (-k / (count - 1)) for k in range(count)]
        parts += [math.sin(a) for a in angles] + [math.cos(a) for a in angles]
    return np.array(parts)


def _loop(layer: CorrespondenceAttention, features: np.ndarray, between: Homographies) -> tuple[np.ndarray, int]:
    """MVDiffusion §4.1, pixel by pixel, features sampled before they are projected. Also how many pixels saw nothing."""
    scenes, views, height, width, channels = features.shape
    w_q, w_k, w_v = (module.weight.detach().double().numpy() for module in (layer.to_q, layer.to_k, layer.to_v))
    heads, reach = layer.heads, layer.size // 2
    out, lonely = np.zeros_like(features), 0

    def see(b: int, source: int, target: int, point: np.ndarray) -> np.ndarray | None:
        ray = np.linalg.inv(between.camera[b, source].double().numpy()) @ [*point, 1.0]
        world = between.rotation[b, source].double().numpy() @ ray
        x, y, z = between.camera[b, target].double().numpy() @ between.rotation[b, target].double().numpy().T @ world
        return np.array([x / z, y / z]) if z > 1e-6 else None

    cells = np.array([width, height])
    for b, v, row, column in np.ndindex(scenes, views, height, width):
        start = (np.array([column, row]) + 0.5) / cells
        looked_at = []
        for target in between.neighbours[v].tolist():
            centre = see(b, v, target, start) if target >= 0 else None
            if centre is None:
                continue
            for dy in range(-reach, reach + 1):
                for dx in range(-reach, reach + 1):
                    place = centre + np.array([dx, dy]) / cells
                    back = see(b, target, v, place)
                    if back is None or (place < 0).any() or (place > 1).any():
                        continue
                    sampled = _bilinear(features[b, target], *(place * cells - 0.5))
                    looked_at.append(sampled + _gamma((back - start) * cells, channels))
        if not looked_at:
            lonely += 1
            continue
        query = w_q @ (features[b, v, row, column] + _gamma(np.zeros(2), channels))
        keys, values = np.stack(looked_at) @ w_k.T, np.stack(looked_at) @ w_v.T
        for head in np.split(np.arange(channels), heads):
            scores = keys[:, head] @ query[head] / math.sqrt(len(head))
            weights = np.exp(scores - scores.max())
            out[b, v, row, column, head] = weights / weights.sum() @ values[:, head]
    return out, lonely


@pytest.mark.parametrize(("channels", "window"), [(64, 3), (16, 1)])
def test_attention_equals_the_loop_over_pixels(channels: int, window: int) -> None:
    torch.manual_seed(0)
    layer = CorrespondenceAttention(channels, window)
    assert layer.heads == max(1, channels // 32)
    between = _panorama(scenes=2, views=3, step=50.0)
    between.neighbours = torch.tensor([[2, 1], [0, 2], [1, -1]])
    features = torch.randn(2, 3, 4, 6, channels)
    want, lonely = _loop(layer, features.double().numpy(), between)
    got = layer(features, between)
    np.testing.assert_allclose(got.detach().numpy(), want, atol=2e-5)
    assert lonely > 0 and not got.detach().numpy()[(want == 0).all(-1)].any()  # nothing to see: no message, and no NaN
    got.square().sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in layer.parameters())
    assert window == 1 or all(p.grad.abs().sum() > 0 for p in layer.parameters())  # one place alone needs no query


def test_scenes_of_a_batch_do_not_meet() -> None:
    torch.manual_seed(0)
    layer, between, features = CorrespondenceAttention(16), _panorama(2, 4), torch.randn(2, 4, 4, 4, 16)
    second = Homographies(between.camera[1:], between.rotation[1:], between.neighbours)
    torch.testing.assert_close(layer(features, between)[1:], layer(features[1:], second), atol=1e-5, rtol=1e-5)


def test_a_new_block_changes_nothing_and_learns() -> None:
    block, features = CorrespondenceBlock(16), torch.randn(1, 4, 16, 4, 4)
    assert torch.equal(block(features, _panorama(1, 4)), features)
    for _ in range(2):  # the silent outputs first, then what lies behind them
        block(features, _panorama(1, 4)).square().sum().backward()
        with torch.no_grad():
            for parameter in block.parameters():
                parameter -= 1e-2 * parameter.grad
    assert all(p.grad.abs().sum() > 0 for p in block.parameters())


def _caa_inputs() -> dict[str, object]:
    return _inputs(2, 1, 3) | {"correspondences": _panorama(2, 4)}


@torch.no_grad()
def test_a_unet_starts_as_if_each_view_were_alone_then_neighbours_matter() -> None:
    module = _module(cross_view="caa")
    alone = _module(cross_view="none")
    plain = {name: value for name, value in _caa_inputs().items() if name != "correspondences"}
    alone.load_state_dict({name: value for name, value in module.state_dict().items() if not name.startswith("caa.")})
    assert torch.equal(module(**_caa_inputs()), alone(**plain))
    assert len(module.caa.blocks) == 2 * len(TINY.block_out_channels) + 1
    for block in module.caa.blocks:
        nn.init.normal_(block.attention_out.weight)
    inputs = _caa_inputs()
    base = module(**inputs)
    inputs["noisy"] = inputs["noisy"].clone()
    inputs["noisy"][0, 1] += 1.0
    moved = (module(**inputs) - base).abs().amax((2, 3, 4)) > 1e-5
    assert moved.tolist() == [[True, True, True, True], [False] * 4]


def test_gradient_checkpointing_keeps_the_gradients() -> None:
    grads = []
    for checkpointing in (False, True):
        module = _module(cross_view="caa", attention_levels=(True, False)).train()
        for block in module.caa.blocks:
            nn.init.normal_(block.attention_out.weight, generator=torch.Generator().manual_seed(0))
        if checkpointing:
            module.enable_gradient_checkpointing()
        module(**_caa_inputs()).square().sum().backward()
        grads.append({name: p.grad for name, p in module.named_parameters()})
    assert set(grads[0]) == set(grads[1])
    for name, grad in grads[0].items():
        assert grad is not None, name
        torch.testing.assert_close(grads[1][name], grad, atol=1e-3 * (1 + float(grad.abs().max())), rtol=1e-3)


def test_correspondences_are_asked_for_exactly_where_they_are_used() -> None:
    with pytest.raises(UserError, match="needs correspondences"):
        _module(cross_view="caa")(**_inputs(2, 1, 3))
    with pytest.raises(UserError, match="takes no correspondences"):
        _module()(**_caa_inputs())
    valid = torch.tensor([[True] * 4, [False, True, True, True]])
    with pytest.raises(UserError, match="equally many views"):
        _module(cross_view="caa")(**_caa_inputs(), valid=valid)
    with pytest.raises(UserError, match="no correspondences before"):  # what generates objects has none
        replace(smoke(), unet=replace(smoke().unet, cross_view="caa"))
    with pytest.raises(UserError, match="cross_view"):
        UnetConfig(cross_view="epipolar")
    with pytest.raises(UserError, match="masked"):
        UnetConfig(cross_view="ring", ragged="masked")


@torch.no_grad()
def test_size_and_cost_at_full_width() -> None:
    """Spec §10.2: 147.6 M parameters in nine blocks; 0.09 TFLOP per view at 64x64 when projected before sampling, 0.28 after."""
    views, flops = 4, {}
    for kind in ("none", "caa"):
        config = UnetConfig(cross_view=kind)
        with torch.device("meta"):
            module = MultiViewUNet.configured(empty_unet(config), config, 42)
            inputs = {
                "noisy": torch.ones(1, views, 4, 64, 64),
                "condition_latents": torch.ones(1, views, 4, 64, 64),
                "is_condition": torch.zeros(1, views, dtype=torch.bool),
                "timesteps": torch.zeros(1, dtype=torch.long),
                "slots": torch.zeros(1, views, dtype=torch.long),
                "image_tokens": torch.ones(1, 1, 1024),
            }
            if kind == "caa":
                eye = torch.ones(1, views, 3, 3)
                inputs["correspondences"] = Homographies(eye, eye, torch.zeros(views, 2, dtype=torch.long))
        with FlopCounterMode(display=False) as counter:
            module(**inputs)
        flops[kind] = counter.get_total_flops() / views / 1e12
    assert sum(p.numel() for p in module.caa.parameters()) / 1e6 == pytest.approx(147.6, abs=0.1)
    assert flops["caa"] - flops["none"] == pytest.approx(0.105, abs=0.015)
