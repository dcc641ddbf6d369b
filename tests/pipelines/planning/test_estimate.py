"""The plan against bills done by hand, and the ways it must move."""

import dataclasses

import pytest

from infra.errors import UserError
from pipelines import recipes
from pipelines.planning.estimate import RunPlan, plan_run
from pipelines.planning.memory import stage_memory
from pipelines.planning.show import plan_lines
from pipelines.planning.what_if import changed
from pipelines.planning.workload import view_cpu_s
from pipelines.projection import project
from pipelines.settings import apply
from tests.pipelines.planning.made_up import gpu_cluster, units
from training.config import TrainConfig


@pytest.fixture
def paper():
    return recipes.by_name("paper_mvdiffusionpp")


def step(plan: RunPlan, name: str):
    return next(one for one in plan.steps if one.load.step == name)


def test_render_by_hand(paper):
    assert view_cpu_s(paper, units()) == pytest.approx(0.05 + 0.262144 * (20 * 0.1 + 2.0 + 0.5))
    render = step(plan_run(paper, gpu_cluster(), units()), "render")
    item = 42 * (0.05 + 0.262144 * 4.5) + 4
    assert render.wall_s == pytest.approx(-(-72_000 // 1024) * item + 2), "71 rounds on 1,024 workers, and the start of Blender"
    assert render.placement.nodes == 11, "96 workers a node"
    assert (render.cost_low, render.cost_high) == pytest.approx((render.wall_s / 3600 * 11 * 20, render.wall_s / 3600 * 11 * 40))
    assert render.load.bytes_out == 72_000 * 42 * 512**2 * 0.5 and render.bottleneck == "CPU"


def test_training_hours_are_those_of_the_projection(paper):
    """`mvforge plan` without a cluster counts the same operations with another peak: 989.4 there, 1000 here, both at 40 %."""
    plan, projected = plan_run(paper, gpu_cluster(), units()), project(paper)
    for row in projected["stages"]:
        found = step(plan, f"train.{row['stage']}")
        beside = found.checkpoint_s * (found.load.items // 1000) + found.limits["validation"]  # which all GPUs wait for
        assert found.gpu_h - beside / 3600 * found.placement.workers == pytest.approx(row["gpu_hours"] * 989.4 / 1000, rel=1e-6)
        assert "ASSUMED" in found.rate.source


def test_a_measured_gpu_counts_instead_of_the_data_sheet(paper):
    known = units()
    measured = dataclasses.replace(known.units["train.tflops"], median=600.0, device="NVIDIA H100 80GB HBM3")
    fast = dataclasses.replace(known, units={**known.units, "train.tflops": measured})
    slow, quick = (step(plan_run(paper, gpu_cluster(), which), "train.unet1") for which in (known, fast))
    assert "ASSUMED" not in quick.rate.source and quick.item_s == pytest.approx(slow.item_s * 400 / 600)


def test_what_is_slowest_is_the_bottleneck(paper):
    narrow = dataclasses.replace(gpu_cluster(), store_gb_per_s=0.01)
    render = step(plan_run(paper, narrow, units()), "render")
    assert render.bottleneck == "store" and render.wall_s == pytest.approx((render.load.bytes_in + render.load.bytes_out) / 1e7)
    fetch = step(plan_run(paper, gpu_cluster(), units(), downloads=800_000), "fetch")
    assert fetch.load.items == 800_000 and fetch.bottleneck == "host", "10 files a second to one address"
    assert fetch.wall_s == pytest.approx(80_000) and "host_files_per_s" in fetch.starved
    quick = dataclasses.replace(gpu_cluster(), host_files_per_s=1e6)
    few = apply(paper, ["resources.fetch.workers=5"])
    for recipe, at_once in ((paper, 16), (few, 15)):  # 16 connections; five workers of three each
        fetch = step(plan_run(recipe, quick, units(), downloads=800_000), "fetch")
        assert fetch.bottleneck == "connections" and fetch.wall_s == pytest.approx(800_000 * 11e6 / (at_once * 20e6))
    assert "fetch.connections=N" in fetch.starved or fetch.placement.workers < 16


@pytest.mark.parametrize(
    "setting", ["render.resolution=1024", "render.samples=200", "train.unet1.steps=200000", "objects=100000", "render.num_conditions=20"]
)
def test_more_work_never_takes_less(paper, setting):
    before, after = (plan_run(one, gpu_cluster(), units()) for one in (paper, apply(paper, [setting])))
    assert after.wall_s > before.wall_s and after.cost_high > before.cost_high


def test_what_if(paper):
    cluster = gpu_cluster()
    base = plan_run(paper, cluster, units())
    twice = plan_run(*changed(paper, cluster, "nodes=32"), units())
    assert step(twice, "train.unet1").placement.workers == 256
    assert step(twice, "train.unet1").item_s == pytest.approx(step(base, "train.unet1").item_s / 2)
    assert step(twice, "train.mvae").placement.workers == 64, "its batch of 64 does not divide further"
    dear = plan_run(*changed(paper, cluster, "price=60"), units())
    assert dear.cost_low == dear.cost_high == pytest.approx(base.cost_low * 3) and dear.wall_s == base.wall_s
    fewer = plan_run(*changed(paper, cluster, "resolution=256,samples=8"), units())
    assert fewer.recipe.model.resolution == fewer.recipe.render.resolution == 256 and fewer.wall_s < base.wall_s / 3
    all_views = plan_run(*changed(paper, cluster, "views=32"), units())
    assert step(all_views, "train.unet1").item_s / step(base, "train.unet1").item_s == pytest.approx(10.1, rel=0.01), "docs/training.md"
    for text, told in (("resolutoin=256", "did you mean 'resolution'"), ("nodes=x", "no number|not a number"), ("price.gpus=1", "'gpu'")):
        with pytest.raises(UserError, match=told):
            changed(paper, cluster, text)


def test_memory_by_zero_stage():
    """Bytes a weight: 4 weights, 4 gradients, 8 moments, 4 average; ZeRO divides them one after another (arXiv 1910.02054)."""

    def total(stage: int) -> float:
        return stage_memory(10**9, TrainConfig(zero_stage=stage, ema_decay=0.9), 10, None).total_low  # type: ignore[arg-type]

    assert [total(stage) for stage in range(4)] == pytest.approx([20, 4 + 4 + 1.2, 4 + 1.6, 2.0])
    half = stage_memory(10**9, TrainConfig(precision="bf16", micro_batch=2), 1, 1e9)
    assert half.cast == 2 and half.activations == 2 and half.total_high - half.total_low == pytest.approx(1.2)
    assert stage_memory(10**9, TrainConfig(checkpoint_activations=True), 1, 1e9).activations is None


def test_activations_are_those_of_the_training_page(paper):
    from training.lookup import method_named

    method = method_named("mvdiffusionpp")
    assert method.activation_bytes("unet1", paper.model, 10) == pytest.approx(7.8 * 2**30, rel=1e-3)
    assert method.activation_bytes("unet3", paper.model, 10) == pytest.approx(15.7 * 2**30, rel=0.01), "18 views at the most"
    assert method.activation_bytes("mvae", paper.model, 10) is None


def test_refusals(paper):
    with pytest.raises(UserError, match="objects recipe paper_mvdiffusionpp takes"):
        plan_run(apply(paper, ["objects=0"]), gpu_cluster(), units())
    with pytest.raises(UserError, match="downloads"):
        plan_run(paper, gpu_cluster(), units(), downloads=10)
    with pytest.raises(UserError, match="multiple of micro_batch"):
        plan_run(apply(paper, ["resources.train.workers=96"]), gpu_cluster(), units())
    cpu_only = dataclasses.replace(gpu_cluster(), groups=(dataclasses.replace(gpu_cluster().groups[0], gpus=0),))
    with pytest.raises(UserError, match="no node for one worker of step train"):
        plan_run(paper, cpu_only, units())
    lacking = units()
    with pytest.raises(UserError, match="no unit 'score.s'"):
        plan_run(paper, gpu_cluster(), dataclasses.replace(lacking, units={n: u for n, u in lacking.units.items() if n != "score.s"}))


def test_a_starved_step_names_its_mend(paper):
    cluster = gpu_cluster()
    assert not any(one.starved for one in plan_run(paper, cluster, units()).steps if one.load.step != "fetch")
    starved = plan_run(apply(paper, ["resources.curate.workers=2", "resources.reconstruct.workers=2"]), cluster, units())
    told = {one.load.step: one.starved for one in starved.steps if one.starved}
    assert told["curate"] == "curate uses 2 of 1,536 CPUs: --set resources.curate.workers=1536"
    assert told["reconstruct"].endswith("resources.reconstruct.workers=360"), "no more than there are objects"
    mended = plan_run(apply(paper, [told["curate"].rpartition(" ")[2]]), cluster, units())
    assert step(mended, "curate").wall_s < step(starved, "curate").wall_s / 500
    assert any(line.startswith("starved: curate uses 2 of") for line in plan_lines({"as it is": starved}))


def test_too_few_nodes_are_said(paper):
    one = plan_run(paper, gpu_cluster(nodes=2), units())
    assert step(one, "render").placement.workers == 192 and "192 fit" in " ".join(step(one, "render").notes)
