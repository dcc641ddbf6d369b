"""A run, typed: which method, its sizes, every step's configuration, and what to run it with."""

from dataclasses import dataclass, field
from typing import Any

from evaluation.gate_rule import GateConfig
from evaluation.generate import GenerateConfig
from evaluation.reconstruct import ReconstructConfig
from evaluation.report import ReportConfig
from evaluation.score import ScoreConfig
from infra.job import Resources
from rendering.catalog import CatalogConfig
from rendering.curate import CurateConfig
from rendering.fetch import FetchConfig
from rendering.render import RenderConfig
from training.config import TrainConfig
from training.encode import EncodeConfig
from training.lookup import method_named
from training.register import RegisterConfig


@dataclass(frozen=True)
class Recipe:
    """One run of the whole pipeline.

    Attributes:
        name: the recipe's name and default label.
        method: a name in `training.methods.METHODS`, or `package.module:attribute` of anyone's code.
        model: the method's own configuration (architecture and data choices).
        train: training settings by stage of the method.
        encode_on_the_fly: stages encode views while they train, and there is no encode step: for data that are used once or
            are too big to keep encoded.
        resources: by step name or by its first part (`train` serves `train.unet1`); never part of any fingerprint.
        max_failed_fraction: a step with a larger share of failed items does not finish.
    """

    name: str
    method: str
    model: Any
    train: dict[str, TrainConfig]
    catalog: CatalogConfig = CatalogConfig()
    fetch: FetchConfig = FetchConfig()
    render: RenderConfig = RenderConfig()
    curate: CurateConfig = CurateConfig()
    encode: EncodeConfig = EncodeConfig()
    register: RegisterConfig = RegisterConfig()
    generate: GenerateConfig = GenerateConfig()
    reconstruct: ReconstructConfig = ReconstructConfig()
    score: ScoreConfig = ScoreConfig()
    gate: GateConfig = GateConfig()
    report: ReportConfig = ReportConfig()
    resources: dict[str, Resources] = field(default_factory=dict)
    encode_on_the_fly: bool = False
    max_failed_fraction: float = 0.5

    def step_names(self) -> list[str]:
        """Names of all steps in order, as `pipelines.graph.build` makes them; nothing is built or read.

        Raises:
            UserError: an unknown method.
        """
        stages = method_named(self.method).stages
        encoders = list(dict.fromkeys(stage.encodes_with for stage in stages if stage.encodes_with))
        names = ["catalog", "fetch", "render", "curate"]
        for stage in stages:
            own = self.train.get(stage.name)
            if stage.encodes_with and not (self.encode_on_the_fly or (own is not None and own.encode_on_the_fly)):
                name = "encode" if len(encoders) == 1 else f"encode.{stage.encodes_with}"
                names += [] if name in names else [name]
            names.append(f"train.{stage.name}")
        return [*names, "register", "generate", "reconstruct", "score", "gate", "report"]

    def resources_for(self, step: str) -> Resources:
        """Resources of a step: its own entry, its family's, or the default."""
        return self.resources.get(step) or self.resources.get(step.partition(".")[0]) or Resources()
