"""The `tiny` recipe through the real command line: every part learns, and the chain ends in a model and a report."""

import json
from pathlib import Path

import pytest

from tests.e2e.conftest import Chain

pytestmark = [pytest.mark.ray, pytest.mark.blender, pytest.mark.long]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory, ray_cluster: None) -> Chain:
    chain = Chain(tmp_path_factory.mktemp("tiny"), {})
    return Chain(chain.home, chain.mvforge("run", "tiny"))


def validated(chain: Chain, stage: str) -> list[dict[str, float]]:
    lines = (chain.data(f"train.{stage}", "tiny") / "validation.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def test_the_vae_learns_to_reconstruct_held_out_views(tiny: Chain):
    rows = validated(tiny, "mvae")
    assert rows[0]["step"] == 0
    assert rows[-1]["psnr"] > rows[0]["psnr"] + 6.0
    assert rows[-1]["mask_iou"] > 0.7


@pytest.mark.parametrize("stage", ["unet1", "unet2", "unet3"])
def test_every_denoiser_stage_lowers_its_held_out_loss(tiny: Chain, stage: str):
    rows = validated(tiny, stage)
    assert rows[0]["step"] == 0
    assert rows[-1]["loss"] < rows[0]["loss"] and rows[-1]["loss"] < 1.0, "1.0 is the loss of predicting zero"


def test_the_chain_ends_in_a_model_views_meshes_and_a_page(tiny: Chain):
    steps = tiny.result["steps"]
    assert steps["register"]["facts"]["model"].startswith("models:/mvforge/")
    assert steps["generate"]["completed"] == steps["score"]["completed"] > 0
    assert Path(steps["report"]["path"], "report.html").exists()
    assert tiny.mvforge("run", "tiny")["ran"] == []
