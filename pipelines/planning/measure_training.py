"""What training, encoding, sampling, checkpoints and loading cost on this machine; on a GPU where there is one."""

import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn

from infra.storage import Location
from training.bench_rows import median_seconds
from training.bench_unet import FULL, Options, Shapes, sampling, train_step
from training.checkpoint_manifest import sha256_of
from training.encoded import EncodedStore, to_table, write_shards
from training.engine import PlainEngine
from training.flops import vae_flops
from training.methods.mvdiffusionpp_config import tiny
from training.nn.vae import empty_autoencoder

VIEWS, OBJECTS_AT_ONCE = 9, 2
TARGETS, SAMPLER, SAMPLING_STEPS = 32, "dpm++", 10
ENCODED_AT_ONCE = 8
CHECKPOINT_WIDTH, CHECKPOINT_LAYERS = 1024, 4
ARRAY_OBJECTS, ARRAY_SHAPE = 16, (42, 4, 64, 64)

Repeats = dict[str, list[float]]


def shapes_here() -> tuple[Shapes, torch.device]:
    """Full size on a GPU; on a CPU the networks of the recipe `tiny`."""
    if torch.cuda.is_available():
        return FULL, torch.device("cuda")
    small = tiny()
    torch.set_num_threads(1)  # as many as a worker of the pipeline gets; with more, several workers would count each core twice
    return Shapes("tiny", small.unet, small.vae, small.latent_size), torch.device("cpu")


def device_name() -> str:
    """`cpu`, or the GPU's name."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"


def measure_train(repeats: int) -> tuple[Repeats, str]:
    """`train.tflops`: whole updates in bf16 by autocast."""
    shapes, device = shapes_here()
    objects = 1 if device.type == "cuda" else OBJECTS_AT_ONCE
    rows = [train_step(shapes, (VIEWS,) * objects, Options(objects=objects), device, None) for _ in range(repeats)]
    return {
        "train.tflops": [row["tflops"] for row in rows]
    }, f"U-Net of {shapes.name}, {objects} objects of {VIEWS} views, {_threads(device)}"


def measure_encode(repeats: int) -> tuple[Repeats, str]:
    """`encode.tflops`: the encoder half of the VAE."""
    shapes, device = shapes_here()
    with device:
        vae = empty_autoencoder(shapes.vae).eval()
        pictures = torch.zeros(ENCODED_AT_ONCE, 4, shapes.resolution, shapes.resolution)
    operations = ENCODED_AT_ONCE * vae_flops(shapes.vae, shapes.resolution)[0].total

    @torch.no_grad()
    def encode() -> None:
        vae.encode(pictures)

    seconds = [median_seconds(encode, device, 1, 0.3, 10)[0] for _ in range(repeats)]
    return {"encode.tflops": [operations / 1e12 / s for s in seconds]}, f"VAE of {shapes.name}, {shapes.resolution} px, {_threads(device)}"


def measure_generate(repeats: int) -> tuple[Repeats, str]:
    """`generate.tflops` and `generate.s`."""
    shapes, device = shapes_here()
    rows = [sampling(shapes, TARGETS, SAMPLER, SAMPLING_STEPS, Options(), device, None) for _ in range(repeats)]
    note = f"{shapes.name}: {TARGETS} views of {shapes.resolution} px, {SAMPLER} {SAMPLING_STEPS} steps, {_threads(device)}"
    return {"generate.tflops": [row["tflops"] for row in rows], "generate.s": [row["seconds"] for row in rows]}, note


def measure_checkpoint(repeats: int) -> tuple[Repeats, str]:
    """`train.checkpoint_bytes` and `train.checkpoint_gb_per_s`: state with AdamW and average, written and hashed."""
    width = CHECKPOINT_WIDTH
    module = nn.Sequential(*(nn.Linear(width, width) for _ in range(CHECKPOINT_LAYERS)))
    engine = PlainEngine(
        module, lr=1e-4, betas=(0.9, 0.999), weight_decay=0.0, clip=0.0, ema_decay=0.99, micro_batches=1, device=torch.device("cpu")
    )
    engine.backward(engine.module(torch.ones(1, width)).square().mean())
    engine.step(1e-4)
    weights = sum(parameter.numel() for parameter in module.parameters())
    sizes, rates = [], []
    for _ in range(repeats):
        with tempfile.TemporaryDirectory(prefix="mvforge-calibrate-") as folder:
            started = time.perf_counter()
            engine.save(Path(folder))
            files = list(Path(folder).iterdir())
            for file in files:
                sha256_of(file)
            seconds = time.perf_counter() - started
            size = sum(file.stat().st_size for file in files)
        sizes.append(size / weights)
        rates.append(size / seconds / 1e9)
    return {"train.checkpoint_bytes": sizes, "train.checkpoint_gb_per_s": rates}, f"{weights / 1e6:.1f} M weights, temporary folder"


def measure_arrays(repeats: int) -> tuple[Repeats, str]:
    """`load.array_gb_per_s`: encoded arrays of the paper's shape, read back object by object."""
    rng = np.random.default_rng(0)
    arrays = {"latents": rng.standard_normal(ARRAY_SHAPE).astype(np.float16)}
    rates = []
    with tempfile.TemporaryDirectory(prefix="mvforge-calibrate-") as folder:
        place = Location(folder)
        uids = [f"made-up-{number:03d}" for number in range(ARRAY_OBJECTS)]
        write_shards((to_table(uid, arrays) for uid in uids), place)
        for _ in range(repeats):
            store = EncodedStore(place)
            started = time.perf_counter()
            size = sum(store.read(uid)["latents"].nbytes for uid in uids)
            rates.append(size / (time.perf_counter() - started) / 1e9)
    return {
        "load.array_gb_per_s": rates
    }, f"{ARRAY_OBJECTS} objects of {arrays['latents'].nbytes / 1e6:.2f} MB, local disk, in the page cache"


def _threads(device: torch.device) -> str:
    return "bf16" if device.type == "cuda" else f"bf16 where it applies, {torch.get_num_threads()} thread(s)"
