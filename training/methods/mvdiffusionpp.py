"""MVDiffusion++ (arXiv 2402.12712): 1 to 10 unposed pictures -> 32 posed views, by joint diffusion over all views.

The story in order: `mvdiffusionpp_vae` trains the mask-aware VAE, `mvdiffusionpp_encode` turns views into latents and
image tokens, `mvdiffusionpp_unet` trains the denoiser in three stages, `mvdiffusionpp_generate` makes views,
`mvdiffusionpp_pipeline` lets a user of diffusers do so, `mvdiffusionpp_folder` keeps it all in one folder.
Those files are imported when used: naming stages in a plan must not cost the seconds that diffusers takes to load.
"""

from pathlib import Path

from infra.errors import UserError
from training.methods.base import Encoder, Generator, Stage, StageBudget, Trainable
from training.methods.mvdiffusionpp_config import Config as MVDiffusionPPConfig
from training.methods.mvdiffusionpp_config import smoke

VAE_READS = (
    "resolution",
    "vae",
    "latent_scale",
    "vae_views",
    "perceptual",
    "perceptual_weight",
    "mask_weight",
    "kl_weight",
    "reconstruction",
    "foreground_weight",
    "discriminator_start",
    "discriminator_weight",
    "discriminator_width",
    "discriminator_layers",
    "discriminator_norm",
    "learnt_logvar",
)
# `unet` for its cross-attention width, which the tokens must have.
ENCODING_READS = ("resolution", "vae", "clip", "unet", "placeholder_mask", "encode_logvar")

# §5.5: eps first because the pretrained model is eps, then v, then v with several condition views.
STAGES = (
    Stage("mvae", reads=VAE_READS, encoding_reads=ENCODING_READS),
    Stage("unet1", encodes_with="mvae", pictures=False, settings={"prediction": "eps", "sparse": False}),
    Stage("unet2", starts_from="unet1", encodes_with="mvae", pictures=False, settings={"prediction": "v", "sparse": False}),
    Stage("unet3", starts_from="unet2", encodes_with="mvae", pictures=False, settings={"prediction": "v", "sparse": True}),
)


class MVDiffusionPP:
    """The method as the DAG, the loop and the evaluation see it."""

    name: str = "mvdiffusionpp"
    Config: type = MVDiffusionPPConfig
    stages: tuple[Stage, ...] = STAGES

    def smoke(self) -> MVDiffusionPPConfig:
        return smoke()

    def trainable(self, stage: str, config: MVDiffusionPPConfig, weights: dict[str, Path]) -> Trainable:
        """The trainable of a stage. Raises UserError for an unknown stage."""
        from training.methods.mvdiffusionpp_unet import UnetTraining
        from training.methods.mvdiffusionpp_vae import VaeTraining

        found = stage_named(stage)
        return VaeTraining(config) if found.name == "mvae" else UnetTraining(config, found, weights.get("mvae"))

    def budget(self, stage: str, config: MVDiffusionPPConfig, conditions: int) -> StageBudget:
        """What a stage costs, counted from the settings alone."""
        from training.methods.mvdiffusionpp_budget import stage_budget

        return stage_budget(config, stage_named(stage), conditions)

    def activation_bytes(self, stage: str, config: MVDiffusionPPConfig, conditions: int) -> float | None:
        """Bytes kept for one object's backward pass, estimated; None where there is no estimate."""
        from training.methods.mvdiffusionpp_memory import activation_bytes

        return activation_bytes(config, stage_named(stage), conditions)

    def sampling_flops(self, config: MVDiffusionPPConfig, steps: int) -> float:
        """Operations of generating all target views of one object from one condition view."""
        from training.methods.mvdiffusionpp_budget import sampling_flops

        return sampling_flops(config, steps)

    def encoder(self, stage: str, config: MVDiffusionPPConfig, checkpoint: Path, device: str) -> Encoder:
        """Views -> `latents`, `clip_tokens`, `placeholder_latent`, with the VAE in `checkpoint`."""
        from training.methods.mvdiffusionpp_encode import ViewEncoder

        if stage != "mvae":
            raise UserError(f"stage '{stage}' makes no latents", "encode with mvae")
        return ViewEncoder.from_checkpoint(config, checkpoint, device)

    def export(self, config: MVDiffusionPPConfig, checkpoints: dict[str, Path], folder: Path) -> None:
        """One self-contained generator folder from the checkpoints of `mvae` and of the last denoiser stage present."""
        from training.methods.mvdiffusionpp_folder import export

        export(config, checkpoints, Path(folder), [stage for stage in STAGES if "prediction" in stage.settings])

    def load_generator(self, folder: Path, device: str) -> Generator:
        from training.methods.mvdiffusionpp_folder import open_generator

        return open_generator(Path(folder), device)


def stage_named(name: str) -> Stage:
    """Raises UserError for an unknown name."""
    for stage in STAGES:
        if stage.name == name:
            return stage
    raise UserError(f"mvdiffusionpp has no stage '{name}'", f"use one of {', '.join(s.name for s in STAGES)}")
