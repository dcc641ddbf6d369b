"""Cluster files: the shipped ones load, mistakes are refused by name."""

from pathlib import Path

import pytest

from infra.errors import UserError
from pipelines.planning.cluster_file import read_cluster
from tests.conftest import ROOT

CLUSTERS = sorted((ROOT / "infra" / "clusters").glob("*.yaml"))


def test_the_shipped_files_load_and_say_that_they_assume():
    loaded = {path.stem: read_cluster(path) for path in CLUSTERS}
    assert set(loaded) >= {"laptop", "h100x128", "h100x128_render"}
    assert loaded["h100x128"].gpus == loaded["h100x128_render"].gpus == 128 and loaded["laptop"].gpus == 0
    assert any(not group.gpus for group in loaded["h100x128_render"].groups)
    assert all(cluster.assumptions for cluster in loaded.values())


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("cpus: 2", "cpu: 2", "there is no key 'cpu'; did you mean 'cpus'?"),
        ("currency: USD", "curency: USD", "did you mean 'currency'?"),
        ("restart_s: 60", "restarts: 60", "faults: there is no key 'restarts'; did you mean 'restart_s'?"),
        ("count: 1", "", "'count' is missing"),
        ("count: 1", "count: 0", "at least one node"),
        ("count: 1", "count: many", "count must be a number"),
        ("price_high: 0.0", "price_high: -1.0", "price_low <= price_high"),
        ("gpus: 0", "gpus: 4", "GPUs without"),
        ("failures_per_node_hour: 0.0", "failures_per_node_hour: -1.0", "0 or more"),
        ("name: laptop\ncurrency", "name: laptop\n  currency", "is not YAML"),
    ],
)
def test_mistakes_are_refused_by_name(tmp_path: Path, old: str, new: str, told: str):
    text = (ROOT / "infra" / "clusters" / "laptop.yaml").read_text().replace("    cpus: 2", "    cpus: 2\n    gpus: 0")
    assert old in text
    path = tmp_path / "mine.yaml"
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(UserError, match="mine.yaml") as refusal:
        read_cluster(path)
    assert told in str(refusal.value)


def test_a_missing_file_names_an_example(tmp_path: Path):
    with pytest.raises(UserError, match="h100x128.yaml"):
        read_cluster(tmp_path / "none.yaml")
