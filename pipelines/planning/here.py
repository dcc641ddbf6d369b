"""This machine as a cluster of one node, to plan a run on it."""

import os
from typing import Any

import psutil

from pipelines.planning.cluster_file import Cluster, Faults, NodeGroup
from pipelines.planning.measure_training import device_name
from training.rates import PEAK_TFLOPS

# Nothing of these is measured; they are so high that on one machine the measured units decide.
AMPLE = 1000.0


def this_machine() -> Cluster:
    """CPUs and memory as they are; a GPU by its name. Nothing is shared with other nodes, nothing fails."""
    gpus = _gpus()
    group = NodeGroup(
        name="here",
        count=1,
        cpus=os.cpu_count() or 1,
        memory_gb=psutil.virtual_memory().total / 1e9,
        price_low=0.0,
        price_high=0.0,
        network_gbit=AMPLE,
        disk_gb_per_s=AMPLE,
        **gpus,
    )
    return Cluster(
        name="this machine",
        groups=(group,),
        store_gb_per_s=AMPLE,
        faults=Faults(failures_per_node_hour=0.0),
        assumptions=("one node; its disk and memory are not what limits a step",),
    )


def _gpus() -> dict[str, Any]:
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if not count:
        return {}
    name = device_name()
    word, peak = next(((word, peak) for word, peak in PEAK_TFLOPS if word in name.split()), (name.split()[-1], 100.0))
    memory = torch.cuda.get_device_properties(0).total_memory / 1e9
    return {"gpus": count, "gpu_kind": word, "peak_tflops": peak, "gpu_memory_gb": memory}
