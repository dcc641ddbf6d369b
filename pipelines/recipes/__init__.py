"""Named runs, one file each: a function that returns a `Recipe`."""

import difflib
import importlib

from infra.errors import UserError
from pipelines.recipe import Recipe
from pipelines.recipes import paper_mvdiffusionpp, proof, small, smoke, tiny

RECIPES = {
    "smoke": smoke.recipe,
    "tiny": tiny.recipe,
    "small": small.recipe,
    "proof": proof.recipe,
    "proof_gpu": proof.gpu_recipe,
    "paper_mvdiffusionpp": paper_mvdiffusionpp.recipe,
}


def by_name(name: str) -> Recipe:
    """The recipe of that name, or made by the function at an import path `package.module:function` of anyone's code.

    Raises:
        UserError: no recipe of that name (with the nearest), nothing at that path, or something that makes no recipe.
    """
    if ":" in name:
        return _imported(name)
    if name not in RECIPES:
        near = difflib.get_close_matches(name, RECIPES, n=1, cutoff=0.4)
        raise UserError(
            f"there is no recipe '{name}'" + (f"; did you mean '{near[0]}'?" if near else ""), f"choose from {', '.join(RECIPES)}"
        )
    return RECIPES[name]()


def _imported(path: str) -> Recipe:
    module_name, _, function = path.partition(":")
    try:
        make = getattr(importlib.import_module(module_name), function)
    except (ImportError, AttributeError) as error:
        mend = "write it as package.module:function, importable on every node (installed, or on PYTHONPATH)"
        raise UserError(f"recipe '{path}' cannot be imported ({error})", mend) from error
    made = make() if callable(make) else make
    if not isinstance(made, Recipe):
        raise UserError(f"'{path}' is not a recipe but a {type(made).__name__}", "name a function that returns a pipelines.recipe.Recipe")
    return made
