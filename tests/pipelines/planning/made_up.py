"""Round unit costs and a cluster whose bills can be done in the head."""

from pathlib import Path

from pipelines.planning.cluster_file import Cluster, Faults, NodeGroup
from pipelines.planning.units import KNOWN, Unit, Units

VALUES = {
    "render.start_s": 2.0,
    "render.import_s": 4.0,
    "render.sample_s": 0.1,
    "render.denoise_s": 2.0,
    "render.view_s": 0.05,
    "render.encode_s": 0.5,
    "render.samples": 20.0,
    "render.bytes": 0.5,
    "render.object_bytes": 30_000.0,
    "curate.s": 0.07,
    "encode.tflops": 0.06,
    "train.tflops": 0.08,
    "train.checkpoint_bytes": 16.0,
    "train.checkpoint_gb_per_s": 0.5,
    "load.array_gb_per_s": 0.6,
    "load.megapixels": 50.0,
    "generate.tflops": 0.1,
    "generate.worker_tflops": 0.1,
    "generate.s": 1.0,
    "reconstruct.s_32": 1.0,
    "reconstruct.s_64": 4.0,
    "reconstruct.refine_s": 0.06,
    "reconstruct.s_64_px64": 4.0,
    "score.s": 10.0,
    "score.s_20k": 2.0,
    "train.rank_tflops": 0.08,
    "train.vae_rank_tflops": 0.08,
    "train.validate_tflops": 1e9,  # so that looking costs nothing where it is not what is tested
    "train.preview_tflops": 1e9,
    **dict.fromkeys((f"start.{step}" for step in "fetch render curate train encode generate reconstruct score".split()), 0.0),
}
assert set(VALUES) == set(KNOWN)


def units(**changed: float) -> Units:
    values = VALUES | {name.replace("__", "."): value for name, value in changed.items()}
    made = {n: Unit(v, v, v, 1, "2026-01-01T00:00:00+00:00", "made up, load average 0.0", "cpu", "none") for n, v in values.items()}
    return Units(Path("made-up.json"), made)


def gpu_cluster(nodes: int = 16, faults: Faults | None = None) -> Cluster:
    group = NodeGroup(
        name="gpu",
        count=nodes,
        cpus=96,
        memory_gb=1000,
        gpus=8,
        gpu_kind="H100",
        peak_tflops=1000.0,
        mfu=0.4,
        gpu_memory_gb=80,
        network_gbit=3200,
        disk_gb_per_s=4,
        price_low=20,
        price_high=40,
    )
    return Cluster(name="made up", groups=(group,), store_gb_per_s=20, internet_gbit=10, faults=faults or Faults())
