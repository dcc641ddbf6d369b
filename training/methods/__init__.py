"""The methods this project knows, by name."""

import json
from pathlib import Path

from infra.errors import UserError
from training.methods.base import Generator, Method
from training.methods.mvdiffusionpp import MVDiffusionPP

METHODS: dict[str, Method] = {"mvdiffusionpp": MVDiffusionPP()}


def load_generator(folder: Path, device: str) -> Generator:
    """Open any generator folder that a method's `export` wrote.

    Raises:
        UserError: the folder has no `mvforge.json`, or names a method this version does not know.
    """
    settings = Path(folder) / "mvforge.json"
    if not settings.is_file():
        raise UserError(f"{folder} is not a generator folder: it has no mvforge.json", "give the model folder that register wrote")
    name = json.loads(settings.read_text())["method"]
    if name not in METHODS:
        raise UserError(f"{folder} was made by method '{name}'", f"this version knows {', '.join(METHODS)}")
    return METHODS[name].load_generator(Path(folder), device)
