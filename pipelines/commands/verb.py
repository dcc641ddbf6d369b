"""How a verb of the command line is made.

What it does lives in its own module and is imported when the verb is used, so that `--help` is instant: torch, Ray and MLflow together
take ten seconds to import.
"""

import argparse
import importlib
from collections.abc import Callable
from typing import Any

Run = Callable[[argparse.Namespace], Any]


def later(module: str, function: str) -> Run:
    """A function of `pipelines.commands.<module>`, imported when called."""

    def run(options: argparse.Namespace) -> Any:
        return getattr(importlib.import_module(f"pipelines.commands.{module}"), function)(options)

    return run


def add_verb(verbs: Any, name: str, run: Run, summary: str, example: str, details: str = "") -> argparse.ArgumentParser:
    """Add a verb; `run(options)` returns JSON-able results and prints its own text when `options.json` is off."""
    parser = verbs.add_parser(
        name,
        help=summary,
        description=f"{summary[0].upper()}{summary[1:]}.\n\n{details}".rstrip(),
        epilog=f"example:\n  {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON alone on stdout; logs go to stderr")
    parser.add_argument(
        "--log-format",
        choices=("human", "json"),
        help="of what goes to stderr: json is one object a line (default $MVFORGE_LOG_FORMAT or human)",
    )
    parser.set_defaults(run=run, status=lambda result: 0)
    return parser


def recipe_arguments(parser: argparse.ArgumentParser) -> None:
    """Which recipe, with which changes, under which label in which store."""
    parser.add_argument("recipe", help="smoke, tiny, small, proof, proof_gpu, paper_mvdiffusionpp, or package.module:function of your own")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="sets", help="change one setting; may be repeated")
    parser.add_argument("--label", help="name of the results; default: the recipe's name, plus six hex digits when --set is used")
    parser.add_argument("--store", help="where results lie: a path or a URL (default $MVFORGE_STORE or ~/.mvforge/store)")
