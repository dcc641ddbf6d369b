"""A method by name, and a generator by its folder."""

import difflib
import importlib
import json
from pathlib import Path

from infra.errors import UserError
from training.methods import METHODS
from training.methods.base import Generator, Method


def method_named(name: str) -> Method:
    """The method called `name` in `METHODS`, or the object at an import path `package.module:attribute` of someone else's code.

    Raises:
        UserError: unknown name, or nothing at that path.
    """
    if ":" in name:
        module_name, _, attribute = name.partition(":")
        try:
            found = getattr(importlib.import_module(module_name), attribute)
        except (ImportError, AttributeError) as error:
            mend = "write it as package.module:attribute, importable on every node (installed, or on PYTHONPATH)"
            raise UserError(f"method '{name}' cannot be imported ({error})", mend) from error
        if not (isinstance(getattr(found, "stages", None), tuple) and hasattr(found, "load_generator")):
            raise UserError(f"'{name}' is not a method: it has no tuple `stages` or no `load_generator`", "see training/methods/base.py")
        return found
    if name not in METHODS:
        close = difflib.get_close_matches(name, METHODS, 1)
        raise UserError(f"unknown method '{name}'", f"did you mean '{close[0]}'?" if close else f"known: {', '.join(sorted(METHODS))}")
    return METHODS[name]


def load_generator(folder: Path, device: str) -> Generator:
    """Open any generator folder that a method's `export` wrote.

    Raises:
        UserError: the folder has no `mvforge.json`, or names a method that is neither known here nor importable.
    """
    settings = Path(folder) / "mvforge.json"
    if not settings.is_file():
        raise UserError(f"{folder} is not a generator folder: it has no mvforge.json", "give the model folder that register wrote")
    name = json.loads(settings.read_text())["method"]
    try:
        method = method_named(name)
    except UserError as error:
        raise UserError(f"{folder} was made by method '{name}': {error.message}", error.mend) from error
    return method.load_generator(Path(folder), device)
