"""MVDiffusion++ in particular: which views, slots and latents a step sees, what the loss weighs, what comes out."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from infra.errors import UserError
from infra.seeds import rng_for
from rendering.view_set import CONDITION, ViewSet
from tests.training.painted import painted_views
from training.lookup import load_generator
from training.methods import METHODS
from training.methods.base import TrainObject
from training.methods.mvdiffusionpp import stage_named
from training.methods.mvdiffusionpp_config import Config, paper, small, smoke, tiny
from training.methods.mvdiffusionpp_encode import ViewEncoder
from training.methods.mvdiffusionpp_unet import UnetTraining, stage_schedule
from training.methods.mvdiffusionpp_views import choose_views, keep_targets, rolled_targets
from training.nn.conditioning import ImageTokens, image_encoder
from training.nn.vae import MaskAwareVAE, empty_autoencoder

METHOD = METHODS["mvdiffusionpp"]
CONFIG = smoke()


@pytest.fixture(scope="module")
def encoder() -> ViewEncoder:
    torch.manual_seed(0)
    return ViewEncoder(CONFIG, MaskAwareVAE(empty_autoencoder(CONFIG.vae), 1.0), ImageTokens(image_encoder(CONFIG.clip)), "cpu")


def _arrays(views: ViewSet) -> dict[str, np.ndarray]:
    """Latents that name their view: every value of view i is i; tokens 100 + i; placeholder -1."""
    given = np.flatnonzero(np.asarray(views.roles) == CONDITION)
    return {
        "latents": np.broadcast_to(np.arange(len(views))[:, None, None, None], (len(views), 4, 4, 4)).astype(np.float16),
        "clip_tokens": np.broadcast_to(100 + given[:, None], (len(given), 64)).astype(np.float16),
        "placeholder_latent": np.full((4, 4, 4), -1, np.float16),
    }


def _object(uid: str = "a", num_conditions: int = 4) -> TrainObject:
    views = painted_views(uid, 8, num_conditions)
    return TrainObject(views, _arrays(views))


def _training(stage: str = "unet2", **changes: Any) -> UnetTraining:
    return UnetTraining(replace(CONFIG, **changes), stage_named(stage))


@pytest.mark.parametrize("make", [paper, small, tiny, smoke])
def test_config_survives_json(make: Any) -> None:
    assert Config.from_dict(json.loads(json.dumps(make().to_dict()))) == make()


def test_bad_settings_are_refused() -> None:
    wrong = (
        {"keep_sampling": "all"},
        {"placeholder_mask": "half"},
        {"keep_views": 33},
        {"resolution": 33},
        {"discriminator_norm": "layer"},
    )
    for changes in wrong:
        with pytest.raises(UserError):
            replace(CONFIG, **changes)
    with pytest.raises(UserError, match="projection_dim"):
        replace(CONFIG, clip=replace(CONFIG.clip, projection_dim=32))


@pytest.mark.parametrize("reference", range(32, 36))
def test_targets_are_rolled_so_that_the_reference_azimuth_is_slot_zero(reference: int) -> None:
    views = painted_views("turn", 8, 4, seed=reference)
    order = rolled_targets(views, CONFIG, reference)
    azimuth = np.mod(views.azimuth_deg[order] - views.azimuth_deg[reference], 360)
    assert np.allclose(azimuth, np.tile(np.arange(8) * 45.0, 4))
    assert np.array_equal(views.elevation_deg[order], np.repeat([-30.0, 0.0, 30.0, 60.0], 8))


def test_a_reference_off_the_grid_and_a_foreign_rig_are_refused() -> None:
    views = painted_views("off", 8)
    with pytest.raises(UserError, match="not a multiple of 45"):
        rolled_targets(replace(views, azimuth_deg=views.azimuth_deg + np.eye(36)[33] * 10), CONFIG, 33)
    with pytest.raises(UserError, match="31 target views"):
        rolled_targets(views.select(range(1, 36)), CONFIG, 33)
    with pytest.raises(UserError, match="no condition"):
        choose_views(views.select(range(32)), CONFIG, 1, np.random.default_rng(0))


def _even(counts: np.ndarray, draws: int, share: float) -> float:
    """Chi-square of `len(counts)` values of which `share` is drawn without replacement, `draws` times: len(counts) - 1 degrees."""
    size = len(counts)
    return float(((counts - draws * share) ** 2).sum() / (draws * share * (1 - share)) * (size - 1) / size)


def test_view_dropout_keeps_eight_of_all_targets_evenly() -> None:
    """Limits are chi-square's 0.1 % points; the seed is fixed."""
    rng = np.random.default_rng(0)
    draws = {
        kind: np.stack([keep_targets(replace(CONFIG, keep_sampling=kind), rng) for _ in range(2000)])
        for kind in ("uniform", "stratified", "ring")
    }
    for kept in draws.values():
        assert kept.shape == (2000, 8) and (np.diff(kept, axis=1) > 0).all()
    counts = {kind: np.bincount(kept.reshape(-1), minlength=32) for kind, kept in draws.items()}
    assert _even(counts["uniform"], 2000, 8 / 32) < 61.1  # 31 degrees of freedom
    assert (np.sort(draws["stratified"] // 8, axis=1) == np.repeat(np.arange(4), 2)).all()  # two of each elevation
    assert sum(_even(ring, 2000, 2 / 8) for ring in counts["stratified"].reshape(4, 8)) < 56.9  # 4 x 7
    assert (np.ptp(draws["ring"] // 8, axis=1) == 0).all()  # all of one elevation
    assert _even(counts["ring"].reshape(4, 8)[:, 0], 2000, 1 / 4) < 16.3  # 3


def test_each_object_and_step_drops_its_own_views() -> None:
    """The overlap of two independent draws of 8 of 32 is hypergeometric: mean 2, variance 1.161."""
    training = _training()
    one, other = _object("a"), _object("b")

    def kept(obj: TrainObject, index: int) -> set[int]:
        example = training.example(obj, rng_for(0, "unet2", "example", index, obj.views.uid))  # as the loop draws
        return set(example["slots"][1:].tolist())

    steps = [(kept(one, 2 * n), kept(other, 2 * n + 1)) for n in range(300)]
    pairs = {"objects of a step": steps, "steps of an object": [(a[0], b[0]) for a, b in zip(steps, steps[1:], strict=False)]}
    for what, drawn in pairs.items():
        assert abs(np.mean([len(a & b) for a, b in drawn]) - 2) < 5 * (1.161 / len(drawn)) ** 0.5, what
    assert kept(one, 0) == steps[0][0]


def test_dropped_views_leave_no_tensor_behind() -> None:
    """Everything that enters the network has rows for the conditions and the 8 kept views, nowhere for 32."""
    training = _training("unet3", sparse_share=1.0)
    examples = [training._example(_object(uid), np.random.default_rng(0), 2, 500, dropped=False) for uid in "ab"]
    batch = training.collate(examples)
    assert {name: batch[name].shape[1] for name in ("latents", "noise", "condition_latents", "slots", "is_condition")} == dict.fromkeys(
        ("latents", "noise", "condition_latents", "slots", "is_condition"), 10
    )
    rows: set[int] = set()
    module = training.build()
    for part in module.modules():
        if isinstance(part, torch.nn.Conv2d | torch.nn.GroupNorm):
            part.register_forward_pre_hook(lambda part, inputs: rows.add(len(inputs[0])))
    with torch.no_grad():
        training.loss(module, batch, torch.Generator(), 0)
    assert rows == {2 * 10}


def test_an_example_holds_the_right_latents_in_the_right_slots() -> None:
    obj = _object()
    example = _training("unet3", condition_drop=0.0, sparse_share=1.0).example(obj, np.random.default_rng(5))
    count = len(example["image_tokens"])
    shown = example["latents"][:, 0, 0, 0].astype(int)  # the view each latent came from
    assert 2 <= count <= 4 and len(shown) == count + 8
    assert set(shown[:count]) <= set(range(32, 36)) and len(set(shown[:count])) == count
    assert np.array_equal(example["image_tokens"][:, 0], 100 + shown[:count])
    assert np.array_equal(example["condition_latents"][:count], example["latents"][:count])
    assert (example["condition_latents"][count:] == -1).all()
    assert example["slots"][:count].tolist() == list(range(count))
    reference = obj.views.azimuth_deg[shown[0]]
    for view, slot in zip(shown[count:], example["slots"][count:], strict=True):
        elevation, azimuth = divmod(int(slot) - 10, 8)
        assert obj.views.elevation_deg[view] == (-30.0, 0.0, 30.0, 60.0)[elevation]
        assert np.mod(obj.views.azimuth_deg[view] - reference, 360) == azimuth * 45.0


def test_dropped_condition_leaves_placeholder_and_zero_tokens() -> None:
    example = _training(condition_drop=1.0).example(_object(), np.random.default_rng(0))
    assert (example["condition_latents"] == -1).all() and not example["image_tokens"].any()
    assert example["latents"][0, 0, 0, 0] >= 32  # the condition view itself is still there, as noise to undo


def test_condition_counts_follow_the_stage() -> None:
    obj, rng = _object(num_conditions=10), np.random.default_rng(0)
    for stage in ("unet1", "unet2"):
        assert {len(_training(stage).example(obj, rng)["image_tokens"]) for _ in range(30)} == {1}
    counts = np.bincount([len(_training("unet3").example(obj, rng)["image_tokens"]) for _ in range(900)], minlength=11)
    assert abs(counts[1] - 450) < 75 and (np.abs(counts[2:] - 50) < 36).all()  # five standard deviations
    few = {len(_training("unet3").example(_object(num_conditions=3), rng)["image_tokens"]) for _ in range(60)}
    assert few == {1, 2, 3}


def test_shuffled_slots_keep_the_reference_first() -> None:
    training = _training("unet3", shuffle_condition_slots=True, sparse_share=1.0)
    seen = set()
    for i in range(40):
        example = training.example(_object(num_conditions=10), np.random.default_rng(i))
        slots = example["slots"][: len(example["image_tokens"])].tolist()
        assert slots[0] == 0 and len(set(slots)) == len(slots) and max(slots) < 10
        seen |= set(slots)
    assert seen == set(range(10))


def test_extra_last_timesteps_only_in_v_stages() -> None:
    for stage, wanted in (("unet1", 0.0), ("unet2", 0.5)):
        training = _training(stage, last_timestep_share=0.5)
        last = np.mean([training.example(_object(), np.random.default_rng(i))["timestep"] == 999 for i in range(200)])
        assert last == pytest.approx(wanted, abs=0.18)


def test_eps_stage_never_has_zero_terminal_snr() -> None:
    assert CONFIG.schedule.zero_terminal_snr
    assert not stage_schedule(CONFIG, stage_named("unet1")).zero_terminal_snr
    assert stage_schedule(CONFIG, stage_named("unet3")).zero_terminal_snr
    assert stage_schedule(replace(CONFIG, native_schedule_stage1=True), stage_named("unet1")).kind == "scaled_linear"


def test_ragged_batch_loss_is_the_mean_of_its_objects() -> None:
    """Padding neither leaks nor counts: view sums of the batch equal those of each object on its own."""
    torch.manual_seed(0)
    training = _training("unet3", condition_loss_weight=0.25)
    module = training.build().eval()
    torch.nn.init.constant_(module.view_scale, 0.02)
    examples = [
        training._example(_object(uid), np.random.default_rng(i), count, 400 + i, dropped=False)
        for i, (uid, count) in enumerate((("a", 1), ("b", 4), ("c", 2)))
    ]
    for example in examples:  # values of the size the network is made for
        example["latents"], example["condition_latents"] = example["latents"] / 36, example["condition_latents"] / 36
        example["image_tokens"] = example["image_tokens"] / 136
    batch = training.collate(examples)
    assert batch["valid"].sum(1).tolist() == [9, 12, 10] and batch["token_valid"].sum(1).tolist() == [1, 4, 2]
    with torch.no_grad():
        together, terms = training.loss(module, batch, torch.Generator(), 0)
        sums, generation = np.zeros(2), []
        for example in examples:
            alone = training.collate([example])
            assert "valid" not in alone
            error, _ = training.view_errors(module, alone)
            weight = torch.where(alone["is_condition"], 0.25, 1.0)
            sums += [float((error * weight).sum()), float(weight.sum())]
            generation.append(float(error[~alone["is_condition"]].mean()))
    assert float(together) == pytest.approx(sums[0] / sums[1], rel=1e-4)
    assert float(terms["loss_generation"]) == pytest.approx(np.mean(generation), rel=1e-4)


def test_predicting_zero_validates_at_one() -> None:
    class Zero(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(1))

        def forward(self, noisy: torch.Tensor, *rest: Any) -> torch.Tensor:
            return torch.zeros_like(noisy)

    for stage in ("unet1", "unet3"):
        figures = _training(stage).validate(Zero(), [_object("a"), _object("b")], seed=0)
        assert figures.keys() >= {"loss", "loss_generation", "loss_condition", "loss_t0062", "loss_t0937"}
        assert all(value == pytest.approx(1.0) for value in figures.values())


def test_encoder_arrays(encoder: ViewEncoder) -> None:
    views = painted_views("enc", 32, 3)
    arrays = encoder(views)
    assert {k: (v.shape, v.dtype.name) for k, v in arrays.items()} == {
        "latents": ((35, 4, 4, 4), "float16"),
        "clip_tokens": ((3, 64), "float16"),
        "placeholder_latent": ((4, 4, 4), "float16"),
    }
    with torch.no_grad():
        direct = encoder.vae.autoencoder.encode(encoder.pictures(views.rgba[20:21])).latent_dist.mean
    np.testing.assert_allclose(arrays["latents"][20], direct[0].numpy(), atol=2e-3)
    ones, zeros = (
        ViewEncoder(replace(CONFIG, placeholder_mask=mask), encoder.vae, encoder.tokens, "cpu").placeholder() for mask in ("ones", "zeros")
    )
    assert torch.equal(ones, encoder.placeholder()) and not torch.allclose(ones, zeros)
    with pytest.raises(UserError, match="64x64"):
        encoder(painted_views("big", 64, 1))


def test_image_tokens_do_not_depend_on_company(encoder: ViewEncoder) -> None:
    pictures = encoder.pictures(painted_views("enc", 32, 3).rgba[:3])
    torch.testing.assert_close(encoder.image_tokens(pictures)[1:2], encoder.image_tokens(pictures[1:2]), atol=1e-5, rtol=1e-4)


def test_missing_clip_weights_are_refused() -> None:
    with pytest.raises(UserError, match="no CLIP weights"):
        image_encoder(replace(CONFIG.clip, source="/nowhere/clip"))


@pytest.fixture(scope="module")
def folder(encoder: ViewEncoder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A generator with random weights, through the checkpoints' files."""
    base = tmp_path_factory.mktemp("generator")
    torch.manual_seed(0)
    for name, module in (("mvae", encoder.vae), ("unet2", _training().build())):
        (base / name).mkdir()
        METHOD.trainable(name, CONFIG, {}).save(module, base / name)
    METHOD.export(CONFIG, {"mvae": base / "mvae", "unet2": base / "unet2"}, base / "model")
    return base / "model"


def test_generator_folder_has_diffusers_layout(folder: Path) -> None:
    parts = {"vae", "unet", "view_embedding", "image_encoder", "scheduler"}
    assert {p.name for p in folder.iterdir()} == parts | {"model_index.json", "mvforge.json", "pipeline.py"}
    assert not [p for p in folder.rglob("*") if p.suffix in (".bin", ".pt", ".pth", ".pkl")]
    assert json.loads((folder / "mvforge.json").read_text()) == {"format": 2, "method": "mvdiffusionpp", "stage": "unet2"}
    index = json.loads((folder / "model_index.json").read_text())
    assert Config.from_dict(index["model"]) == CONFIG and parts <= set(index)
    assert json.loads((folder / "scheduler" / "scheduler_config.json").read_text())["prediction_type"] == "v_prediction"
    assert json.loads((folder / "vae" / "config.json").read_text())["scaling_factor"] == 1.0


def test_generated_views_lie_in_the_canonical_frame(folder: Path) -> None:
    views = painted_views("frame", 48, 3)  # another size than the model's
    reference = 33
    made = load_generator(folder, "cpu").generate(views.select([reference, 32]), seed=0, steps=2, sampler="ddim")
    truth = views.turned(-views.azimuth_deg[reference]).select(rolled_targets(views, CONFIG, reference))
    assert made.rgba.shape == (32, 32, 32, 4)
    np.testing.assert_allclose(made.camera.c2w, truth.camera.c2w, atol=1e-9)
    np.testing.assert_allclose(made.azimuth_deg, truth.azimuth_deg, atol=1e-9)
    np.testing.assert_allclose(made.camera.intrinsics, truth.camera.intrinsics)
    assert made.facts["reference_azimuth_deg"] == views.azimuth_deg[reference] and made.facts["num_conditions"] == 2


@pytest.mark.parametrize("sampler", ["ddpm", "ddim", "dpm++"])
def test_a_subset_of_targets_and_progress(folder: Path, sampler: str) -> None:
    seen: list[tuple[int, int]] = []
    condition = painted_views("subset", 32, 1).with_role(CONDITION)
    generator = load_generator(folder, "cpu")
    made = generator.generate(condition, seed=0, steps=3, sampler=sampler, guidance=2.0, targets=[9, 0], progress=lambda *p: seen.append(p))
    assert made.azimuth_deg.tolist() == [45.0, 0.0] and made.elevation_deg.tolist() == [0.0, -30.0]
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_guidance_changes_the_result(folder: Path) -> None:
    condition = painted_views("guide", 32, 1).with_role(CONDITION)
    generator = load_generator(folder, "cpu")
    plain, guided = (generator.generate(condition, seed=0, steps=2, sampler="ddim", targets=[0], guidance=g).rgba for g in (1.0, 4.0))
    assert not np.array_equal(plain, guided)


def test_impossible_requests_are_refused(folder: Path) -> None:
    generator, views = load_generator(folder, "cpu"), painted_views("bad", 32, 4)
    for conditions, options in ((views.select([]), {}), (views.select(range(11)), {}), (views.select([0]), {"targets": [32]})):
        with pytest.raises(UserError):
            generator.generate(conditions, seed=0, steps=1, **options)
    with pytest.raises(UserError, match="needs mvae"):
        METHOD.export(CONFIG, {"unet2": folder}, folder / "again")
