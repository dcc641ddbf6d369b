"""How a person names a registry and a model's version on the command line."""

import argparse
from pathlib import Path

from infra import tracking
from infra.errors import UserError
from pipelines.context import store_location, tracking_uri


def registry_of(options: argparse.Namespace) -> str:
    """The tracking address, looked at without making a new store where there is none."""
    uri = tracking_uri(store_location(options.store))
    if uri.startswith("sqlite:///") and not Path(uri.removeprefix("sqlite:///")).exists():
        raise UserError(f"there is no model registry at {uri}", "run a recipe first, or give --store or MLFLOW_TRACKING_URI of another one")
    tracking.check(uri)
    return uri


def address_of(text: str, model: str) -> str:
    """`3`, `@champion`, `mvforge/3` or a whole address -> `models:/NAME/3` or `models:/NAME@ALIAS`."""
    if text.startswith("models:/"):
        return text
    if text.startswith("@"):
        return f"models:/{model}{text}"
    return f"models:/{text}" if "/" in text or "@" in text else f"models:/{model}/{text}"
