"""The two ways from views to a denoiser's batches, encoded before or while training, and what a stage logs of itself."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from infra.errors import UserError
from infra.job import Job
from infra.seeds import rng_for
from infra.storage import Location
from pipelines import graph, recipes
from rendering.views import ViewStore
from tests.training.painted import write_painted
from tests.training.test_loop import untimed
from training import train
from training.config import TrainConfig
from training.data import DataLocations, TrainData
from training.encoded import to_table, write_shards
from training.flops import train_flops
from training.methods import METHODS
from training.stage import StageInputs, fit_local

METHOD = METHODS["mvdiffusionpp"]
STAGE = TrainConfig(
    method="mvdiffusionpp",
    stage="unet2",
    model=METHOD.smoke(),
    steps=4,
    global_batch=4,
    micro_batch=2,
    lr=1e-3,
    ema_decay=0.9,
    log_every=1,
    validate_objects=1,
    sample_every=4,
    sample_objects=1,
)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Painted views, a VAE after two steps, and what an encode step makes of them."""
    root = Location(str(tmp_path_factory.mktemp("home")))
    views, kept = write_painted(root, train=3, val=2)
    vae = replace(STAGE, stage="mvae", steps=2, global_batch=2)
    fit_local(vae, StageInputs(DataLocations(views, kept)), root / "mvae")
    write_arrays(root, STAGE.model, root / "arrays")
    return root


def write_arrays(root, model, out):
    encode = METHOD.encoder("mvae", model, (root / "mvae" / "checkpoint").local_path(), "cpu")
    write_shards([to_table(views.uid, encode(views)) for views in ViewStore(root / "views")], out)


def inputs(home, arrays=None):
    return StageInputs(DataLocations(home / "views", home / "kept", arrays), weights={"mvae": home / "mvae"})


def test_encoding_while_training_gives_the_same_curve(home, tmp_path):
    before = fit_local(STAGE, inputs(home, home / "arrays"), Location(str(tmp_path / "before")))
    on_the_fly = replace(STAGE, encode_on_the_fly=True, readers=3)
    during = fit_local(on_the_fly, inputs(home), Location(str(tmp_path / "during")))
    for rows, expected in (
        (untimed(during.history), untimed(before.history)),
        (during.validation, before.validation),
        (untimed(during.previews), untimed(before.previews)),
    ):
        for row, other in zip(rows, expected, strict=True):
            assert row == pytest.approx(other, rel=1e-3)
    assert during.previews[0]["step"] == 4
    assert (tmp_path / "during" / "pictures" / "samples" / "step-000004.png").stat().st_size > 1000
    assert len((tmp_path / "during" / "previews.jsonl").read_text().splitlines()) == 1


def test_rows_hold_what_is_promised(home, tmp_path):
    curves = fit_local(replace(STAGE, steps=3, sample_every=0), inputs(home, home / "arrays"), Location(str(tmp_path)))
    names = set().union(*curves.history)
    buckets = {f"loss_t{a:04d}_{a + 250:04d}" for a in (0, 250, 500, 750)}
    assert names >= {
        *("step", "loss", "loss_generation", "loss_condition", "lr", "grad_norm", "ema_drift", "seconds", "samples_per_s"),
        *("tokens_per_s", "tflops_per_device", "peak_memory_gb", "data_wait_s", "loader_samples_per_s"),
    }
    assert names & buckets and "mfu" not in names
    row = curves.history[-1]
    config = STAGE.model
    views = 1 + config.keep_views
    assert row["samples_per_s"] == pytest.approx(4 / row["seconds"])
    assert row["tokens_per_s"] == pytest.approx(4 * views * config.latent_size**2 / row["seconds"])
    flops = train_flops(config.unet, [views] * 4, config.latent_size, config.vae.latent_channels, 1)
    assert row["tflops_per_device"] == pytest.approx(flops / row["seconds"] / 1e12)
    assert curves.previews == [] and not (tmp_path / "previews.jsonl").exists()


