"""The machinery of the learning proofs: data, baselines, figures, every command at toy length. What the proofs find is not tested."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from evaluation.metrics.image import compare_images
from evaluation.proofs import setups
from evaluation.proofs.condition import other_family
from evaluation.proofs.data import ProofData
from evaluation.proofs.measures import (
    aligned_truth,
    colour_correlation,
    foreground_psnr,
    full_psnr,
    mask_ious,
    mean_training_view,
    nearest_training_object,
)
from evaluation.proofs.page import write_page
from evaluation.proofs.run import run_proof
from evaluation.proofs.shapes import chamfer, consistency, known
from infra.errors import UserError
from rendering.view_set import CONDITION, on_white
from tests.training.painted import painted_views
from training.methods.mvdiffusionpp_config import smoke
from training.methods.mvdiffusionpp_views import condition_views

CONFIG = replace(smoke(), max_conditions=4)
FAMILIES = ("ball", "sailboat")


@pytest.fixture(scope="module")
def data() -> ProofData:
    sets = [painted_views(f"{FAMILIES[n % 2]}-{n}") for n in range(10)]
    # Balls of radius 0.44 to 0.5 (see `painted_views`): points on one of radius 0.47 stand for their surface.
    directions = np.random.default_rng(0).normal(size=(2000, 3))
    surface = (0.47 * directions / np.linalg.norm(directions, axis=1, keepdims=True)).astype(np.float32)
    return ProofData(
        uids=[views.uid for views in sets],
        families=[FAMILIES[n % 2] for n in range(10)],
        splits=["train"] * 6 + ["val"] * 2 + ["test"] * 2,
        pictures=np.stack([views.rgba for views in sets]),
        is_condition=np.array([role == CONDITION for role in sets[0].roles]),
        azimuth_deg=np.stack([views.azimuth_deg for views in sets]),
        elevation_deg=np.stack([views.elevation_deg for views in sets]),
        radius=np.stack([views.radius for views in sets]),
        fov_deg=60.0,
        surface=np.stack([surface] * 10),
        encoded={},
    )


def test_the_file_gives_back_what_was_put_in(data: ProofData, tmp_path: Path) -> None:
    data.with_encoded({"latents": np.arange(20, dtype=np.float16).reshape(10, 2)}).save(tmp_path / "data.npz")
    again = ProofData.load(tmp_path / "data.npz")
    assert (again.uids, again.families, again.splits) == (data.uids, data.families, data.splits)
    assert np.array_equal(again.pictures, data.pictures) and np.array_equal(again.surface, data.surface)
    assert again.read(data.uids[3]).arrays["latents"].tolist() == [6, 7]  # type: ignore[index]
    views, original = again.views("ball-4"), painted_views("ball-4")
    assert np.allclose(views.camera.c2w, original.camera.c2w) and views.roles == original.roles
    with pytest.raises(UserError, match="no proof data"):
        ProofData.load(tmp_path / "absent.npz")


def test_splits_hold_out_families_and_objects(data: ProofData) -> None:
    unseen = data.with_unseen(("sailboat",))
    assert all(data.family(uid) == "ball" for uid in unseen.train + unseen.of("test") + unseen.of("val"))
    assert len(unseen.of("unseen")) == 5
    few = data.only(["ball-2"])
    assert few.train == ["ball-2"] and few.of("test") == data.of("test")
    assert data.family(other_family(data, data.of("test"), data.of("test")[0])) != data.family(data.of("test")[0])


def test_figures_agree_with_the_pipeline_s_metrics(data: ProofData) -> None:
    truth, made = aligned_truth(data, "ball-0", CONFIG), aligned_truth(data, "ball-2", CONFIG)
    expected = [compare_images(t, m) for t, m in zip(truth, made, strict=True)]
    assert np.allclose(foreground_psnr(truth, made), [row["psnr_foreground"] for row in expected], atol=1e-4)
    assert np.allclose(full_psnr(truth, made), [row["psnr"] for row in expected], atol=1e-4)
    assert np.allclose(mask_ious(truth, made), [row["mask_iou"] for row in expected])


def test_truth_is_aligned_to_any_reference(data: ProofData) -> None:
    """Whatever the reference, slot A * e + a shows the object from azimuth a * 45 degrees beyond the reference's."""
    views = data.views("ball-2")
    for number, index in enumerate(condition_views(views)):
        aligned = aligned_truth(data, "ball-2", CONFIG, number)
        azimuth = (views.azimuth_deg[index] + 3 * 45.0) % 360.0
        [seen] = [i for i in range(32) if views.elevation_deg[i] == 0.0 and np.isclose(views.azimuth_deg[i] % 360.0, azimuth)]
        assert np.array_equal(aligned[8 + 3], views.rgba[seen])


