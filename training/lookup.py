"""A method by name."""

import difflib
import importlib

from infra.errors import UserError
from training.methods.base import Method


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
    from training.methods import METHODS

    if name not in METHODS:
        close = difflib.get_close_matches(name, METHODS, 1)
        raise UserError(f"unknown method '{name}'", f"did you mean '{close[0]}'?" if close else f"known: {', '.join(sorted(METHODS))}")
    return METHODS[name]
