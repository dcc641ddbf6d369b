"""Where a command works: the store, the tracking address, the recipe with its settings, the label."""

import os
import shlex
from dataclasses import dataclass, replace
from pathlib import Path

from infra import cluster, tracking
from infra.errors import UserError
from infra.storage import Location
from pipelines import recipes, settings
from pipelines.artifact import Store
from pipelines.recipe import Recipe


def store_location(given: str | None = None) -> Location:
    """The store: the argument, `$MVFORGE_STORE`, or `~/.mvforge/store`.

    Raises:
        UserError: a relative path inside a packaged job, whose working directory vanishes with it.
    """
    text = given or os.environ.get("MVFORGE_STORE") or str(cluster.home() / "store")
    return Location(absolute(text, "the store"))


def absolute(text: str, what: str) -> str:
    """A local path made absolute; URLs unchanged. Raises UserError for a relative path inside a packaged job."""
    if "://" in text:
        return text
    path = Path(text).expanduser()
    if not path.is_absolute() and cluster.is_packaged_job():
        raise UserError(
            f"{what} '{text}' is a relative path inside a packaged job, which would vanish with it", "give an absolute path or a URL"
        )
    return str(path.absolute())


def tracking_uri(store: Location) -> str:
    """`$MLFLOW_TRACKING_URI`, else a sqlite file in a local store, else one in the user's home."""
    given = os.environ.get("MLFLOW_TRACKING_URI")
    if given:
        return given
    return tracking.default_uri(store.local_path() if store.is_local else cluster.home())


def load_recipe(name: str, given: list[str]) -> Recipe:
    """A recipe by name with `--set` settings applied, and relative source folders made absolute.

    Raises:
        UserError: unknown recipe or setting (with the nearest), or a value that does not fit.
    """
    return settings.apply(recipes.by_name(name), [_absolute_source(setting) for setting in given])


def _absolute_source(setting: str) -> str:
    key, _, value = setting.partition("=")
    if settings.ALIASES.get(key, key) == "catalog.source" and value.startswith("local:"):
        return f"{key}=local:{absolute(value.removeprefix('local:'), 'the source')}"
    return setting


@dataclass(frozen=True)
class Context:
    """Everything the verbs on steps need."""

    recipe: Recipe
    label: str
    store: Store
    tracking_uri: str

    @classmethod
    def open(cls, name: str, given: list[str], label: str | None, store: str | None) -> "Context":
        place = store_location(store)
        recipe = load_recipe(name, given)
        command = shlex.join(
            ["mvforge", "run", name, *(word for setting in given for word in ("--set", setting)), *(["--label", label] if label else [])]
        )
        recipe = replace(recipe, report=replace(recipe.report, recipe=recipe.name, command=command))
        return cls(recipe, label or settings.label_for(recipe.name, given), Store(place), tracking_uri(place))