def test_baselines(data: ProofData) -> None:
    picture = data.views("ball-2").with_role(CONDITION).rgba[2]
    assert nearest_training_object(data, picture) == ("ball-2", 2)
    mean = mean_training_view(data, CONFIG)
    every = [on_white(aligned_truth(data, uid, CONFIG, n)) for uid in data.train for n in range(4)]
    assert np.allclose(mean, np.mean(every, 0), atol=1e-6)
    truths = [aligned_truth(data, uid, CONFIG) for uid in data.uids]
    assert colour_correlation(truths, truths) == pytest.approx(1.0)
    assert abs(colour_correlation(truths, truths[5:] + truths[:5])) < 0.95


def test_shape_figures_of_true_views(data: ProofData) -> None:
    truth = aligned_truth(data, "ball-0", CONFIG)
    assert consistency(CONFIG, truth) > 0.95
    # Radii differ by at most 0.03; the hull of 32 views of 32 pixels and 5,000 samples add the rest.
    assert chamfer(data, "ball-0", CONFIG, truth) < 0.06
    small = truth.copy()
    small[:, :, :14] = 0
    assert chamfer(data, "ball-0", CONFIG, small) > 2 * chamfer(data, "ball-0", CONFIG, truth)
    value, reason = known(lambda: chamfer(data, "ball-0", CONFIG, np.zeros_like(truth)))
    assert value is None and "empty_hull" in reason


@pytest.fixture(scope="module")
def toy_setup() -> setups.Setup:
    base = setups.cpu()
    short = {"steps": 2, "global_batch": 2, "micro_batch": 2, "validate_every": 0, "validate_objects": 1, "precision": "fp32"}
    names = ("vae_rgb", "vae", "memorise", "condition", "dropout", "sparse", "ablation")
    model = replace(CONFIG, vae=replace(CONFIG.vae, picture_lanes=False), keep_views=4)
    return replace(base, model=model, sampling_steps=1, **{name: replace(getattr(base, name), **short) for name in names})


@pytest.mark.slow
def test_every_proof_runs_and_its_page_is_written(
    data: ProofData, toy_setup: setups.Setup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(setups.SETUPS, "toy", lambda: toy_setup)
    data.save(tmp_path / "data.npz")
    names = ("adapt", "memorise", "condition", "dropout", "compare", "conditions", "ablate")
    status = {name: run_proof(name, str(tmp_path / "data.npz"), str(tmp_path / "out"), "toy") for name in names}
    trained = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("curves.json")}
    assert len(trained) == 13  # two VAEs, memorise, condition, two of dropout, compare, sparse, five of the ablation
    claims = []
    for name in names:
        result = json.loads((tmp_path / "out" / f"{name}.json").read_text())
        claims += result["claims"].values()
        assert status[name] == int(not all(claim["holds"] for claim in result["claims"].values()))
    said = capsys.readouterr().out
    held = sum(claim["holds"] for claim in claims)
    assert (said.count("HOLDS "), said.count("FAILS ")) == (held, len(claims) - held)
    run_proof("memorise", str(tmp_path / "data.npz"), str(tmp_path / "out"), "toy")
    assert trained == {path: path.stat().st_mtime_ns for path in trained}, "a finished training is not repeated"
    page, *pictures = write_page(tmp_path / "out", tmp_path / "page")
    text = page.read_text()
    for name in names:
        result = json.loads((tmp_path / "out" / f"{name}.json").read_text())
        for claim, facts in result["claims"].items():
            assert f"| {claim} | {facts['value']:.3f}" in text
    assert all(picture.stat().st_size > 1000 for picture in pictures) and len(pictures) >= 8
    assert "Not run" not in text and text.count("| training | steps | minutes |") == len(names)
    (tmp_path / "out" / "ablate.json").unlink()
    text = write_page(tmp_path / "out", tmp_path / "page")[0].read_text()
    assert text.count("**Not run**") == 1 and "`mvforge prove ablate --setup gpu`" in text


def test_unknown_setup_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no setup"):
        run_proof("adapt", str(tmp_path / "data.npz"), str(tmp_path), "laptop")
