"""The words for choosing a model: `compare`, and `models list|compare|promote|rollback`, with options, help and examples."""

import argparse
from typing import Any

from pipelines.commands.verb import add_verb, later

COMPARE_HELP = """A and B are each one of

  a label of the store        tiny, tiny-3fa2c1 (its finished score step)
  a folder                    what a score step wrote: summary.json and scores.parquet
  a registered version        models:/mvforge/3 or models:/mvforge@champion (its figures are kept in MLflow)

For every metric: means over the objects that both have a figure for, the mean of B - A per object with its bootstrap 95 %
interval, and the p-value of a sign-flip permutation test, corrected for the number of metrics (Holm). `better` and `worse` say
that the interval leaves zero out; anything else is undecided, however large the difference of the means looks.

Figures of another protocol or evaluation set are refused, because they do not compare. To compare a model there, score it there:
  mvforge run RECIPE --only eval --set generate.model=models:/mvforge/3"""

LIST_HELP = """One line a version: who holds which alias, figures and what they were measured on, what it was trained on. Figures in two
lines compare only where `scored on` is the same; `mvforge models compare` says whether they differ. Below, every move of the
champion."""

VERSIONS_HELP = "3, @champion, or models:/NAME/3"

PROMOTE_HELP = """The gate promotes what is surely better on its metric. By hand you may prefer another for reasons of your own: it is done
as asked, and recorded as done by hand, by whom and why. The next gates compare with it. `mvforge models rollback` takes it back."""

ROLLBACK_HELP = """Gives the alias back to the version that held it before; again, to the one before that. The version that loses it is
marked as withdrawn: no gate promotes it again until someone does so by hand."""


def add_model_verbs(verbs: Any) -> None:
    """compare, models."""
    pair = add_verb(
        verbs,
        "compare",
        later("compare_tool", "compare_scores"),
        "compare two evaluations object by object, with significance",
        "mvforge compare tiny tiny-3fa2c1",
        COMPARE_HELP,
    )
    pair.add_argument("a", metavar="A")
    pair.add_argument("b", metavar="B")
    _places(pair)
    group = verbs.add_parser(
        "models",
        help="list, compare, promote and roll back registered models",
        epilog="example:\n  mvforge models list\n\nEach has its own --help.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    models = group.add_subparsers(dest="what", metavar="WHAT", required=True)
    listing = add_verb(
        models,
        "list",
        later("models_tool", "list_models"),
        "list registered versions with aliases, figures and training data",
        "mvforge models list",
        LIST_HELP,
    )
    listing.add_argument("--metrics", help="columns, separated by commas (default: the usual ones that were scored)")
    two = add_verb(
        models,
        "compare",
        later("compare_tool", "compare_versions"),
        "compare two registered versions object by object, with significance",
        "mvforge models compare @champion 5",
        "By the figures that are kept with the versions in MLflow; see `mvforge compare --help` for what is computed.",
    )
    two.add_argument("a", metavar="A", help=VERSIONS_HELP)
    two.add_argument("b", metavar="B", help=VERSIONS_HELP)
    promote = add_verb(
        models,
        "promote",
        later("models_tool", "promote_version"),
        "make a version the champion by hand",
        'mvforge models promote 5 --reason "cleaner handles in 20 pairs looked at"',
        PROMOTE_HELP,
    )
    promote.add_argument("version", metavar="VERSION", help=VERSIONS_HELP)
    promote.add_argument("--reason", required=True, help="in one sentence; it is kept")
    back = add_verb(
        models,
        "rollback",
        later("models_tool", "roll_back"),
        "give the champion's alias back to the version that held it before",
        'mvforge models rollback --reason "broken masks on thin parts"',
        ROLLBACK_HELP,
    )
    back.add_argument("--reason", required=True, help="in one sentence; it is kept")
    for parser in (listing, two, promote, back):
        _places(parser)
        parser.add_argument("--model", default="mvforge", metavar="NAME", help="the registered model (default mvforge)")
    for parser in (listing, promote, back):
        parser.add_argument("--alias", default="champion", help="which alias is meant (default champion)")


def _places(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--store", help="where results lie: a path or a URL (default $MVFORGE_STORE or ~/.mvforge/store)")
