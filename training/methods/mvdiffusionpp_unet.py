"""Stages `unet1`, `unet2`, `unet3` of MVDiffusion++: train the multi-view denoiser (§4.2, §4.3, §5.5)."""

import json
from collections import Counter
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from infra.errors import UserError
from infra.seeds import rng_for
from rendering.view_set import ViewSet
from training.batch import signed_rgba, to_device
from training.diffusion.objective import noised, target_of
from training.diffusion.schedule import NoiseSchedule, ScheduleConfig
from training.flops import train_flops
from training.methods.base import Arrays, Preview, Stage, TrainObject
from training.methods.mvdiffusionpp_config import Config
from training.methods.mvdiffusionpp_preview import Shown, preview_samples
from training.methods.mvdiffusionpp_vae import open_vae
from training.methods.mvdiffusionpp_views import choose_views, condition_views
from training.nn.pretrained import load_inpainting_unet
from training.nn.unet import MultiViewUNet, empty_unet

TIMESTEP_BUCKETS = 4


class UnetTraining:
    """Trainable of the three denoiser stages; they differ in `prediction` and in how many condition views they see."""

    def __init__(self, config: Config, stage: Stage, vae_folder: Path | None = None) -> None:
        """`vae_folder`: checkpoint of `mvae`, which only previews need."""
        self.config, self.vae_folder = config, vae_folder
        self.stage = stage
        self.prediction: str = stage.settings["prediction"]
        self.sparse: bool = stage.settings["sparse"]
        self.schedule = NoiseSchedule(stage_schedule(config, stage))

    def build(self) -> MultiViewUNet:
        """The denoiser: pretrained inpainting weights (§5.5) or random; view vectors and their MLP are always new."""
        config = self.config
        if config.unet.pretrained:
            unet = load_inpainting_unet(config.unet.pretrained, config.unet.mask_polarity)
        else:
            unet = empty_unet(config.unet, config.vae.latent_channels, config.latent_size)
        return MultiViewUNet.configured(unet, config.unet, config.num_slots)

    def load(self, module: nn.Module, folder: Path) -> None:
        load_unet(cast(MultiViewUNet, module), folder)

    def save(self, module: nn.Module, folder: Path) -> None:
        """`unet/` in diffusers layout, `view_embedding.safetensors`, `unet.json`."""
        facts = {"stage": self.stage.name, "prediction": self.prediction, "config": self.config.to_dict()}
        save_unet(cast(MultiViewUNet, module), folder, facts)

    def example(self, obj: TrainObject, rng: np.random.Generator) -> dict[str, Any]:
        """One object at one noise level: few conditions, `keep_views` targets, and their noise (§4.3, §5.5)."""
        most = min(len(condition_views(obj.views)), self.config.max_conditions)
        count = int(rng.integers(2, most + 1)) if self.sparse and most > 1 and rng.random() < self.config.sparse_share else 1
        timestep = int(rng.integers(self.config.schedule.timesteps))
        if self.prediction == "v" and rng.random() < self.config.last_timestep_share:
            timestep = self.config.schedule.timesteps - 1
        return self._example(obj, rng, count, timestep, dropped=rng.random() < self.config.condition_drop, resampled=True)

    def _example(
        self, obj: TrainObject, rng: np.random.Generator, count: int, timestep: int, dropped: bool, resampled: bool = False
    ) -> dict[str, Any]:
        """`resampled`: clean latents are drawn from their posteriors, where `encode_logvar` kept them."""
        if obj.arrays is None:
            raise UserError(f"object {obj.views.uid} comes without latents", "run the encode step before the denoiser stages")
        available = condition_views(obj.views)
        chosen = choose_views(obj.views, self.config, count, rng)
        latents = obj.arrays["latents"]
        tokens = obj.arrays["clip_tokens"][np.searchsorted(available, chosen.conditions)].astype(np.float32)
        tokens = tokens.reshape(-1, tokens.shape[-1])  # a condition view may have many
        placeholder = obj.arrays["placeholder_latent"].astype(np.float32)
        given = latents[chosen.conditions].astype(np.float32)
        wanted = latents[chosen.targets].astype(np.float32)
        blank = np.broadcast_to(placeholder, wanted.shape)
        clean = np.concatenate([given, wanted])
        noise = rng.standard_normal(clean.shape, dtype=np.float32)
        if resampled and "latent_logvar" in obj.arrays:
            logvar = obj.arrays["latent_logvar"][np.concatenate([chosen.conditions, chosen.targets])].astype(np.float32)
            clean = clean + np.exp(0.5 * logvar) * rng.standard_normal(clean.shape, dtype=np.float32)
        return {
            "uid": obj.views.uid,
            "timestep": timestep,
            "conditions": len(chosen.conditions),
            "latents": clean,
            "noise": noise,
            "condition_latents": np.concatenate([np.broadcast_to(placeholder, given.shape) if dropped else given, blank]),
            "slots": np.concatenate([chosen.condition_slots, chosen.target_slots]),
            "image_tokens": np.zeros_like(tokens) if dropped else tokens,
        }

    def collate(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        """Stack objects; those with fewer conditions are padded in front, and `valid` says so (absent when none is).

        Tensors: `latents`, `noise`, `condition_latents` `[B, V, C, h, w]`; `slots`, `is_condition` `[B, V]`; `timesteps`
        `[B]`; `image_tokens` `[B, K, D]`; `valid` `[B, V]` and `token_valid` `[B, K]`.
        """
        counts = [e["conditions"] for e in examples]
        most, kept = max(counts), len(examples[0]["slots"]) - counts[0]
        per_condition = len(examples[0]["image_tokens"]) // counts[0]
        rows = dict.fromkeys(("latents", "noise", "condition_latents", "slots"), 1) | {"image_tokens": per_condition}
        batch: dict[str, Any] = {
            name: torch.from_numpy(np.stack([_padded(e[name], (most - n) * each) for e, n in zip(examples, counts, strict=True)]))
            for name, each in rows.items()
        }
        batch["levels"] = [e["timestep"] for e in examples]
        batch["timesteps"] = torch.tensor(batch["levels"])
        batch["is_condition"] = (torch.arange(most + kept) < most).expand(len(examples), -1).clone()
        if min(counts) < most:
            given = torch.arange(most) >= most - torch.tensor(counts)[:, None]
            batch["token_valid"] = given.repeat_interleave(per_condition, 1)
            batch["valid"] = torch.cat([given, torch.ones(len(examples), kept, dtype=torch.bool)], 1)
        batch["uid"] = [e["uid"] for e in examples]
        return batch

    def loss(
        self, module: nn.Module, batch: dict[str, Any], generator: torch.Generator, step: int
    ) -> tuple[Tensor, dict[str, float | Tensor]]:
        """Mean square error over all views (§4.2 eq. 1). Noise and timesteps came with the examples, so that the loss of an
        object depends neither on its batch nor on the number of workers; `generator` is not needed."""
        batch = to_device(batch, next(module.parameters()).device)
        error, _ = self.view_errors(module, batch)
        weight = torch.where(batch["is_condition"], self.config.condition_loss_weight, 1.0) * _valid(batch)
        loss = (error * weight).sum() / weight.sum()
        generation = _mean(error.detach(), ~batch["is_condition"])
        condition = _mean(error.detach(), batch["is_condition"] & _valid(batch))
        per_object = (error.detach() * weight).sum(1) / weight.sum(1)
        return loss, {"loss_generation": generation, "loss_condition": condition, **self._by_timestep(per_object, batch["levels"])}

    def _by_timestep(self, per_object: Tensor, levels: list[int]) -> dict[str, float | Tensor]:
        """Mean loss of the objects whose timestep lies in each quarter of the schedule, such as `loss_t0000_0250`; quarters
        without an object are left out. `levels` are the timesteps as plain numbers: no wait for the device."""
        step = -(-self.config.schedule.timesteps // TIMESTEP_BUCKETS)
        members: dict[int, list[int]] = {}
        for index, level in enumerate(levels):
            members.setdefault(level // step, []).append(index)
        return {f"loss_t{k * step:04d}_{(k + 1) * step:04d}": per_object[rows].mean() for k, rows in sorted(members.items())}

    def view_errors(self, module: nn.Module, batch: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """Mean square error per view `[B, V]`, and that of predicting zero."""
        alpha, sigma = self.schedule.levels(batch["timesteps"], 5)
        target = target_of(self.prediction, batch["latents"], batch["noise"], alpha, sigma)
        prediction = self.predict(module, batch, noised(batch["latents"], batch["noise"], alpha, sigma), batch["timesteps"])
        return (prediction - target).square().mean((2, 3, 4)), target.square().mean((2, 3, 4))

    def predict(self, module: nn.Module, batch: dict[str, Any], noisy: Tensor, timesteps: Tensor) -> Tensor:
        """The network's answer to `noisy` `[B, V, C, h, w]` under the batch's conditions."""
        return module(
            noisy,
            batch["condition_latents"],
            batch["is_condition"],
            timesteps,
            batch["slots"],
            batch["image_tokens"],
            batch.get("token_valid"),
            batch.get("valid"),
        )

    @torch.no_grad()
    def validate(self, module: nn.Module, objects: list[TrainObject], seed: int) -> dict[str, float]:
        """Held-out loss at fixed noise levels with fixed noise, relative to predicting zero (which scores 1).

        `loss` weighs views as in training; `loss_generation`, `loss_condition`, and `loss_t0000`-like entries per noise
        level. Sparse stages also see each object with all its conditions.
        """
        device = next(module.parameters()).device
        rows: list[tuple[int, Tensor, Tensor, Tensor]] = []
        for obj in objects:
            available = min(len(condition_views(obj.views)), self.config.max_conditions)
            for count in [1, available] if self.sparse and available > 1 else [1]:
                batch = to_device(self._validation_batch(obj, count, seed), device)
                error, zero = self.view_errors(module, batch)
                rows += zip(batch["timesteps"].tolist(), error.cpu(), zero.cpu(), batch["is_condition"].cpu(), strict=True)
        weights = [torch.where(given, self.config.condition_loss_weight, 1.0) for _, _, _, given in rows]
        figures = {
            "loss": _ratio(rows, weights),
            "loss_generation": _ratio(rows, [(~row[3]).float() for row in rows]),
            "loss_condition": _ratio(rows, [row[3].float() for row in rows]),
        }
        for timestep in sorted({row[0] for row in rows}):
            figures[f"loss_t{timestep:04d}"] = _ratio(rows, [w * (row[0] == timestep) for w, row in zip(weights, rows, strict=True)])
        return figures

    def cost(self, batch: dict[str, Any]) -> dict[str, float]:
        """Operations of training on this micro-batch, counted from sizes (`training.flops`), and latent cells as tokens."""
        config = self.config
        counts = (batch["valid"] if "valid" in batch else torch.ones_like(batch["slots"])).sum(1).tolist()
        sizes = (config.latent_size, config.vae.latent_channels, batch["image_tokens"].shape[1])
        flops = sum(times * train_flops(config.unet, [views], *sizes) for views, times in Counter(counts).items())
        return {"flops": flops, "tokens": float(sum(counts) * config.latent_size**2)}

    def preview(self, module: nn.Module, objects: list[TrainObject], seed: int) -> Preview:
        """Joint samples from one condition each, beside the truth. Raises UserError without a VAE to decode with."""
        if self.vae_folder is None:
            raise UserError(f"sample grids of {self.stage.name} need the checkpoint of mvae", "give it, or set sample_every to 0")
        device = next(module.parameters()).device
        vae = open_vae(self.vae_folder).to(device)
        shown = [self._shown(obj, seed, device) for obj in objects]
        return preview_samples(partial(self.predict, module), vae, shown, self.prediction, self.schedule)

    def _shown(self, obj: TrainObject, seed: int, device: torch.device) -> Shown:
        key = (seed, obj.views.uid, "preview")
        chosen = choose_views(obj.views, self.config, 1, rng_for(*key))
        batch = self.collate([self._example(obj, rng_for(*key), 1, self.config.schedule.timesteps - 1, dropped=False)])
        pictures = torch.from_numpy(signed_rgba(obj.views.rgba[np.concatenate([chosen.conditions, chosen.targets])])).to(device)
        return Shown(to_device(batch, device), pictures[:1], pictures[1:])

    def synthetic(self, views: ViewSet, rng: np.random.Generator) -> Arrays:
        """Random arrays as `ViewEncoder` would make of `views`."""
        config = self.config
        shape = (config.vae.latent_channels, config.latent_size, config.latent_size)
        tokens = () if config.clip.tokens == "pooled" else (config.clip.tokens_per_picture,)
        arrays = {
            "latents": rng.standard_normal((len(views), *shape)),
            "clip_tokens": rng.standard_normal((len(condition_views(views)), *tokens, config.unet.cross_attention_dim)),
            "placeholder_latent": rng.standard_normal(shape),
        }
        if config.encode_logvar:
            arrays["latent_logvar"] = rng.standard_normal(arrays["latents"].shape)
        return {name: array.astype(np.float16) for name, array in arrays.items()}

    def _validation_batch(self, obj: TrainObject, count: int, seed: int) -> dict[str, Any]:
        levels = (np.arange(self.config.validation_timesteps) + 0.5) / self.config.validation_timesteps
        timesteps = (levels * self.config.schedule.timesteps).astype(int)
        return self.collate(
            [self._example(obj, rng_for(seed, obj.views.uid, "validation", count, int(t)), count, int(t), dropped=False) for t in timesteps]
        )


def stage_schedule(config: Config, stage: Stage) -> ScheduleConfig:
    """Noise levels of a stage: eps stages never reach zero SNR, where eps says nothing about the picture."""
    if stage.settings["prediction"] == "v":
        return config.schedule
    kind = "scaled_linear" if config.native_schedule_stage1 else config.schedule.kind
    return replace(config.schedule, kind=kind, zero_terminal_snr=False)


def save_unet(module: MultiViewUNet, folder: Path, facts: dict[str, Any]) -> None:
    """Write a denoiser: everything of diffusers' own in `unet/`, the rest beside it."""
    module.unet.save_pretrained(Path(folder) / "unet")
    own = {k: v.detach().cpu().contiguous() for k, v in module.state_dict().items() if not k.startswith("unet.")}
    save_file(own, Path(folder) / "view_embedding.safetensors")
    (Path(folder) / "unet.json").write_text(json.dumps(facts, indent=2, sort_keys=True) + "\n")


def load_unet(module: MultiViewUNet, folder: Path) -> None:
    """Fill `module` from `save_unet`. Raises UserError when the folder holds none, RuntimeError when shapes differ."""
    if not (Path(folder) / "unet.json").is_file():
        raise UserError(f"{folder} is not a checkpoint of a denoiser stage", "give the folder that train.unet* wrote")
    module.unet.load_state_dict(UNet2DConditionModel.from_pretrained(Path(folder) / "unet", local_files_only=True).state_dict())
    own = load_file(Path(folder) / "view_embedding.safetensors")
    module.load_state_dict({**module.state_dict(), **own})


def _padded(array: np.ndarray, rows: int) -> np.ndarray:
    """`rows` zero rows in front: conditions come first, so targets stay aligned at the end."""
    return np.concatenate([np.zeros((rows, *array.shape[1:]), array.dtype), array]) if rows else np.ascontiguousarray(array)


def _valid(batch: dict[str, Any]) -> Tensor:
    return batch["valid"] if "valid" in batch else torch.ones_like(batch["is_condition"])


def _mean(values: Tensor, keep: Tensor) -> Tensor:
    return (values * keep).sum() / keep.sum().clamp(min=1)


def _ratio(rows: list[tuple[int, Tensor, Tensor, Tensor]], weights: list[Tensor]) -> float:
    """Weighted squared error over weighted squared target."""
    error = sum(float((row[1] * w).sum()) for row, w in zip(rows, weights, strict=True))
    zero = sum(float((row[2] * w).sum()) for row, w in zip(rows, weights, strict=True))
    return error / max(zero, 1e-12)
