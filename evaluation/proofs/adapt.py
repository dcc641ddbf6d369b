"""Proof 4: a 3-channel VAE, trained on the same views, is imported by the path of published VAEs and learns the mask."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from evaluation.proofs.data import TEST, VAL, ProofData
from evaluation.proofs.fitting import Figures, curves_of, fitted
from evaluation.proofs.rgb_vae import RgbVaeTraining
from evaluation.proofs.setups import Setup
from training.engine import device_here
from training.methods.mvdiffusionpp_config import Config
from training.methods.mvdiffusionpp_vae import VaeTraining

WATCHED = ("psnr", "psnr_foreground", "mask_iou")
VALIDATED, SCORED = 16, 40


def rgba_vae(setup: Setup, data: ProofData, out: Path) -> tuple[Config, Path]:
    """Train both VAEs (or find them trained): the config that starts from the RGB one, and the RGBA weights."""
    rgb = RgbVaeTraining(setup.model)
    start = fitted(rgb, setup.vae_rgb, data, out / "vae_rgb", figures=_watch(rgb, data))
    config = replace(setup.model, vae=replace(setup.model.vae, pretrained=str(start.resolve()), picture_lanes=False))
    training = VaeTraining(config)
    weights = fitted(training, setup.vae, data, out / "vae", figures=_watch(training, data))
    # From here on the weights speak for themselves; a path inside the config would tie them to this machine.
    return replace(config, vae=replace(config.vae, pretrained=None)), weights


def adapt(setup: Setup, data: ProofData, out: Path) -> dict[str, Any]:
    """RGB PSNR before and after the mask was learnt, and the mask's IoU, on test objects that neither VAE saw."""
    rgba_vae(setup, data, out)
    rgb, rgba = RgbVaeTraining(setup.model), VaeTraining(setup.model)
    before_config = replace(setup.model, vae=replace(setup.model.vae, pretrained=str((out / "vae_rgb" / "checkpoint").resolve())))
    imported = VaeTraining(before_config).build()
    trained_rgb = rgb.build()
    trained_rgb.autoencoder.load_state_dict(_autoencoder(out / "vae_rgb" / "checkpoint").state_dict())
    after = rgba.build()
    rgba.load(after, out / "vae" / "checkpoint")
    objects = [data.read(uid) for uid in data.of(TEST)[:SCORED]]
    device = device_here()
    figures = {
        name: {key: value for key, value in training.validate(module.to(device), objects, 0).items() if key in WATCHED}
        for name, training, module in (("rgb", rgb, trained_rgb), ("imported", rgba, imported), ("rgba", rgba, after))
    }
    return {
        "test_objects": len(objects),
        "figures": figures,
        "claims": {
            "the imported VAE gives the RGB VAE's pictures (difference in dB)": {
                "value": abs(figures["imported"]["psnr"] - figures["rgb"]["psnr"]),
                "holds": abs(figures["imported"]["psnr"] - figures["rgb"]["psnr"]) < 0.01,
            },
            "RGB PSNR after adaption is not lower (gain in dB)": {
                "value": figures["rgba"]["psnr"] - figures["rgb"]["psnr"],
                "holds": figures["rgba"]["psnr"] >= figures["rgb"]["psnr"],
            },
            "mask IoU is at least 0.97": {"value": figures["rgba"]["mask_iou"], "holds": figures["rgba"]["mask_iou"] >= 0.97},
        },
        "curves": {"vae_rgb": curves_of(out / "vae_rgb"), "vae": curves_of(out / "vae")},
    }


def _autoencoder(folder: Path) -> Any:
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    return AutoencoderKL.from_pretrained(folder / "vae", local_files_only=True)


def _watch(training: VaeTraining, data: ProofData) -> Figures:
    objects = [data.read(uid) for uid in data.of(VAL)[:VALIDATED]]

    def figures(module: nn.Module) -> dict[str, float]:
        return {name: value for name, value in training.validate(module, objects, 0).items() if name in WATCHED}

    return figures
