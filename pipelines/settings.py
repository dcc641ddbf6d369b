"""`--set key=value`: change one field of a nested, typed recipe; unknown keys are refused with the nearest name."""

import dataclasses
import difflib
import hashlib
import types
import typing
from typing import Any, TypeVar

from infra.errors import UserError

R = TypeVar("R")

RESOURCES = "resources"
# Short names for what people change most.
ALIASES = {"source": "catalog.source", "objects": "catalog.count"}


def keys_of(value: Any, prefix: str = "") -> dict[str, Any]:
    """Every settable dotted key below a dataclass, with its present value."""
    found: dict[str, Any] = {}
    items = (
        {f.name: getattr(value, f.name) for f in dataclasses.fields(value) if f.init}
        if dataclasses.is_dataclass(value) and not isinstance(value, type)
        else value
    )
    for name, item in items.items():
        key = f"{prefix}{name}"
        if (dataclasses.is_dataclass(item) and not isinstance(item, type)) or (isinstance(item, dict) and item):
            found |= keys_of(item, f"{key}.")
        else:
            found[key] = item
    return found


def settable(recipe: Any) -> dict[str, Any]:
    """`keys_of` a recipe, and the resources of every step, also of those that have the default or their family's."""
    return keys_of(recipe) | {f"{RESOURCES}.{name}.{key}": value for name in _steps(recipe) for key, value in _fields(recipe, name)}


def _steps(recipe: Any) -> list[str]:
    """Steps without an entry of their own; anything else that has settings but no steps has none."""
    return [name for name in recipe.step_names() if name not in recipe.resources] if hasattr(recipe, "step_names") else []


def _fields(recipe: Any, step: str) -> list[tuple[str, Any]]:
    return list(keys_of(recipe.resources_for(step)).items())


def _with_entry(recipe: R, key: str) -> R:
    """The recipe with an entry for the step whose resources `key` names: that step alone is changed, not its family."""
    owner: Any = recipe
    for name in _steps(owner):
        if key.rpartition(".")[0] == f"{RESOURCES}.{name}":
            return dataclasses.replace(owner, resources={**owner.resources, name: owner.resources_for(name)})
    return recipe


def apply(recipe: R, settings: list[str]) -> R:
    """A copy of the recipe with `key=value` settings applied, in order.

    Raises:
        UserError: no `=`, an unknown key, or a value that does not fit the field's type.
    """
    for setting in settings:
        key, mark, text = setting.partition("=")
        if not mark:
            raise UserError(f"'{setting}' is not of the form key=value", "for example --set render.resolution=128")
        key = ALIASES.get(key, key)
        valid = settable(recipe)
        if key not in valid:
            near = difflib.get_close_matches(key, [*valid, *ALIASES], n=1, cutoff=0.4)
            raise UserError(
                f"there is no setting '{key}'" + (f"; did you mean '{near[0]}'?" if near else ""),
                "mvforge run NAME --settings lists them all",
            )
        recipe = _replaced(_with_entry(recipe, key), key.split("."), text, key)
    return recipe


def _replaced(value: Any, path: list[str], text: str, key: str) -> Any:
    name, rest = path[0], path[1:]
    if isinstance(value, dict):
        # Keys of dictionaries may hold dots themselves, as `train.unet1` does: the longest that fits is meant.
        length = next(n for n in range(len(path), 0, -1) if ".".join(path[:n]) in value)
        name, rest = ".".join(path[:length]), path[length:]
        return {**value, name: _replaced(value[name], rest, text, key)} if rest else {**value, name: _parsed(text, type(value[name]), key)}
    if rest:
        return dataclasses.replace(value, **{name: _replaced(getattr(value, name), rest, text, key)})
    hint = typing.get_type_hints(type(value))[name]
    try:
        return dataclasses.replace(value, **{name: _parsed(text, hint, key)})
    except (ValueError, TypeError) as error:
        raise UserError(f"{key}={text}: {error}", "see the field's description in the docs") from error


def _parsed(text: str, hint: Any, key: str) -> Any:
    """Text -> value of the annotated type; `none` is None where the type allows it."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if type(None) in arguments and text.lower() == "none":
            return None
        return _parsed(text, next(a for a in arguments if a is not type(None)), key)
    if origin is typing.Literal:
        if text in [str(a) for a in arguments]:
            return next(a for a in arguments if str(a) == text)
        near = difflib.get_close_matches(text, [str(a) for a in arguments], n=1)
        raise UserError(
            f"{key} cannot be '{text}'" + (f"; did you mean '{near[0]}'?" if near else ""), f"choose from {', '.join(map(str, arguments))}"
        )
    if origin in (tuple, list):
        inner = arguments[0] if arguments else str
        return tuple(_parsed(part.strip(), inner, key) for part in text.split(",") if part.strip())
    if hint is bool:
        if text.lower() not in ("true", "false"):
            raise UserError(f"{key} must be true or false, not '{text}'", f"--set {key}=true")
        return text.lower() == "true"
    if hint in (int, float):
        try:
            return hint(text)
        except ValueError:
            raise UserError(f"{key} must be a{'n integer' if hint is int else ' number'}, not '{text}'", f"--set {key}=1") from None
    if hint is str:
        return text
    raise UserError(f"{key} cannot be set from the command line", "write a recipe function for it")


def label_for(recipe_name: str, settings: list[str]) -> str:
    """Default label: the recipe's name, and six hex digits of the settings when there are any."""
    if not settings:
        return recipe_name
    normal = sorted({ALIASES.get(s.partition("=")[0], s.partition("=")[0]): s.partition("=")[2] for s in settings}.items())
    return f"{recipe_name}-{hashlib.sha256(repr(normal).encode()).hexdigest()[:6]}"
