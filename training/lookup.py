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
            return getattr(importlib.import_module(module_name), attribute)
        except (ImportError, AttributeError) as error:
            raise UserError(f"method '{name}' cannot be imported ({error})", "write it as package.module:attribute") from error
    from training.methods import METHODS

    if name not in METHODS:
        close = difflib.get_close_matches(name, METHODS, 1)
        raise UserError(f"unknown method '{name}'", f"did you mean '{close[0]}'?" if close else f"known: {', '.join(sorted(METHODS))}")
    return METHODS[name]
