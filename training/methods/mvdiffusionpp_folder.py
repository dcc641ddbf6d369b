"""The generator folder of MVDiffusion++: from the stages' checkpoints to a diffusers folder, and from that to a generator."""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.utils import logging as diffusers_logging
from transformers.utils import logging as transformers_logging

from infra.errors import UserError
from training.diffusion.sampling import make_scheduler
from training.methods.base import Stage
from training.methods.mvdiffusionpp_config import Config
from training.methods.mvdiffusionpp_generate import ViewGenerator
from training.methods.mvdiffusionpp_pipeline import FORMAT_VERSION, SETTINGS, MVDiffusionPPPipeline, ViewEmbedding
from training.methods.mvdiffusionpp_unet import load_unet, stage_schedule
from training.methods.mvdiffusionpp_vae import open_vae
from training.nn.conditioning import image_encoder
from training.nn.unet import MultiViewUNet


def export(config: Config, checkpoints: dict[str, Path], folder: Path, denoiser_stages: list[Stage]) -> None:
    """Write the pipeline of the last trained stage of `denoiser_stages`.

    Raises:
        UserError: no checkpoint of `mvae`, or of any denoiser stage.
    """
    trained = [stage for stage in denoiser_stages if stage.name in checkpoints]
    if not trained or "mvae" not in checkpoints:
        given = ", ".join(checkpoints) or "none"
        raise UserError(f"a generator needs mvae and a denoiser stage; given: {given}", "train the missing stage")
    stage = trained[-1]
    vae = open_vae(checkpoints["mvae"])
    vae.note_constants()
    unet = UNet2DConditionModel.from_pretrained(checkpoints[stage.name] / "unet", local_files_only=True)
    module = MultiViewUNet.configured(unet, config.unet, config.num_slots)
    load_unet(module, checkpoints[stage.name])
    embedding = ViewEmbedding(*module.view_vectors.shape)
    embedding.load_state_dict({name: value for name, value in module.state_dict().items() if not name.startswith("unet.")})
    scheduler = make_scheduler("ddpm", stage_schedule(config, stage), stage.settings["prediction"])
    parts = (unet, embedding, vae.autoencoder, image_encoder(config.clip), scheduler)
    MVDiffusionPPPipeline(*parts, model=config.to_dict(), stage=stage.name).save_pretrained(folder)


def open_generator(folder: Path, device: str) -> ViewGenerator:
    """The sampler of a folder that `export` wrote. Raises UserError when it is not one of this format."""
    settings = json.loads((folder / SETTINGS).read_text())
    if (found := settings.get("format")) != FORMAT_VERSION:
        mend = "export it again with this version (mvforge run RECIPE --rerun register), or open it with the version that wrote it"
        raise UserError(f"{folder} has generator format {found}, this version reads {FORMAT_VERSION}", mend)
    with _without_bars():
        pipeline = MVDiffusionPPPipeline.from_pretrained(folder, local_files_only=True)
    return pipeline.to(device).view_generator()


@contextlib.contextmanager
def _without_bars() -> Iterator[None]:
    """Both libraries draw a bar for every folder they open, which says nothing in a worker's log."""
    shown = [library for library in (diffusers_logging, transformers_logging) if library.is_progress_bar_enabled()]
    for library in shown:
        library.disable_progress_bar()
    try:
        yield
    finally:
        for library in shown:
            library.enable_progress_bar()
