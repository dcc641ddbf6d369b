"""What decides the pictures of the render step, and the name of a configuration."""

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from typing import Any

from infra.errors import UserError
from rendering.lights import light_identity, pinned_light
from rendering.profiles import DENOISE, DEVICES, PROFILES, Sampling, sampling
from rendering.rigs import RigConfig, RigViews, rig_identity, rig_named
from rendering.view_set import PASSES
from rendering.views import FORMAT_VERSION

# Raise when the same config would give other pictures; pieces of the old version are then left alone.
RENDER_VERSION = 2
# Settings that change no picture.
NO_PICTURE = ("mesh", "max_attempts")


@dataclass(frozen=True, kw_only=True)
class RenderConfig:
    """What decides the pictures.

    Attributes:
        rig: a name in `rendering.rigs.RIGS`, or `file:PATH` of your own, which is replaced by its content.
        num_conditions: condition views beside the rig's targets.
        resolution: width and height in pixels.
        profile: noise against cost: `quality`, `throughput`, `draft`, `eevee` (GPU), `blender_default` or `reference`.
        samples: the same number of samples per pixel for every object; 0 leaves the choice to the profile.
        denoise: `none`, `fast`, `balanced` or `accurate`; empty leaves it to the profile.
        device: `cpu`, `cuda`, `optix`, `hip` or `oneapi`.
        passes: what is kept beside RGBA: any of `depth`, `normal`, `albedo`.
        light: `white` (uniform, a white surface renders 255), `syncdreamer` (uniform grey 0.5), `random` or `hdri:FOLDER`;
            the last two are drawn per object and view set.
        extent: longest side of the normalised object's box.
        transparent_glass: glass over nothing gets alpha below 1 instead of counting as the object.
        frame: animation frame at which objects are frozen.
        mesh: whose normalised triangles are stored: `heldout` (val and test), `all` or `none`.
        seed: of the random cameras and of the sampling noise.
        max_attempts: tries, over all runs, after which a failing object is quarantined: `--retry-failed` leaves it alone.
    """

    rig: str = "mvdiffusionpp"
    num_conditions: int = 10
    resolution: int = 512
    profile: str = "quality"
    samples: int = 0
    denoise: str = ""
    device: str = "cpu"
    passes: tuple[str, ...] = ("depth", "normal")
    light: str = "white"
    extent: float = 1.0
    transparent_glass: bool = False
    frame: int = 1
    mesh: str = "heldout"
    seed: int = 0
    max_attempts: int = 6

    def __post_init__(self) -> None:
        choices = (("profile", PROFILES), ("denoise", ("", *DENOISE)), ("device", DEVICES), ("mesh", ("heldout", "all", "none")))
        for name, allowed in choices:
            if getattr(self, name) not in allowed:
                raise UserError(f"render.{name} is '{getattr(self, name)}'", f"choose one of: {', '.join(filter(None, allowed))}")
        unknown = [name for name in self.passes if name not in PASSES]
        if unknown:
            raise UserError(f"render.passes holds '{unknown[0]}'", f"choose from: {', '.join(PASSES)}")
        if self.sampling.engine == "eevee" and self.device == "cpu":
            raise UserError(f"render.profile '{self.profile}' draws on a GPU", "give render.device, or take the profile throughput")
        if self.samples < 0:
            raise UserError(f"render.samples is {self.samples}", "give a whole number above zero, or 0 for the profile's choice")
        # Workers and fingerprints see what a rig file or a folder of lights holds, not only its name.
        object.__setattr__(self, "rig", rig_identity(self.rig))
        object.__setattr__(self, "light", pinned_light(self.light))
        for name in ("resolution", "max_attempts"):
            if getattr(self, name) < 1:
                raise UserError(f"render.{name} is {getattr(self, name)}", "give a whole number above zero")

    @property
    def sampling(self) -> Sampling:
        return sampling(self.profile, self.samples, self.denoise)

    def described(self) -> dict[str, Any]:
        """Everything that changes pictures, as JSON."""
        settings = dataclasses.asdict(self) | {"light": light_identity(self.light)}
        settings["profile"] = dataclasses.asdict(self.sampling)  # a profile that is tuned gives other pictures
        return {name: value for name, value in settings.items() if name not in NO_PICTURE}

    def digest(self) -> str:
        """Names the cache folder: 12 hex digits of everything that changes pictures."""
        settings = {**self.described(), "version": RENDER_VERSION, "format": FORMAT_VERSION}
        return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]

    def wants_mesh(self, split: str) -> bool:
        return self.mesh == "all" or (self.mesh == "heldout" and split != "train")

    def rig_config(self) -> RigConfig:
        return RigConfig(num_conditions=self.num_conditions, extent=self.extent, seed=self.seed)

    def views_of(self, uid: str) -> RigViews:
        """The cameras of an object."""
        return rig_named(self.rig)(uid, self.rig_config())
