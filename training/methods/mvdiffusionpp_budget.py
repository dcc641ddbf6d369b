"""What training MVDiffusion++ costs, counted from its settings before anything is built (for `mvforge plan`)."""

from training.flops import Flops, training, unet_flops, unet_parameters, vae_flops, vae_parameters
from training.methods.base import Stage, StageBudget
from training.methods.mvdiffusionpp_config import PREVIEW_STEPS, SHOWN_VIEWS, VALIDATION_VIEWS, Config

FLOAT16 = 2


def stage_budget(config: Config, stage: Stage, conditions: int) -> StageBudget:
    """Means over the random number of condition views, of which an object has `conditions` to choose from.

    The VAE stage counts encoder and decoder; networks that only its losses need are left out.
    """
    if "prediction" not in stage.settings:
        encode, decode = vae_flops(config.vae, config.resolution)
        forward = (encode + decode) * config.vae_views
        rendered = rendered_views(config, conditions)
        return StageBudget(
            vae_parameters(config.vae),
            config.vae_views,
            training(forward),
            forward.total,
            rendered * encode.total,
            array_bytes(config, conditions),
            min(VALIDATION_VIEWS, rendered) * (encode + decode).total,
            min(SHOWN_VIEWS, rendered) * (encode + decode).total,
        )
    flops = forward_flops = views = 0.0
    for count, share in condition_shares(config, stage, conditions).items():
        cost = _denoiser(config, count)
        flops, forward_flops = flops + share * training(cost), forward_flops + share * cost.total
        views += share * (count + config.keep_views)
    parameters = unet_parameters(config.unet, config.vae.latent_channels, config.num_slots)
    return StageBudget(
        parameters,
        views,
        flops,
        forward_flops,
        validation_flops=validation_flops(config, stage, conditions),
        preview_flops=preview_flops(config),
    )


def validation_flops(config: Config, stage: Stage, conditions: int) -> float:
    """One held-out object at every noise level with one condition; sparse stages see it again with all its conditions."""
    most = min(conditions, config.max_conditions)
    counts = [1, most] if stage.settings["sparse"] and most > 1 else [1]
    return config.validation_timesteps * sum(_denoiser(config, count).total for count in counts)


def preview_flops(config: Config) -> float:
    """One object sampled jointly, predicted once from pure noise, and both decoded beside its true latents."""
    decoding = 3 * config.keep_views * vae_flops(config.vae, config.resolution)[1].total
    return (PREVIEW_STEPS + 1) * _denoiser(config, 1).total + decoding


def _denoiser(config: Config, count: int) -> Flops:
    """One forward pass over the views of a training example with `count` conditions."""
    return unet_flops(
        config.unet, count + config.keep_views, config.latent_size, config.vae.latent_channels, count * tokens_of(config), count
    )


def condition_shares(config: Config, stage: Stage, conditions: int) -> dict[int, float]:
    """Probability of each number of condition views in a training example (§5.5: half one, half uniform in 2..10)."""
    most = min(conditions, config.max_conditions)
    sparse = config.sparse_share if stage.settings["sparse"] and most > 1 else 0.0
    return {1: 1.0 - sparse, **{count: sparse / (most - 1) for count in range(2, most + 1)}}


def rendered_views(config: Config, conditions: int) -> int:
    """Rendered views of an object."""
    return config.num_targets + conditions


def tokens_of(config: Config) -> int:
    """Image tokens of one condition view."""
    return config.clip.tokens_per_picture


def array_bytes(config: Config, conditions: int) -> int:
    """What encoding writes per object, uncompressed: float16 latents of all views and of the placeholder, and image tokens."""
    latent = config.vae.latent_channels * config.latent_size**2
    views = rendered_views(config, conditions)
    latents = views * latent * (2 if config.encode_logvar else 1) + latent
    return FLOAT16 * (latents + conditions * tokens_of(config) * config.clip.projection_dim)


def sampling_flops(config: Config, steps: int, conditions: int = 1) -> float:
    """All target views of one object without guidance: joint denoising and decoding."""
    count = tokens_of(config) * conditions
    views = config.num_targets + conditions
    denoise: Flops = unet_flops(config.unet, views, config.latent_size, config.vae.latent_channels, count, conditions)
    return steps * denoise.total + config.num_targets * vae_flops(config.vae, config.resolution)[1].total