def test_loss_by_timestep_adds_up_to_the_loss(home):
    trainable = METHOD.trainable("unet2", STAGE.model, {})
    data = TrainData(inputs(home, home / "arrays").data, pictures=False)
    examples = [trainable.example(data.read("object0"), rng_for(0, n)) for n in range(12)]
    batch = trainable.collate(examples)
    torch.manual_seed(0)
    loss, terms = trainable.loss(trainable.build(), batch, torch.Generator(), 0)
    buckets = {name: float(value) for name, value in terms.items() if name.startswith("loss_t")}
    counts = {name: sum(int(name[6:10]) <= e["timestep"] < int(name[11:15]) for e in examples) for name in buckets}
    assert sum(counts.values()) == 12 and len(buckets) > 1
    assert sum(buckets[name] * counts[name] for name in buckets) / 12 == pytest.approx(float(loss.detach()), rel=1e-5)


def test_pictures_are_decoded_only_where_a_stage_looks_at_them(home):
    data = TrainData(inputs(home, home / "arrays").data, pictures=False)
    bare, whole = data.read("object0"), data.read_whole("object0")
    assert bare.views.rgba.shape == (36, 0, 0, 4) and whole.views.rgba.shape == (36, 32, 32, 4)
    assert bare.views.roles == whole.views.roles and len(bare.views) == 36
    np.testing.assert_array_equal(bare.arrays["latents"], whole.arrays["latents"])


def test_latents_are_drawn_from_their_posterior_when_its_variance_is_kept(home, tmp_path):
    model = replace(STAGE.model, encode_logvar=True)
    out = Location(str(tmp_path / "arrays"))
    write_arrays(home, model, out)
    obj = TrainData(inputs(home, out).data, pictures=False).read("object0")
    assert obj.arrays["latent_logvar"].dtype == obj.arrays["latents"].dtype == np.float16
    assert obj.arrays["latent_logvar"].shape == obj.arrays["latents"].shape
    trainable = METHOD.trainable("unet2", model, {})
    obj.arrays["latents"][:] = 0.5  # every draw is then one of the same normal distribution
    obj.arrays["latent_logvar"][:] = np.log(0.09)
    drawn = np.concatenate([trainable.example(obj, rng_for(0, n))["latents"].ravel() for n in range(40)])
    assert drawn.mean() == pytest.approx(0.5, abs=0.01) and drawn.std() == pytest.approx(0.3, abs=0.01)
    example = trainable.example(obj, rng_for(0, 0))
    given = example["condition_latents"][: len(example["image_tokens"])]
    assert set(np.unique(given)) <= {0.5, *np.unique(obj.arrays["placeholder_latent"].astype(np.float32))}
    assert set(np.unique(trainable._validation_batch(obj, 1, 0)["latents"])) == {0.5}  # held-out figures are taken at the means


def test_a_posterior_is_scaled_with_its_mean(home):
    """Log variance against diffusers' own posterior of the same pictures, in units of the scaled latents."""
    from training.batch import signed_rgba
    from training.methods.mvdiffusionpp_vae import open_vae

    checkpoint = (home / "mvae" / "checkpoint").local_path()
    views = ViewStore(home / "views").read("object0")
    arrays = METHOD.encoder("mvae", replace(STAGE.model, encode_logvar=True), checkpoint, "cpu")(views)
    vae = open_vae(checkpoint)
    with torch.no_grad():
        posterior = vae.autoencoder.encode(torch.from_numpy(signed_rgba(views.rgba[:3]))).latent_dist
    spread = np.exp(0.5 * arrays["latent_logvar"][:3].astype(np.float32))
    np.testing.assert_allclose(spread, posterior.std.numpy() * vae.latent_scale.numpy()[:, None, None], rtol=5e-3)


def test_the_graph_leaves_the_encode_step_out():
    recipe = replace(recipes.by_name("smoke"), encode_on_the_fly=True)
    steps = {step.name: step for step in graph.build(recipe)}
    assert "encode" not in steps and "encode" in {step.name for step in graph.build(recipes.by_name("smoke"))}
    assert steps["train.unet1"].inputs["weights"] == {"mvae": "train.mvae"} and "arrays" not in steps["train.unet1"].inputs
    assert steps["train.unet1"].config.encode_on_the_fly and not steps["train.mvae"].config.encode_on_the_fly


def test_a_stage_without_its_encoder_is_refused(tmp_path):
    root = Location(str(tmp_path))
    config = replace(STAGE, stage="unet1", encode_on_the_fly=True)
    with pytest.raises(UserError, match="encodes with mvae"):
        train.run(config, views=root / "v", kept=root / "k", out=root / "o", job=Job())
