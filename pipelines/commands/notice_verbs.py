"""The words for a machine that is about to be taken away: `notice`."""

from typing import Any

from pipelines.commands.verb import add_verb, later

NOTICE_HELP = """For a hook that runs when a node is about to go (a pod's preStop, a spot notice): every training that the store shows as
running writes a checkpoint after the step in flight and goes on. When the node goes then, it goes on from there elsewhere.

To end a whole run instead, send SIGTERM to its `mvforge run`: trainings write a checkpoint and leave, the command ends with
status 75, and the same command goes on there."""


def add_notice_verb(verbs: Any) -> None:
    """notice."""
    giver = add_verb(
        verbs,
        "notice",
        later("notice_tool", "give_notice"),
        "ask running trainings for a checkpoint now, because a machine is about to go",
        "mvforge notice --wait 25",
        NOTICE_HELP,
    )
    giver.add_argument("--wait", type=float, default=25.0, metavar="SECONDS", help="for the checkpoints to be whole (default 25)")
    giver.add_argument("--store", help="where results lie: a path or a URL (default $MVFORGE_STORE or ~/.mvforge/store)")
    giver.set_defaults(status=lambda result: int(not all(each["saved"] for each in result["trainings"])))
