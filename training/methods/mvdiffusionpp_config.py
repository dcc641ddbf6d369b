"""Settings of MVDiffusion++ (arXiv 2402.12712) and ready-made sizes. `[C]` marks our choice where the paper is silent."""

from dataclasses import asdict, dataclass, fields, is_dataclass, replace
from typing import Any

from infra.errors import UserError
from training.diffusion.schedule import ScheduleConfig
from training.nn.config import ClipConfig, UnetConfig, VaeConfig, lpips_file_of, one_of, weights_field

KEEP_SAMPLING = ("uniform", "stratified", "ring")
# What is looked at while training: views of an object that the VAE's held-out figures and sample pictures take, and the denoisers'
# DDIM steps, which are enough to see what a stage has learnt. They change no weights. [C]
VALIDATION_VIEWS, SHOWN_VIEWS, PREVIEW_STEPS = 8, 8, 10


@dataclass(frozen=True)
class Config:
    """Everything that shapes the weights of one MVDiffusion++ model.

    Attributes:
        resolution: side of all pictures in pixels (§4.1).
        vae, unet, clip: the networks.
        elevations_deg, num_azimuths, radius, fov_deg: the target rig (§4.1); azimuths are evenly spaced, index = A * e + a.
        rig: name written into generated views.
        max_conditions: most condition views, and number of condition slots (§4.1).
        keep_views: target views kept per object and training step, the rest is dropped (§4.3).
        keep_sampling: uniform (§4.3), stratified (equally many per elevation) or ring (one whole elevation first) [C].
        sparse_share: share of stage-3 examples with 2 or more conditions (§5.5).
        shuffle_condition_slots: conditions after the reference take random slots instead of 1, 2, ... [C].
        condition_drop: share of examples without condition, for classifier-free guidance; not in the paper [C].
        condition_loss_weight: weight of condition views in the loss against 1 for targets (§4.2 sums over all) [C].
        placeholder_mask: mask fed to the VAE with the white placeholder; §4.2's text says ones, its figure 3 zeros [C].
        encode_logvar: the encode step keeps the posterior's log variance too, and every training example draws its clean
            latents from the posterior instead of taking the mean; condition latents stay means, as when generating [C].
        latent_scale: factor on latents, 0.18215 as in SD [C]; None standardises every channel by mean and spread measured while the
            VAE trains, which a VAE from random weights on white backgrounds needs.
        schedule: noise levels of all stages (§4.2).
        native_schedule_stage1: stage 1 keeps SD's scaled-linear betas, which its pretrained weights know [C].
        last_timestep_share: extra share of examples drawn at the last timestep in v stages; not in the paper [C].
        vae_views: views per object in a VAE training example [C].
        reconstruction: l1 as in latent diffusion, or l2, which follows colours sooner in short training [C].
        foreground_weight: weight of a foreground pixel in that term against 1 for background; the weights average to 1 [C].
        perceptual: lpips(PATH), the loss of §5.4 with weights from one file (`training/nn/lpips.py` says which); gradient
            (multi-scale edges), its substitute without weights; or none [C].
        perceptual_weight, mask_weight: weights beside the reconstruction term; mask is BCE with logits (§5.4) [C].
        kl_weight: as in latent diffusion, relative to a loss summed over RGB values.
        discriminator_start: VAE step from which a patch discriminator acts, 50001 in latent diffusion, which §5.4 follows;
            None is never [C].
        discriminator_weight: size of its gradient at the decoded picture, relative to that of the other RGB terms (latent
            diffusion: 0.5, measured at the decoder's last weights).
        discriminator_width, discriminator_layers: 64 and 3 judge patches of 70 x 70 pixels, as in latent diffusion.
        discriminator_norm: batch (latent diffusion), group, which no batch size can upset [C], or none.
        learnt_logvar: a learnt log variance divides the RGB terms, as in latent diffusion [C: off].
        validation_timesteps: fixed, evenly spread noise levels at which held-out loss is measured.
    """

    resolution: int = 512
    vae: VaeConfig = VaeConfig()
    unet: UnetConfig = UnetConfig()
    clip: ClipConfig = ClipConfig()
    elevations_deg: tuple[float, ...] = (-30.0, 0.0, 30.0, 60.0)
    num_azimuths: int = 8
    radius: float = 1.5
    fov_deg: float = 60.0
    rig: str = "mvdiffusionpp"
    max_conditions: int = 10
    keep_views: int = 8
    keep_sampling: str = "uniform"
    sparse_share: float = 0.5
    shuffle_condition_slots: bool = False
    condition_drop: float = 0.05
    condition_loss_weight: float = 1.0
    placeholder_mask: str = "ones"
    encode_logvar: bool = False
    latent_scale: float | None = 0.18215
    schedule: ScheduleConfig = ScheduleConfig()
    native_schedule_stage1: bool = False
    last_timestep_share: float = 0.0
    vae_views: int = 8
    reconstruction: str = "l1"
    foreground_weight: float = 1.0
    perceptual: str = weights_field("gradient", lpips_file_of)
    perceptual_weight: float = 1.0
    mask_weight: float = 1.0
    kl_weight: float = 1e-6
    discriminator_start: int | None = None
    discriminator_weight: float = 0.5
    discriminator_width: int = 64
    discriminator_layers: int = 3
    discriminator_norm: str = "group"
    learnt_logvar: bool = False
    validation_timesteps: int = 8

    def __post_init__(self) -> None:
        one_of("keep_sampling", self.keep_sampling, KEEP_SAMPLING)
        one_of("placeholder_mask", self.placeholder_mask, ("ones", "zeros"))
        one_of("reconstruction", self.reconstruction, ("l1", "l2"))
        if lpips_file_of(self.perceptual) is None:
            one_of("perceptual", self.perceptual, ("gradient", "none", "lpips(PATH)"))
        one_of("discriminator_norm", self.discriminator_norm, ("group", "batch", "none"))
        if self.unet.cross_view == "caa":
            raise UserError(
                "unet.cross_view is 'caa', but views of an object have no correspondences before there is geometry",
                "use global, ring or none; caa is for panoramas and for scenes with depth",
            )
        one_of("schedule.kind", self.schedule.kind, ("linear", "scaled_linear"))
        if self.resolution % self.vae.factor:
            raise UserError(f"resolution {self.resolution} is not a multiple of the VAE factor {self.vae.factor}", "change one of them")
        if self.keep_views > self.num_targets:
            raise UserError(f"keep_views {self.keep_views} exceeds the {self.num_targets} targets", "keep at most all of them")
        if self.clip.source.startswith("random(") and self.clip.projection_dim != self.unet.cross_attention_dim:
            raise UserError(
                f"clip.projection_dim {self.clip.projection_dim} differs from unet.cross_attention_dim {self.unet.cross_attention_dim}",
                "set both to the same width",
            )

    @property
    def num_targets(self) -> int:
        return len(self.elevations_deg) * self.num_azimuths

    @property
    def num_slots(self) -> int:
        """View vectors: conditions first, then targets (42 in the paper, §4.2)."""
        return self.max_conditions + self.num_targets

    @property
    def latent_size(self) -> int:
        return self.resolution // self.vae.factor

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-able values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Config":
        """The inverse of `to_dict`, also after a JSON round trip. Raises TypeError for unknown names."""
        return _build(cls, values)


