"""The verbs on steps of a recipe."""

from pathlib import Path
from typing import Any

from pipelines.commands.verb import add_verb, later, recipe_arguments

SELECTION = """Steps are named as in `mvforge plan`; groups are data (catalog to curate), train (train.* to
register) and eval (generate to report).

  --only S          S alone, skipped if current; what it reads must be finished
  --from S          S and everything below, skipped where current; nothing above is touched
  --rerun S         do S again beside the old build, swapped in when complete; steps below become stale
  --retry-failed S  do only S's failed items again"""

STATUS_HELP = """`mvforge status tiny render` shows the render step of a recipe in detail: counts by state and reason, speed, time
left. `mvforge status render --store S` shows every rendering of a store, also one that `mvforge render` writes.

--watch reads what lies in the store and disturbs no one; it may run anywhere that sees the store. Where the output is no terminal
it prints a line for every step that changed; with --json, one line of JSON a refresh. With --cluster FILE (a file as for
`mvforge plan`) it shows the cost so far: hours that the label's steps ran, times the price of the nodes that they fill; attempts
that were interrupted are not in it."""


def add_step_verbs(verbs: Any) -> None:
    """run, plan, status."""
    runner = add_verb(
        verbs,
        "run",
        later("steps", "run_steps"),
        "bring a recipe's steps up to date",
        "mvforge run tiny --set source=local:/data/objects",
        SELECTION,
    )
    recipe_arguments(runner)
    for option, text in (
        ("--only", "only these steps or groups"),
        ("--rerun", "build these again, and nothing else"),
        ("--retry-failed", "build these again, failed items only"),
        ("--from", "only these and what is below them"),
    ):
        runner.add_argument(
            option, action="append", default=[], metavar="STEP", dest=option.strip("-").replace("-", "_") + "_steps", help=text
        )
    runner.add_argument("--wait", action="store_true", help="wait for another driver that builds the same step, instead of refusing")
    runner.add_argument("--settings", action="store_true", help="list every setting of the recipe with its value, and stop")
    planner = add_verb(
        verbs,
        "plan",
        later("steps", "plan_steps"),
        "show what would run, what is reused, why, and how long it took before",
        "mvforge plan tiny",
    )
    recipe_arguments(planner)
    status = add_verb(
        verbs,
        "status",
        later("watch", "status"),
        "show each step: done, running (by whom), stale, failed or missing, and where",
        "mvforge status tiny",
        STATUS_HELP,
    )
    recipe_arguments(status)
    status.add_argument("step", nargs="?", choices=("render",), help="show this step in detail")
    status.add_argument("--watch", action="store_true", help="refresh in place until Ctrl-C: counts, rate, time left, failures by reason")
    status.add_argument("--interval", type=float, default=2.0, metavar="SECONDS", help="between two refreshes of --watch (default 2)")
    status.add_argument("--cluster", type=Path, metavar="FILE", help="prices for the cost that --watch shows (default $MVFORGE_CLUSTER)")
    status.add_argument("--refreshes", type=int, metavar="N", help="end --watch after so many refreshes")
