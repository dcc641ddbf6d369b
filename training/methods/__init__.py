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
        UserError: the folder has no `mvforge.json`, or names a method that is neither known here nor importable.
    """
    from training.lookup import method_named  # reads METHODS itself

    settings = Path(folder) / "mvforge.json"
    if not settings.is_file():
        raise UserError(f"{folder} is not a generator folder: it has no mvforge.json", "give the model folder that register wrote")
    name = json.loads(settings.read_text())["method"]
    try:
        method = method_named(name)
    except UserError as error:
        raise UserError(f"{folder} was made by method '{name}': {error.message}", error.mend) from error
    return method.load_generator(Path(folder), device)
