"""The smallest method that uses every part of the interface: two stages, encoded arrays in the second, noise in the loss."""

import glob
import json
import os
import signal
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from infra.storage import Location
from rendering.cameras import Camera, orbit
from rendering.view_set import CONDITION, TARGET, ViewSet, on_white
from rendering.views import to_table, write_shards
from training.checkpoint import REFUSED
from training.checkpoint_manifest import MANIFEST
from training.methods.base import Preview, Stage, TrainObject

VIEWS, SIZE = 5, 8


@dataclass(frozen=True)
class ToyConfig:
    width: int = 16
    poison: str = ""
    """uid whose examples become NaN and which cannot be encoded."""
    crash: str = ""
    """Folder of accidents: a process that finds `kill-<step>` there dies by SIGKILL, with `fail-<step>` it raises; all
    processes wait at a step while `hold-<step>` is there, and name themselves in `held-<step>.<pid>`. Such a step begins when all
    checkpoints before it are whole. Encoding a uid is noted in `encoded.log`, and ends its process where `kill-<uid>` is there,
    and stays there."""


class ToyTrainable:
    """Predict the mean colour of a random view from that of another, both with noise."""

    def __init__(self, stage: str, config: ToyConfig) -> None:
        self.stage, self.config = stage, config

    def build(self) -> nn.Module:
        module = nn.Sequential(nn.Linear(3, self.config.width), nn.SiLU(), nn.Linear(self.config.width, 3), nn.Linear(3, 3))
        module[3].requires_grad_(False)  # a frozen part, as a text or image encoder would be
        return module

    def load(self, module: nn.Module, folder: Path) -> None:
        module.load_state_dict(load_file(folder / "toy.safetensors"))

    def save(self, module: nn.Module, folder: Path) -> None:
        save_file(module.state_dict(), folder / "toy.safetensors")
        (folder / "toy.json").write_text(json.dumps({"stage": self.stage, **asdict(self.config)}))

    def example(self, obj: TrainObject, rng: np.random.Generator) -> dict:
        means = obj.arrays["mean"] if obj.arrays is not None else mean_colours(obj.views)
        source, target = rng.choice(len(means), 2, replace=False)
        if obj.views.uid == self.config.poison:
            means = means * np.nan
        return {"uid": obj.views.uid, "source": means[source], "target": means[target]}

    def collate(self, examples: list[dict]) -> dict:
        stacked = {name: torch.from_numpy(np.stack([e[name] for e in examples])) for name in ("source", "target")}
        return {"uid": [e["uid"] for e in examples], **stacked}

    def loss(self, module: nn.Module, batch: dict, generator: torch.Generator, step: int) -> tuple:
        if self.config.crash:
            accident(Path(self.config.crash), step)
        noise = 0.01 * torch.randn(batch["source"].shape, generator=generator, device=batch["source"].device)
        loss = (module(batch["source"] + noise) - batch["target"]).square().mean()
        return loss, {"mse": loss}

    def validate(self, module: nn.Module, objects: list[TrainObject], seed: int) -> dict[str, float]:
        means = torch.from_numpy(np.stack([mean_colours(obj.views) for obj in objects]))
        return {"loss": float((module(means[:, 0]) - means[:, 1]).square().mean())}

    def cost(self, batch: dict) -> dict[str, float]:
        return {"flops": 1e6 * len(batch["uid"]), "tokens": 2.0 * len(batch["uid"])}

    def preview(self, module: nn.Module, objects: list[TrainObject], seed: int) -> Preview:
        colours = module(torch.from_numpy(np.stack([mean_colours(obj.views)[0] for obj in objects]))).clamp(0, 1)
        picture = np.broadcast_to((colours.numpy() * 255).astype(np.uint8)[None], (4, len(objects), 3))
        return Preview({"psnr": float(colours.mean())}, {"samples": picture})

    def synthetic(self, views: ViewSet, rng: np.random.Generator) -> dict[str, np.ndarray]:
        return {"mean": rng.random((len(views), 3), np.float32)}


def accident(folder: Path, step: int) -> None:
    """Note the step, then do what a file for this step asks for, once per file."""
    if any((folder / f"{kind}-{step}").exists() for kind in ("hold", "kill", "fail")):
        await_checkpoints(folder.parent)
    with open(folder / "steps.log", "a") as log:
        log.write(f"{step}\n")
    while (folder / f"hold-{step}").exists():
        (folder / f"held-{step}.{os.getpid()}").touch()
        time.sleep(0.1)
    for kind in ("kill", "fail"):
        try:
            (folder / f"{kind}-{step}").unlink()
        except FileNotFoundError:
            continue
        if kind == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        raise ValueError(f"asked to fail at step {step}")


