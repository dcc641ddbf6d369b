"""Named runs, one file each: a function that returns a `Recipe`."""

import difflib

from infra.errors import UserError
from pipelines.recipe import Recipe
from pipelines.recipes import paper_mvdiffusionpp, small, smoke, tiny

RECIPES = {
    "smoke": smoke.recipe,
    "tiny": tiny.recipe,
    "small": small.recipe,
    "paper_mvdiffusionpp": paper_mvdiffusionpp.recipe,
}


def by_name(name: str) -> Recipe:
    """The recipe of that name. Raises UserError with the nearest name when there is none."""
    if name not in RECIPES:
        near = difflib.get_close_matches(name, RECIPES, n=1, cutoff=0.4)
        raise UserError(
            f"there is no recipe '{name}'" + (f"; did you mean '{near[0]}'?" if near else ""), f"choose from {', '.join(RECIPES)}"
        )
    return RECIPES[name]()
