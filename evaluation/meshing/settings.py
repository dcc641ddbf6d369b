"""What the meshing stages can be told, in one dataclass: the configuration of the `reconstruct` step and of its tool."""

from dataclasses import dataclass
from typing import Literal

from infra.errors import UserError

Stage = Literal["hull", "refine", "clean", "simplify", "bake", "export"]
STAGES: tuple[Stage, ...] = ("hull", "refine", "clean", "simplify", "bake", "export")
FAST_STAGES: tuple[Stage, ...] = ("hull", "clean", "simplify", "bake", "export")


@dataclass(frozen=True)
class ReconstructConfig:
    """How meshes are made from views.

    Attributes:
        stages: of hull, refine, clean, simplify, bake, export; hull and export are always done. Refining takes about half a
            minute of one core per object, all others a few seconds together: it is left out unless asked for.
        resolution: hull: cells along the longest side of the object's box.
        votes: hull: views that may contradict a point without carving it; None: 1 from 16 views on, else 0.
        refine_resolution: refine: cells along the longest side at the end of the fit.
        refine_steps: refine: optimiser steps of one fit.
        refine_px: refine: pictures are averaged down until their longest side has at most so many pixels.
        eikonal: refine: weight that keeps the field a distance; None: from the set's own consistency.
        hold_out: refine: views kept from the fit, by which the guard decides; fewer where there are under 16 views.
        normals: refine: a normal estimator, `package.module:function`, RGBA uint8 `[V, H, W, 4]` -> camera-space unit normals
            `[V, H, W, 3]` (OpenCV axes, zero where unknown); empty: none.
        smallest_part: clean: parts seen by fewer pixels than this share of the most seen one go.
        smoothing_steps: clean: pairs of Taubin's steps.
        max_faces: simplify: triangles to leave, about.
        texture_px: bake: side of the texture; 0: twice the pictures' side, as a power of two.
        budget_s: seconds after which refining one object must have ended; None: no limit, the same mesh on any machine.
        seed: of the held-out views, the rays and the samples.
    """

    stages: tuple[Stage, ...] = FAST_STAGES
    resolution: int = 64
    votes: int | None = None
    refine_resolution: int = 64
    refine_steps: int = 600
    refine_px: int = 128
    eikonal: float | None = None
    hold_out: int = 4
    normals: str = ""
    smallest_part: float = 0.02
    smoothing_steps: int = 5
    max_faces: int = 15_000
    texture_px: int = 0
    budget_s: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for stage in self.stages:
            if stage not in STAGES:
                raise UserError(f"there is no meshing stage '{stage}'", f"choose from {', '.join(STAGES)}")
        for name, least in (("resolution", 4), ("refine_resolution", 16), ("refine_steps", 1), ("refine_px", 16), ("max_faces", 4)):
            if getattr(self, name) < least:
                raise UserError(f"reconstruct.{name} is {getattr(self, name)}", f"give at least {least}")
        if self.normals and ":" not in self.normals:
            raise UserError(f"reconstruct.normals is '{self.normals}'", "write it as package.module:function")
        if self.budget_s is not None and self.budget_s <= 0:
            raise UserError(f"reconstruct.budget_s is {self.budget_s:g}", "give seconds above 0, or none")