def _build(kind: Any, values: dict[str, Any]) -> Any:
    """A (nested) dataclass from plain values; JSON's lists become tuples."""
    nested = {f.name: f.type for f in fields(kind) if is_dataclass(f.type)}
    plain = {}
    for name, value in values.items():
        if name in nested:
            value = _build(nested[name], value)
        plain[name] = tuple(value) if isinstance(value, list) else value
    return kind(**plain)


def paper() -> Config:
    """Full size: SD-2-inpainting layout, SD VAE layout, ViT-H/14 tokens, 512 px. Random weights until folders are given."""
    return Config()


def small() -> Config:
    """For one GPU: 128 px, 16x16 latents, 21 M parameters in the VAE and 70 M in the denoiser."""
    return Config(
        resolution=128,
        vae=VaeConfig(block_out_channels=(64, 128, 256, 256)),
        unet=UnetConfig(
            block_out_channels=(160, 320, 480),
            attention_levels=(True, True, True),
            layers_per_block=1,
            num_heads=(5, 10, 15),
            cross_attention_dim=256,
            view_scale_rate=30.0,
        ),
        clip=ClipConfig(image_size=64, patch_size=8, hidden_size=256, num_layers=6, num_heads=8, mlp_size=1024, projection_dim=256),
        latent_scale=None,
        schedule=ScheduleConfig(zero_terminal_snr=True),
        last_timestep_share=0.1,
    )


def tiny() -> Config:
    """For two CPU cores: 64 px, 8x8 latents, the paper's shape in 0.9 M (VAE) and 4.3 M (denoiser) parameters."""
    return Config(
        resolution=64,
        vae=VaeConfig(block_out_channels=(16, 32, 48, 64), layers_per_block=1, norm_num_groups=8, picture_lanes=True),
        unet=UnetConfig(
            block_out_channels=(64, 128),
            attention_levels=(True, True),
            layers_per_block=1,
            num_heads=(2, 4),
            cross_attention_dim=64,
            norm_num_groups=16,
            view_scale_rate=30.0,
        ),
        clip=ClipConfig(image_size=32, patch_size=8, hidden_size=64, num_layers=2, num_heads=2, mlp_size=128, projection_dim=64),
        latent_scale=None,
        schedule=ScheduleConfig(zero_terminal_snr=True),
        last_timestep_share=0.1,
        vae_views=4,
        # L1 and edges reward grey for as long as stripes finer than a latent cell are out of reach.
        reconstruction="l2",
        foreground_weight=4.0,
        perceptual="none",
        mask_weight=0.3,
        kl_weight=1e-4,
    )


def smoke() -> Config:
    """For tests of the plumbing: `tiny` at 32 px with 4x4 latents and half the width."""
    base = tiny()
    unet = replace(base.unet, block_out_channels=(32, 64), num_heads=(1, 2), norm_num_groups=8)
    vae = replace(base.vae, block_out_channels=(8, 16, 24, 32), picture_lanes=False)
    paper_loss: dict[str, Any] = {"reconstruction": "l1", "foreground_weight": 1.0, "perceptual": "gradient", "mask_weight": 1.0}
    return replace(base, resolution=32, unet=unet, vae=vae, **paper_loss)
