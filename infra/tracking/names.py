"""Names as MLflow accepts them."""

import re
from collections.abc import Mapping
from typing import Any


def clean(name: str) -> str:
    return re.sub(r"[^\w\-. /:]", "_", name)


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested mappings -> `a.b.c` names that MLflow accepts, values as text."""
    flat: dict[str, str] = {}
    for key, value in values.items():
        name = f"{prefix}{clean(str(key))}"
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{name}.")
        else:
            flat[name] = str(value)
    return flat
