from pathlib import Path

import pytest
import torch

from training.rates import peak_memory_gb, peak_tflops, rates


def test_rates_are_totals_over_time_and_devices():
    row = rates(flops=6e15, tokens=4000.0, seconds=2.0, world=3, peak=1000.0)
    assert row == {"tokens_per_s": 2000.0, "tflops_per_device": 1000.0, "mfu": 1.0}
    assert rates(0.0, 0.0, 1.0, 1, 1000.0) == {}
    assert "mfu" not in rates(1.0, 1.0, 1.0, 1, None)


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", 989.4),
        ("NVIDIA H100 PCIe", 756.5),
        ("NVIDIA H200", 989.4),
        ("NVIDIA A100-SXM4-80GB", 312.0),
        ("NVIDIA L4", 121.0),
        ("NVIDIA L40", None),  # neither the L4 nor the L40S
        ("NVIDIA A4000", None),
        ("Some future device", None),
    ],
)
def test_a_peak_is_known_or_there_is_none(monkeypatch, name, peak):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
    assert peak_tflops(torch.device("cuda"), "bf16") == peak
    assert peak_tflops(torch.device("cuda"), "fp32") is None


def test_the_environment_says_it_for_any_device(monkeypatch):
    assert peak_tflops(torch.device("cpu"), "fp32") is None
    monkeypatch.setenv("MVFORGE_PEAK_TFLOPS", "0.5")
    assert peak_tflops(torch.device("cpu"), "fp32") == 0.5


def test_memory_is_the_high_water_mark_that_the_kernel_reports():
    held = b"x" * (1 << 27)
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    assert peak_memory_gb(torch.device("cpu")) == pytest.approx(int(status["VmHWM"].split()[0]) / 2**20, rel=0.02) and held
