"""docs/training.md cannot rot: its settings exist with the values shown, no open point is missing, its figures are counted."""

import inspect
import itertools
import re
import shlex

import pytest

from infra.job import Resources
from pipelines import recipes
from pipelines.__main__ import parser
from pipelines.projection import project
from pipelines.settings import apply, keys_of
from tests.conftest import ROOT
from training.flops import train_flops, unet_flops, vae_flops
from training.methods.mvdiffusionpp_config import Config
from training.rates import MEASURED

TEXT = (ROOT / "docs/training.md").read_text()
PAPER = recipes.by_name("paper_mvdiffusionpp")


def rows(header: str) -> list[list[str]]:
    """The cells below a table's header line."""
    below = TEXT[TEXT.index(header) :].splitlines()[2:]
    table = itertools.takewhile(lambda line: line.startswith("|"), below)
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table]


def silent_points() -> dict[str, str]:
    return {key.strip("`"): value for key, value, _ in rows("| Setting | Value | Why |")}


def test_every_setting_has_the_value_shown():
    settings = keys_of(PAPER)
    assert {key: str(settings[key]) for key in silent_points()} == silent_points()


def test_every_open_point_of_the_config_is_there():
    documented = silent_points()
    described = inspect.getdoc(Config).partition("Attributes:")[2]
    entries = re.findall(r"^    (\w[\w, ]*):(.*(?:\n        .*)*)", described, re.MULTILINE)
    ours = {name.strip() for names, text in entries if "[C" in text for name in names.split(",")}
    assert len(ours) > 12 and {f"model.{name}" for name in ours} <= set(documented)


def test_the_cost_table_is_counted():
    unet = PAPER.model.unet
    for views, tokens, forward, train, recomputed, _ in rows("| Views | Tokens |"):
        count = int(views.split()[0])
        assert int(tokens.replace(",", "")) == count * PAPER.model.latent_size**2
        assert float(forward) == pytest.approx(unet_flops(unet, count, 64).total / 1e12, abs=0.051)
        assert float(train) == round(train_flops(unet, [count], 64) / 1e12)
        assert float(recomputed.replace(",", "")) == round(train_flops(unet, [count], 64, recompute=True) / 1e12)
    ninth = train_flops(unet, [9], 64)
    assert f"+{9 * vae_flops(PAPER.model.vae, 512)[0].total / ninth:.0%} of a step".replace("%", " %") in TEXT
    assert f"{train_flops(unet, [33], 64) / ninth:.1f}x" in TEXT


def test_the_projection_is_the_plan_s():
    cost = project(PAPER)
    hours = [row["gpu_hours"] for row in cost["stages"]]
    assert f"{hours[1]:,.0f} + {hours[2]:,.0f} + {hours[3]:,.0f} GPU-hours" in TEXT and f"{hours[0]:.1f} for" in TEXT
    assert f"{cost['array_gb']:.0f} GB for {cost['objects']:,} objects" in TEXT
    weights = cost["stages"][1]["parameters_m"]
    assert f"{weights:.0f} M weights are {weights * 4e-3:.1f} GB" in TEXT and f"another {weights * 16e-3:.1f} GB" in TEXT


def test_the_resources_are_the_recipe_s():
    for steps, size, _ in rows("| Step | In `paper_mvdiffusionpp` |"):
        wanted = [float(number.replace(",", "")) for number in re.findall(r"\d[\d,]*", size)]
        for step in re.findall(r"`([^`]+)`", steps):
            found: Resources = PAPER.resources_for(step)
            assert wanted == [found.workers, found.cpus, *([found.gpus] if found.gpus else [])], step


def test_every_command_parses_and_every_set_is_a_setting():
    commands = [line.partition("#")[0].partition("   (")[0] for line in re.sub(r"\\\n\s*", "", TEXT).splitlines()]
    commands = [line for line in commands if line.startswith(("mvforge", "torchrun"))]
    assert len(commands) >= 6
    for line in commands:
        words = shlex.split(line)
        options = parser().parse_args(words[words.index("pipelines") + 1 :] if words[0] == "torchrun" else words[1:])
        if getattr(options, "sets", None):
            apply(recipes.by_name(options.recipe), [one for one in options.sets if "/weights" not in one])
            assert {one.partition("=")[0] for one in options.sets} <= set(keys_of(PAPER))
    for setting in re.findall(r"--set ([\w.]+)=", TEXT):
        assert setting in keys_of(PAPER), setting


def test_measured_figures_exist():
    shown = set(re.findall(r"`(\w+)`", TEXT[TEXT.index("## What you see") : TEXT.index("## Where the paper")]))
    assert MEASURED - {"seconds"} <= shown
