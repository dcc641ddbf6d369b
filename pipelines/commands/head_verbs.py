"""The verbs around a Ray head of one's own, and jobs on it or another."""

import argparse
from typing import Any

from pipelines.commands.verb import add_verb, later


def add_head_verbs(verbs: Any) -> None:
    """demo, submit, up, down."""
    demo = add_verb(
        verbs, "demo", later("head", "run_demo"), "run the tiny recipe as a Ray job, starting a local head if none runs", "mvforge demo"
    )
    demo.set_defaults(status=lambda result: result["exit"])
    submit = add_verb(
        verbs,
        "submit",
        later("head", "submit_job"),
        "submit a run as a Ray job and follow its log",
        "mvforge submit --address http://127.0.0.1:8265 tiny --set catalog.seed=1",
        "Everything after the recipe is passed to `mvforge run`. Ctrl-C stops the job; the head stays up.",
    )
    submit.add_argument("--address", help="dashboard address of the cluster (default: the local head, started if none runs)")
    submit.add_argument("recipe")
    submit.add_argument("arguments", nargs=argparse.REMAINDER, help="options of `mvforge run`")
    submit.set_defaults(status=lambda result: result["exit"])
    add_verb(verbs, "up", later("head", "start"), "start a local Ray head in the repository root", "mvforge up")
    add_verb(verbs, "down", later("head", "stop"), "stop the head that `up` or `demo` started, and no other", "mvforge down")
