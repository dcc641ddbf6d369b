"""MVDiffusion++ as a diffusers pipeline: a user's pictures in, 32 views with cameras out; and the folder it is kept in.

The folder has diffusers' layout. Its `pipeline.py` is a door to this file, so that `DiffusionPipeline.from_pretrained(folder,
trust_remote_code=True)` finds the class; `MVDiffusionPPPipeline.from_pretrained(folder)` runs nothing that lies in the folder.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.embeddings import TimestepEmbedding
from diffusers.models.modeling_utils import ModelMixin
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from diffusers.utils import BaseOutput
from PIL import Image
from torch import nn
from transformers import CLIPVisionModelWithProjection

from infra.errors import UserError
from rendering.cameras import Camera
from rendering.view_set import ViewSet
from training.batch import resized
from training.diffusion.sampling import USUAL_STEPS
from training.diffusion.schedule import ScheduleConfig
from training.methods.mvdiffusionpp_config import Config
from training.methods.mvdiffusionpp_encode import VIEWS_AT_ONCE, ViewEncoder
from training.methods.mvdiffusionpp_generate import ViewGenerator, canonical_views
from training.nn.conditioning import ImageTokens
from training.nn.unet import MultiViewUNet
from training.nn.vae import MaskAwareVAE
from training.photo import FOREGROUND_SHARE, cut_out, framed

FORMAT_VERSION = 2
SETTINGS = "mvforge.json"
PREDICTIONS = {"epsilon": "eps", "v_prediction": "v"}
DOOR = '''"""What diffusers runs when this folder is opened with trust_remote_code=True: the class of the mvforge that is installed."""

try:
    from training.methods.mvdiffusionpp_pipeline import MVDiffusionPPPipeline
except ImportError as error:
    raise ImportError("this model needs mvforge: install it, or put its source folder on PYTHONPATH") from error

__all__ = ["MVDiffusionPPPipeline"]
'''

Pictures = list[Image.Image]


class ViewEmbedding(ModelMixin, ConfigMixin):  # type: ignore[misc]  # as all models of diffusers
    """What the denoiser has beside diffusers' own U-Net: the view vectors, their MLP and scale (§4.2), as a folder of its own."""

    @register_to_config
    def __init__(self, num_slots: int, width: int) -> None:
        super().__init__()
        self.view_vectors = nn.Parameter(torch.zeros(num_slots, width))
        self.view_mlp = TimestepEmbedding(width, width * 4)
        self.view_scale = nn.Parameter(torch.zeros(1))


@dataclass
class MVDiffusionPPOutput(BaseOutput):
    """Views of one object, or of several as lists.

    Attributes:
        images: RGBA pictures; a list of such lists when several objects were asked for; uint8 arrays `[V, H, W, 4]` instead of
            the innermost lists with `output_type="np"`.
        cameras: `[V]` cameras (OpenCV camera-to-world, intrinsics), the same for all objects: azimuth 0 is the first picture's.
        azimuth_deg, elevation_deg: float64 `[V]`.
        view_sets: the same as `rendering.view_set.ViewSet`s, one an object, for our exporters.
    """

    images: list[Any]
    cameras: Camera
    azimuth_deg: np.ndarray
    elevation_deg: np.ndarray
    view_sets: list[ViewSet]


