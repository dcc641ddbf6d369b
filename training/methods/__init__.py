"""The methods this project knows, by name."""

from training.methods.base import Method
from training.methods.mvdiffusionpp import MVDiffusionPP

METHODS: dict[str, Method] = {"mvdiffusionpp": MVDiffusionPP()}
