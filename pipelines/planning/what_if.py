"""`--what-if`: the same run with other nodes, prices, resolution, kept views or samples; anything that `--set` knows, too."""

import dataclasses
from difflib import get_close_matches
from typing import Any

from infra.errors import UserError
from pipelines import settings
from pipelines.planning.cluster_file import Cluster
from pipelines.planning.estimate import with_gpu_workers
from pipelines.recipe import Recipe

KEYS = {
    "nodes": "nodes of the group with most GPUs (of the first without); GPU workers grow with them",
    "price": "per hour and node of every group, low and high",
    "resolution": "side of the pictures",
    "views": "target views kept per object and update",
    "samples": "samples per pixel",
}
FIELDS = {"resolution": ("render.resolution", "model.resolution"), "views": ("model.keep_views",), "samples": ("render.samples",)}


def changed(recipe: Recipe, cluster: Cluster, text: str) -> tuple[Recipe, Cluster]:
    """Recipe and cluster after `key=value`, or several of them with commas between.

    Raises:
        UserError: no such key, or a value that does not fit.
    """
    for part in text.split(","):
        key, mark, value = part.strip().partition("=")
        if not mark:
            raise UserError(f"--what-if {text}: '{part}' is not of the form key=value", "for example --what-if nodes=32,price=40")
        near_name, _, group = key.partition(".")
        if near_name in ("nodes", "price") and key not in settings.settable(recipe):
            recipe, cluster = _with_cluster(recipe, cluster, near_name, group, _number(key, value))
        else:
            recipe = settings.apply(recipe, [f"{name}={value}" for name in _settings(recipe, key)])
    return recipe, cluster


def _settings(recipe: Recipe, key: str) -> list[str]:
    known = settings.settable(recipe)
    if key in FIELDS:
        return [name for name in FIELDS[key] if name in known]
    if key not in known and key not in settings.ALIASES:
        near = get_close_matches(key, [*KEYS, *settings.ALIASES, *known], n=1, cutoff=0.3)
        hint = f"; did you mean '{near[0]}'?" if near else ""
        raise UserError(f"--what-if knows no '{key}'{hint}", f"use {', '.join(KEYS)}, or any setting of the recipe")
    return [key]


def _with_cluster(recipe: Recipe, cluster: Cluster, key: str, name: str, value: float) -> tuple[Recipe, Cluster]:
    names = [group.name for group in cluster.groups]
    if name and name not in names:
        near = get_close_matches(name, names, n=1, cutoff=0.0)[0]
        raise UserError(f"cluster {cluster.name} has no group '{name}'; did you mean '{near}'?", f"its groups are {', '.join(names)}")
    if key == "price":
        chosen = {name} if name else set(names)
        groups = tuple(dataclasses.replace(g, price_low=value, price_high=value) if g.name in chosen else g for g in cluster.groups)
        return recipe, dataclasses.replace(cluster, groups=groups)
    if value < 1 or value != int(value):
        raise UserError(f"--what-if nodes={value:g}", "a whole number above zero")
    target = name or max(cluster.groups, key=lambda group: group.gpus).name
    groups = tuple(dataclasses.replace(g, count=int(value)) if g.name == target else g for g in cluster.groups)
    larger = dataclasses.replace(cluster, groups=groups)
    return (recipe if larger.gpus == cluster.gpus else with_gpu_workers(recipe, larger)), larger


def _number(key: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise UserError(f"--what-if {key}={text} is not a number", f"for example --what-if {key}=4") from None
    if value < 0:
        raise UserError(f"--what-if {key}={text} is below zero", "0 or more")
    return value


def described() -> str:
    """The keys with what they mean, one a line."""
    return "\n".join(f"  {key:12s}{text}" for key, text in KEYS.items())


def as_json(value: Any) -> Any:
    """Dataclasses, tuples and paths as plain JSON values."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: as_json(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {str(key): as_json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [as_json(item) for item in value]
    return value if isinstance(value, (str, int, float, bool)) or value is None else str(value)
