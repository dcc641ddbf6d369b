"""Sizes and lengths of the trainings behind the proofs: `cpu` for two cores, `gpu` for one card."""

from dataclasses import dataclass, replace

from training.config import TrainConfig
from training.diffusion.schedule import ScheduleConfig
from training.methods.mvdiffusionpp_config import Config, small
from training.nn.config import ClipConfig, UnetConfig, VaeConfig


@dataclass(frozen=True)
class Setup:
    """Everything a proof needs besides data.

    Attributes:
        model: the method's config.
        vae_rgb, vae: a 3-channel VAE from scratch, and its adaption to RGBA.
        memorise, condition: denoiser trainings on few and on all objects; dropout: each of the two compared trainings.
        sparse: half single, half several conditions, from the weights of `condition`; ablation: each variant's length.
        sampling_steps: DDIM steps wherever views are sampled.
    """

    model: Config
    vae_rgb: TrainConfig
    vae: TrainConfig
    memorise: TrainConfig
    condition: TrainConfig
    dropout: TrainConfig
    sparse: TrainConfig
    ablation: TrainConfig
    sampling_steps: int = 20


def cpu() -> Setup:
    """32 px, 8x8 latents of 8 channels, 11 M parameters in the denoiser; from random weights."""
    model = Config(
        resolution=32,
        vae=VaeConfig(block_out_channels=(32, 64, 96), layers_per_block=1, latent_channels=8, norm_num_groups=8, picture_lanes=True),
        unet=UnetConfig(
            block_out_channels=(128, 192),
            attention_levels=(True, True),
            layers_per_block=1,
            num_heads=(2, 3),
            cross_attention_dim=64,
            norm_num_groups=16,
            view_scale_rate=30.0,
        ),
        clip=ClipConfig(
            image_size=32, patch_size=8, hidden_size=64, num_layers=2, num_heads=2, mlp_size=128, projection_dim=64, tokens="patch"
        ),
        max_conditions=4,
        latent_scale=None,
        schedule=ScheduleConfig(zero_terminal_snr=True),
        last_timestep_share=0.4,
        condition_drop=0.0,
        vae_views=8,
        reconstruction="l2",
        foreground_weight=4.0,
        perceptual="none",
        mask_weight=0.3,
        kl_weight=1e-5,
    )
    vae = TrainConfig(
        method="mvdiffusionpp",
        stage="mvae",
        steps=1500,
        global_batch=4,
        micro_batch=4,
        lr=2e-3,
        betas=(0.9, 0.99),
        weight_decay=0.0,
        warmup_steps=50,
        ema_decay=0.99,
        precision="bf16",
        validate_every=250,
        validate_objects=16,
        checkpoint_every=250,
        log_every=50,
    )
    unet = TrainConfig(
        method="mvdiffusionpp",
        stage="unet2",
        steps=2400,
        global_batch=8,
        micro_batch=8,
        lr=1e-3,
        betas=(0.9, 0.99),
        warmup_steps=100,
        ema_decay=0.99,
        precision="bf16",
        validate_every=400,
        validate_objects=8,
        checkpoint_every=100,
        log_every=50,
    )
    return Setup(
        model=model,
        vae_rgb=vae,
        vae=replace(vae, steps=1600, lr=1e-3),
        memorise=replace(unet, steps=1600, global_batch=4, micro_batch=4, lr=1.5e-3, validate_every=200),
        condition=unet,
        dropout=replace(unet, steps=480),
        sparse=replace(unet, stage="unet3", steps=600, lr=5e-4),
        ablation=replace(unet, steps=480),
    )


def gpu() -> Setup:
    """For one card, not run yet: the denoiser of recipe `small` (70 M parameters, 16x16 latents of 4 channels) on 64 px views.

    64 px keep the data file small enough to carry: it holds pictures, latents are made on the card.
    """
    base, sizes = cpu(), small()
    model = replace(
        base.model,
        resolution=64,
        vae=VaeConfig(block_out_channels=(64, 128, 128), layers_per_block=1, latent_channels=4, norm_num_groups=16, picture_lanes=True),
        unet=sizes.unet,
        clip=sizes.clip,
        max_conditions=10,
        condition_drop=0.05,
    )
    vae = replace(base.vae, steps=6000, global_batch=16, micro_batch=16, lr=1e-3)
    unet = replace(base.condition, steps=12_000, global_batch=64, micro_batch=64, lr=3e-4, warmup_steps=500, ema_decay=0.999)
    unet = replace(unet, validate_every=2000, checkpoint_every=250)
    return Setup(
        model=model,
        vae_rgb=replace(vae, stage="mvae"),
        vae=replace(vae, steps=3000, lr=5e-4),
        memorise=replace(unet, steps=2000),
        condition=unet,
        dropout=replace(unet, steps=3000),
        sparse=replace(unet, stage="unet3", steps=6000, lr=1e-4),
        ablation=replace(unet, steps=4000),
        sampling_steps=25,
    )


SETUPS = {"cpu": cpu, "gpu": gpu}