class MVDiffusionPPPipeline(DiffusionPipeline):
    """1 to 10 pictures of an object -> RGBA views from all sides, with cameras."""

    unet: UNet2DConditionModel
    view_embedding: ViewEmbedding
    vae: AutoencoderKL
    image_encoder: CLIPVisionModelWithProjection
    scheduler: Any

    def __init__(
        self,
        unet: UNet2DConditionModel,
        view_embedding: ViewEmbedding,
        vae: AutoencoderKL,
        image_encoder: CLIPVisionModelWithProjection,
        scheduler: SchedulerMixin,
        model: dict[str, Any] | None = None,
        stage: str = "",
    ) -> None:
        """`scheduler` holds noise levels and prediction type; how to walk them is `sampler` of a call.

        Args:
            model: `Config.to_dict()`.
            stage: name of the training stage the denoiser comes from.
        """
        super().__init__()
        if model is None:
            raise UserError("the folder lacks the model's settings", "give a folder that mvforge's register step wrote")
        self.register_modules(unet=unet, view_embedding=view_embedding, vae=vae, image_encoder=image_encoder, scheduler=scheduler)
        self.register_to_config(model=model, stage=stage)
        self._generators: dict[Any, ViewGenerator] = {}

    @classmethod
    def load_config(cls, *args: Any, **kwargs: Any) -> Any:
        """Leaves out the folder's `pipeline.py`: who names this class needs no door to it, and runs no code of the folder."""
        loaded = super().load_config(*args, **kwargs)
        return loaded | {"_class_name": cls.__name__} if isinstance(loaded, dict) else loaded

    def save_pretrained(self, save_directory: str | Path, *args: Any, **kwargs: Any) -> None:  # type: ignore[override]
        """Everything in diffusers' layout, `pipeline.py` and `mvforge.json` beside it. Raises UserError for `push_to_hub`."""
        if kwargs.get("push_to_hub"):
            raise UserError("push_to_hub would upload the folder before it is complete", "save it, then upload the folder")
        super().save_pretrained(save_directory, *args, **kwargs)
        folder = Path(save_directory)
        index = json.loads((folder / self.config_name).read_text()) | {"_class_name": ["pipeline", type(self).__name__]}
        (folder / self.config_name).write_text(json.dumps(index, indent=2, sort_keys=True) + "\n")
        (folder / "pipeline.py").write_text(DOOR)
        facts = {"format": FORMAT_VERSION, "method": "mvdiffusionpp", "stage": self.config["stage"]}
        (folder / SETTINGS).write_text(json.dumps(facts, indent=2, sort_keys=True) + "\n")

    def view_generator(self) -> ViewGenerator:
        """The sampler around the pipeline's own networks, where and in what precision they are now."""
        # Its forward is never called, so diffusers' offloading does not see it.
        nn.Module.to(self.view_embedding, self._execution_device, self.unet.dtype)
        networks = (self.unet, self.view_embedding, self.vae, self.image_encoder)
        key = (str(self._execution_device), id(self.scheduler), *((id(part), part.dtype) for part in networks))
        if key not in self._generators:
            config = Config.from_dict(self.config["model"])
            vae = MaskAwareVAE.stored(self.vae)
            encoder = ViewEncoder(config, vae, ImageTokens(self.image_encoder, config.clip.tokens), str(self._execution_device))
            prediction, schedule = _noise_levels(self.scheduler.config)
            unet = _joined(self.unet, self.view_embedding, config)
            self._generators = {key: ViewGenerator(config, encoder, unet, prediction, schedule)}
        return self._generators[key]

    def __call__(
        self,
        image: Image.Image | Pictures | list[Pictures],
        mask: Any = None,
        *,
        num_inference_steps: int | None = None,
        sampler: str = "ddpm",
        guidance_scale: float = 1.0,
        generator: int | torch.Generator | list[int] | list[torch.Generator] | None = None,
        views: Iterable[int] | None = None,
        preprocess: str = "photo",
        foreground_share: float = FOREGROUND_SHARE,
        output_type: str = "pil",
        decode_chunk_size: int = VIEWS_AT_ONCE,
    ) -> MVDiffusionPPOutput:
        """Views of the object on the pictures; of several objects, one after the other, when `image` is a list of lists.

        Args:
            image: 1 to 10 pictures of one object, the first is where azimuth 0 will be. Objects are cut out by the pictures'
                alpha, or by `mask`.
            mask: a picture for each picture (or None), white on the object; takes the place of alpha.
            num_inference_steps: 75 with `ddpm`, 25 with the others by default.
            sampler: `ddpm` as in the paper (§6), `ddim` or `dpm++`.
            guidance_scale: of classifier-free guidance; 1, the default, is off and takes half the time.
            generator: a seed or a `torch.Generator` for each object, or one seed for all. An object's views depend on its pictures
                and its seed only, never on the objects beside it.
            views: canonical indices 8 e + a to make (elevations -30, 0, 30, 60; azimuths 45 a); all 32 by default. They are made
                jointly, so fewer views see each other less.
            preprocess: `photo` centres the object on a square canvas, its longest side `foreground_share` of it, as for pictures
                of unknown origin; `none` takes square pictures as they are, for example renders.
            output_type: `pil` or `np`.
            decode_chunk_size: views that pass the VAE's decoder together; lower takes less memory.

        Raises:
            UserError: wrong number, kind or mode of pictures, no mask, an empty one, or unknown options.
        """
        if output_type not in ("pil", "np"):
            raise UserError(f"output_type is '{output_type}'", "use pil or np")
        if preprocess not in ("photo", "none"):
            raise UserError(f"preprocess is '{preprocess}'", "use photo or none")
        objects, many = _objects(image)
        masks, _ = _objects(mask) if mask is not None else ([[None] * len(pictures) for pictures in objects], many)
        if [len(pictures) for pictures in objects] != [len(given) for given in masks]:
            raise UserError("there are not as many masks as pictures", "give one mask, or None, for each picture in the same lists")
        generators = _generators(generator, len(objects))
        core = self.view_generator()
        wanted = core.wanted(views)
        # All pictures are looked at before the first object is sampled: a mistake in the last costs no time.
        share = foreground_share if preprocess == "photo" else None
        conditions = [self._conditions(core.config, *pair, share) for pair in zip(objects, masks, strict=True)]
        steps = USUAL_STEPS.get(sampler, 1) if num_inference_steps is None else num_inference_steps
        results = []
        with self.progress_bar(total=steps * len(objects)) as bar:
            for rgba, noise in zip(conditions, generators, strict=True):
                made = core.sample(rgba, noise, steps, sampler, guidance_scale, wanted, lambda done, total: bar.update(), decode_chunk_size)
                results.append(made)
        facts = {"sampler": sampler, "steps": steps, "guidance": guidance_scale, "preprocess": preprocess}
        sets = [
            canonical_views(core.config, f"object-{n:03d}", rgba, wanted, facts | {"num_conditions": len(conditions[n])})
            for n, rgba in enumerate(results)
        ]
        images: list[Any] = [[Image.fromarray(view, "RGBA") for view in rgba] if output_type == "pil" else rgba for rgba in results]
        first = sets[0]
        return MVDiffusionPPOutput(
            images=images if many else images[0],
            cameras=first.camera,
            azimuth_deg=first.azimuth_deg,
            elevation_deg=first.elevation_deg,
            view_sets=sets,
        )

    @staticmethod
    def _conditions(config: Config, pictures: Pictures, masks: list[Any], share: float | None) -> np.ndarray:
        """uint8 `[K, size, size, 4]`; `share` None takes the pictures as they are."""
        if not 1 <= len(pictures) <= config.max_conditions:
            raise UserError(f"{len(pictures)} pictures given for one object", f"give 1 to {config.max_conditions} pictures of it")
        cut = [cut_out(picture, given, needs_mask=share is not None) for picture, given in zip(pictures, masks, strict=True)]
        if share is not None:
            return np.stack([framed(rgba, config.resolution, share) for rgba in cut])
        if uneven := [rgba.shape[:2] for rgba in cut if rgba.shape[0] != rgba.shape[1]]:
            height, width = uneven[0]
            raise UserError(f"a picture is {width}x{height} pixels, not square", "give square pictures, or use preprocess='photo'")
        return np.concatenate([resized(rgba[None], config.resolution) for rgba in cut])


