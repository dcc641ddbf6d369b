"""Model, loss, sampler and loop work where only torch, diffusers, transformers and what those bring are installed.

diffusers 0.42 itself imports PIL and requests at once, so those two are there on any such machine; our own files do without them
(test_imports.py), except the pipeline class, whose arguments are PIL pictures.
"""

import os
import subprocess
import sys
from pathlib import Path

from tests.contract.test_imports import PLAIN, ROOT

ABSENT = "ray deepspeed mlflow bpy pyarrow pandas trimesh scipy skimage cv2 objaverse matplotlib pydantic accelerate"
# It reads what the data steps wrote, and is no part of model, loss, sampler and loop.
READERS = {"training/data.py"}

PROGRAM = """
import importlib.machinery, sys

class Hide(importlib.machinery.PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.split(".")[0] in ABSENT else super().find_spec(name, path, target)

ABSENT = set(sys.argv[1].split())
sys.meta_path = [Hide if finder is importlib.machinery.PathFinder else finder for finder in sys.meta_path]
for name in sys.argv[2].split():
    importlib.import_module(name)

import numpy as np, torch
from rendering.cameras import orbit
from rendering.view_set import CONDITION, TARGET, ViewSet
from training.checkpoint import NoCheckpoints
from training.engine import PlainEngine
from training.config import TrainConfig
from training.loop import fit
from training.methods import METHODS
from training.methods.base import TrainObject
from training.methods.mvdiffusionpp_encode import ViewEncoder
from training.methods.mvdiffusionpp_generate import ViewGenerator
from training.nn.conditioning import ImageTokens, image_encoder

torch.set_num_threads(1)
method = METHODS["mvdiffusionpp"]
azimuth, elevation = np.append(np.tile(np.arange(8) * 45.0, 4), 90.0), np.append(np.repeat([-30.0, 0.0, 30.0, 60.0], 8), 10.0)
radius, rgba = np.full(33, 1.5), np.random.default_rng(0).integers(0, 256, (33, 32, 32, 4), np.uint8)
roles = (TARGET,) * 32 + (CONDITION,)
views = ViewSet("one", rgba, orbit(azimuth, elevation, radius, 60.0), roles, azimuth, elevation, radius, "mvdiffusionpp", "noise")
model, held = method.smoke(), {"one": TrainObject(views)}

class Held:
    train = ["one"]
    read = staticmethod(held.__getitem__)

def train(stage):
    config = TrainConfig(method=method.name, stage=stage, model=model, steps=2, global_batch=2, micro_batch=1, ema_decay=0.9)
    trainable = method.trainable(stage, model, {})
    settings = dict(lr=1e-3, betas=(0.9, 0.99), weight_decay=0.0, clip=1.0, ema_decay=0.9, micro_batches=2)
    engine = PlainEngine(trainable.build(), **settings, device=torch.device("cpu"))
    curves = fit(trainable, engine, Held, config, checkpoints=NoCheckpoints())
    assert np.isfinite(curves.history[-1]["loss"])
    return engine.module

encoder = ViewEncoder(model, train("mvae"), ImageTokens(image_encoder(model.clip)), "cpu")
held["one"].arrays = encoder(views)
generator = ViewGenerator(model, encoder, train("unet2"), "v", model.schedule)
made = generator.generate(views.select([32]), seed=0, steps=2)
assert made.rgba.shape == (32, 32, 32, 4)
assert not ABSENT & {name.split(".")[0] for name in sys.modules}, ABSENT & set(sys.modules)
print("plain")
"""


def test_a_plain_machine_trains_and_samples():
    files = [ROOT / root for root in PLAIN]
    paths = [path for file in files for path in (sorted(file.rglob("*.py")) if file.is_dir() else [file])]
    names = [path.relative_to(ROOT).as_posix() for path in paths]
    modules = [name.removesuffix(".py").removesuffix("/__init__").replace("/", ".") for name in names if name not in READERS]
    assert "training.loop" in modules and "training.methods.mvdiffusionpp_unet" in modules
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM, ABSENT, " ".join(modules)], cwd=Path("/"), env=environment, capture_output=True, text=True
    )
    assert run.returncode == 0 and run.stdout.strip().endswith("plain"), run.stderr[-4000:]
