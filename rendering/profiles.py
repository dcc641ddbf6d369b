"""How much is spent on a pixel: the named settings of the path tracer and the denoiser.

Measured costs and qualities of each: docs/rendering.md, by `mvforge bench render`.
"""

from dataclasses import asdict, dataclass, replace
from typing import Any

# OpenImageDenoise (quality, prefilter). "accurate" is Blender's default; it costs as much as many further samples.
DENOISE: dict[str, tuple[str, str] | None] = {
    "none": None,
    "fast": ("FAST", "FAST"),
    "balanced": ("BALANCED", "FAST"),
    "accurate": ("HIGH", "ACCURATE"),
}
DEVICES = ("cpu", "cuda", "optix", "hip", "oneapi")


@dataclass(frozen=True)
class Sampling:
    """Settings that decide noise and cost, nothing else.

    Attributes:
        samples: samples per pixel; with `target_db` the most that an object gets.
        least: samples of the noise probe, and the fewest that an object gets.
        target_db: foreground PSNR aimed at, per object, against a converged picture; 0 gives every object `samples`.
        denoise: a key of `DENOISE`.
        denoise_guides: passes that guide the denoiser: `RGB_ALBEDO` or `RGB_ALBEDO_NORMAL`.
        bounces: most bounces in all, diffuse, glossy, transmission, and through transparent surfaces.
        adaptive: noise threshold of Cycles' per-pixel adaptive sampling; 0 = off.
        crop: trace and denoise only the box that the object projects to.
        engine: `cycles` or `eevee` (rasterised; needs a GPU).
    """

    samples: int
    least: int = 8
    target_db: float = 0.0
    denoise: str = "balanced"
    denoise_guides: str = "RGB_ALBEDO"
    bounces: tuple[int, int, int, int, int] = (8, 4, 8, 8, 16)
    adaptive: float = 0.0
    crop: bool = True
    engine: str = "cycles"

    def message(self) -> dict[str, Any]:
        """What the Blender child is told."""
        return {**asdict(self), "denoise": DENOISE[self.denoise]}


PROFILES: dict[str, Sampling] = {
    "quality": Sampling(samples=128, least=16, target_db=38.5),
    "throughput": Sampling(samples=64, least=8, target_db=35.3),
    "draft": Sampling(samples=4, denoise="fast"),
    "eevee": Sampling(samples=64, denoise="none", engine="eevee"),
    # What the others are measured against: Blender's own defaults, and a picture without visible noise or shortcuts.
    "blender_default": Sampling(128, 0, 0.0, "accurate", "RGB_ALBEDO_NORMAL", (12, 4, 4, 12, 8), adaptive=0.01, crop=False),
    "reference": Sampling(1024, 0, 0.0, "none", "RGB_ALBEDO_NORMAL", (12, 12, 12, 12, 12)),
}

_START = Sampling(16, 0, 0.0, "balanced", "RGB_ALBEDO_NORMAL", (4, 2, 4, 4, 8), crop=False)
_BOX = replace(_START, crop=True)
_NOW = Sampling(16)
# The way to the profiles above, and what was tried and left; for `mvforge bench render --profiles steps`.
STEPS: dict[str, Sampling] = {
    "16_samples": _START,
    "+box": _BOX,
    "+albedo_guide": replace(_BOX, denoise_guides="RGB_ALBEDO"),
    "+8_bounces": _NOW,
    "1_bounce": replace(_NOW, bounces=(1, 1, 1, 1, 8)),
    "no_denoiser": replace(_NOW, denoise="none"),
    "fast_denoiser": replace(_NOW, denoise="fast"),
    "high_accurate": replace(_NOW, denoise="accurate"),
    "32_samples": replace(_NOW, samples=32),
    "64_adaptive_0.1": replace(_NOW, samples=64, adaptive=0.1),
}


def sampling(profile: str, samples: int = 0, denoise: str = "") -> Sampling:
    """A profile, with a fixed number of samples for every object or another denoiser where given."""
    chosen = PROFILES[profile]
    if samples:
        chosen = replace(chosen, samples=samples, target_db=0.0)
    return replace(chosen, denoise=denoise) if denoise else chosen