def await_checkpoints(place: Path) -> None:
    """Until no checkpoint below is being written: they are stored behind the training, and those who kill count on the last one."""
    deadline = time.monotonic() + 120

    def unfinished() -> list[str]:
        here = [thread.name for thread in threading.enumerate() if thread.name == "checkpoint upload"]  # the folder may be to come
        folders = glob.glob(f"{place}/**/step-*/", recursive=True)
        return here + [each for each in folders if not any((Path(each) / name).exists() for name in (MANIFEST, REFUSED))]

    while left := unfinished():
        assert time.monotonic() < deadline, f"never became whole: {left}"
        time.sleep(0.05)


def mean_colours(views: ViewSet) -> np.ndarray:
    """float32 `[V, 3]`."""
    return on_white(views.rgba).mean(axis=(1, 2)).astype(np.float32)


class ToyGenerator:
    def __init__(self, module: nn.Module) -> None:
        self.module = module

    def generate(self, conditions: ViewSet, seed: int, **options: object) -> ViewSet:
        with torch.no_grad():
            colour = self.module(torch.from_numpy(mean_colours(conditions)[:1]))[0].clamp(0, 1).numpy()
        rgba = np.full((2, SIZE, SIZE, 4), 255, np.uint8)
        rgba[..., :3] = np.round(colour * 255)
        return view_set(conditions.uid, rgba, (TARGET, TARGET))


class ToyMethod:
    name = "toy"
    Config = ToyConfig
    stages = (Stage("first"), Stage("second", starts_from="first", encodes_with="first"))

    def trainable(self, stage: str, config: ToyConfig, weights: dict[str, Path]) -> ToyTrainable:
        return ToyTrainable(stage, config)

    def encoder(self, stage: str, config: ToyConfig, checkpoint: Path, device: str):
        module = ToyTrainable(stage, config).build()
        module.load_state_dict(load_file(checkpoint / "toy.safetensors"))

        def encode(views: ViewSet) -> dict[str, np.ndarray]:
            if config.crash:
                with open(Path(config.crash) / "encoded.log", "a") as log:
                    log.write(views.uid + "\n")
                if (Path(config.crash) / f"kill-{views.uid}").exists():
                    os.kill(os.getpid(), signal.SIGKILL)
            if views.uid == config.poison:
                raise ValueError("this object cannot be encoded")
            return {"mean": mean_colours(views), "index": np.arange(len(views), dtype=np.int16)}

        return encode

    def export(self, config: ToyConfig, checkpoints: dict[str, Path], folder: Path) -> None:
        save_file(load_file(checkpoints["second"] / "toy.safetensors"), folder / "toy.safetensors")
        (folder / "mvforge.json").write_text(json.dumps({"method": "toy", "config": asdict(config)}))

    def load_generator(self, folder: Path, device: str) -> ToyGenerator:
        config = ToyConfig(**json.loads((folder / "mvforge.json").read_text())["config"])
        module = ToyTrainable("second", config).build()
        module.load_state_dict(load_file(folder / "toy.safetensors"))
        return ToyGenerator(module)


TOY = ToyMethod()


def view_set(uid: str, rgba: np.ndarray, roles: tuple[str, ...]) -> ViewSet:
    azimuth = np.linspace(0.0, 360.0, len(rgba), endpoint=False)
    elevation, radius = np.zeros(len(rgba)), np.full(len(rgba), 1.5)
    camera: Camera = orbit(azimuth, elevation, radius, 60.0)
    return ViewSet(uid, rgba, camera, roles, azimuth, elevation, radius, "toy", "test")


def write_objects(folder: Location, train: int, val: int, seed: int = 0) -> tuple[Location, Location]:
    """A view store and a kept list of objects in random plain colours; returns (views, kept)."""
    rng = np.random.default_rng(seed)
    tables, rows = [], []
    for n in range(train + val):
        rgba = np.full((VIEWS, SIZE, SIZE, 4), 255, np.uint8)
        rgba[..., :3] = rng.integers(0, 256, 3)
        rgba[..., :3] //= np.arange(1, VIEWS + 1, dtype=np.uint8)[:, None, None, None]
        uid = f"object-{n:03d}"
        tables.append(to_table(view_set(uid, rgba, (TARGET,) * (VIEWS - 1) + (CONDITION,))))
        rows.append({"uid": uid, "split": "train" if n < train else "val"})
    write_shards(tables, folder / "views")
    (folder / "kept" / "kept.parquet").write_table(pa.Table.from_pylist(rows))
    return folder / "views", folder / "kept"