def _joined(unet: UNet2DConditionModel, embedding: ViewEmbedding, config: Config) -> MultiViewUNet:
    """The denoiser around the two components, sharing their weights."""
    with torch.random.fork_rng(devices=[]):
        module = MultiViewUNet.configured(unet, config.unet, config.num_slots)
    module.view_vectors, module.view_mlp, module.view_scale = embedding.view_vectors, embedding.view_mlp, embedding.view_scale
    if module.caa is not None:
        raise UserError("views of objects have no correspondences to attend by", "generate with cross_view global or ring")
    return module


def _noise_levels(scheduler: Any) -> tuple[str, ScheduleConfig]:
    """Prediction type and schedule that a diffusers scheduler's config describes."""
    schedule = ScheduleConfig(
        scheduler["beta_schedule"],
        scheduler["beta_start"],
        scheduler["beta_end"],
        scheduler["num_train_timesteps"],
        scheduler["rescale_betas_zero_snr"],
    )
    return PREDICTIONS[scheduler["prediction_type"]], schedule


def _objects(image: Any) -> tuple[list[list[Any]], bool]:
    """Pictures by object, and whether several objects were meant."""
    if not isinstance(image, list | tuple):
        return [[image]], False
    if image and all(isinstance(item, list | tuple) for item in image):
        return [list(item) for item in image], True
    return [list(image)], False


def _generators(given: Any, count: int) -> list[torch.Generator]:
    """One for each object; None draws seeds from torch's global generator."""
    if given is None:
        given = torch.randint(2**62, (count,)).tolist()
    if isinstance(given, int):
        given = [given] * count
    if isinstance(given, torch.Generator):
        given = [given]
    if len(given) != count:
        raise UserError(f"{len(given)} generators for {count} objects", "give one for each object, or one seed for all")
    return [noise if isinstance(noise, torch.Generator) else torch.Generator().manual_seed(noise) for noise in given]
