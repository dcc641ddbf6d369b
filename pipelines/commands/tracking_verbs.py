"""The words for what waits for a lost tracking server: `tracking`."""

from typing import Any

from pipelines.commands.verb import add_verb, later

TRACKING_HELP = """A run goes on when its MLflow server is lost: what it tracks waits on disk, in order, and is sent when the server
answers or when the next run with the same server begins. --send does it without a run. Sending twice changes nothing: figures keep
their times.

What the server has refused for good lies in refused.jsonl beside it."""


def add_tracking_verbs(verbs: Any) -> None:
    """tracking."""
    shower = add_verb(
        verbs,
        "tracking",
        later("tracking_tool", "show_tracking"),
        "show what waits for a tracking server that was lost, and send it",
        "mvforge tracking --send",
        TRACKING_HELP,
    )
    shower.add_argument("--send", action="store_true", help="send it now")
    shower.add_argument("--store", help="where results lie: a path or a URL (default $MVFORGE_STORE or ~/.mvforge/store)")
