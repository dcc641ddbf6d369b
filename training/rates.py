"""What a step cost: speed, arithmetic, memory. These figures depend on the machine and never on what is learnt."""

import os
import re
import resource

import torch

# Dense bf16 tensor-core peaks in TFLOP/s from the makers' data sheets, by words of the name that torch reports; the first
# that fits counts. A device that is not listed has no MFU.
PEAK_TFLOPS = (
    ("H200 NVL", 835.5),
    ("H200", 989.4),
    ("GH200", 989.4),
    ("H100 NVL", 835.5),
    ("H100 PCIe", 756.5),
    ("H100", 989.4),
    ("A100", 312.0),
    ("L40S", 362.0),
    ("A40", 149.7),
    ("L4", 121.0),
)
PEAK_VARIABLE = "MVFORGE_PEAK_TFLOPS"

# Names of the figures in a training row that another run of the same training would not repeat.
MEASURED = frozenset(
    {
        *("seconds", "samples_per_s", "tokens_per_s", "tflops_per_device", "mfu", "peak_memory_gb"),
        *("data_wait_s", "loader_samples_per_s", "checkpoint_wait_s", "checkpoint_upload_s"),
    }
)


def peak_tflops(device: torch.device, precision: str) -> float | None:
    """What the device could do at best in bf16, dense; None where that is not known or not what the training uses.

    `MVFORGE_PEAK_TFLOPS` overrules the table, for any device and precision.
    """
    if given := os.environ.get(PEAK_VARIABLE):
        return float(given)
    if device.type != "cuda" or precision == "fp32":
        return None
    name = torch.cuda.get_device_name(device)
    return next((peak for part, peak in PEAK_TFLOPS if re.search(rf"\b{part}\b", name)), None)


def peak_memory_gb(device: torch.device) -> float:
    """Most memory held so far in GiB: of the device's allocator, or of this whole process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # Linux counts in KiB


def rates(flops: float, tokens: float, seconds: float, world: int, peak: float | None) -> dict[str, float]:
    """Figures of a step in which all `world` ranks together did `flops` operations on `tokens` in `seconds`; 0 = not counted.

    `tflops_per_device` is what the networks need by count, not what the device did; `mfu` is its share of `peak`.
    """
    figures: dict[str, float] = {}
    if tokens:
        figures["tokens_per_s"] = tokens / seconds
    if flops:
        figures["tflops_per_device"] = flops / seconds / world / 1e12
        if peak:
            figures["mfu"] = figures["tflops_per_device"] / peak
    return figures
