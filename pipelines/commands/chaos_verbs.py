"""The word for breaking things on purpose: `chaos`, with options, help and examples."""

from pathlib import Path
from typing import Any

from pipelines.commands.verb import add_verb, later

CHAOS_HELP = """Runs a small recipe again and again through the real command line, with a Ray head, a second node and an MLflow server of
its own, and injects faults at random, seeded times. What dies is started again as a person or a cluster's manager would; when the
run has finished, everything is compared with an undisturbed run of the same seed: every object exactly once, the same losses,
records, registry, no process and no temporary file left. The first pass that does not hold ends the command, with its folder kept.

OUT holds faults.jsonl and passes.jsonl, which only grow: the same command goes on until --faults were injected in passes that held.
table.md and table.json are written after every pass. Nothing outside OUT, the temporary folder and shared memory is touched.

Kinds: blender, worker, actor, train_worker, train_controller, raylet, driver, head, mlflow, outage, pause, disk_full (as root alone:
it mounts a small file system), corrupt_shard, truncated_checkpoint."""


def add_chaos_verb(verbs: Any) -> None:
    """chaos."""
    parser = add_verb(
        verbs,
        "chaos",
        later("chaos_tool", "run_chaos"),
        "kill, pause, starve and damage a small run at random times, and check what comes out",
        "mvforge chaos --out chaos --faults 100 --minutes 90",
        CHAOS_HELP,
    )
    parser.set_defaults(status=lambda result: int(bool(result["broken"])))
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where ledgers, logs and the table go")
    parser.add_argument("--faults", type=int, default=100, metavar="N", help="go on until so many were injected (default 100)")
    parser.add_argument("--minutes", type=float, default=90.0, help="begin no pass after so many minutes of this call (default 90)")
    parser.add_argument("--per-pass", type=int, default=20, metavar="N", help="faults planned for each pass (default 20)")
    parser.add_argument("--kinds", default="", metavar="KINDS", help="these kinds, separated by commas (default all)")
    parser.add_argument("--seed", type=int, default=0, help="of kinds, steps, times and victims (default 0)")
    parser.add_argument(
        "--recipe", default="pipelines.chaos.recipe:recipe", help="the run to disturb (default: `smoke` with longer trainings)"
    )
    parser.add_argument("--only", action="append", default=[], metavar="STEP", help="as for `mvforge run`; may be repeated")
    parser.add_argument("--reference", type=Path, metavar="STORE", help="the store of an undisturbed run (default: one is made first)")
    parser.add_argument("--pause", type=float, default=10.0, metavar="S", help="seconds of a pause (default 10)")
    parser.add_argument("--disk-full", type=float, default=5.0, metavar="S", help="seconds for which the disk is full (default 5)")
    parser.add_argument("--outage", type=float, default=60.0, metavar="S", help="seconds without a tracking server (default 60)")
