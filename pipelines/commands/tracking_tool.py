"""The `tracking` verb: what waits for a tracking server that was lost, and sending it."""

import argparse
from typing import Any

from infra import tracking
from infra.errors import UserError
from pipelines import buffered
from pipelines.context import store_location, tracking_uri
from pipelines.runner import say

PATIENCE_S = 3600.0


def show_tracking(options: argparse.Namespace) -> dict[str, Any]:
    """Say what waits; with `--send`, send it.

    Raises:
        UserError: `--send` to a server that does not answer, or stops to do so.
    """
    store = store_location(options.store)
    uri = tracking_uri(store)
    folder = buffered.folder(store)
    own = tracking.folder_of(uri, folder)
    before = tracking.waiting(own)
    if options.send and before.calls:
        tracking.check(uri)
        with tracking.sending(uri, folder, say) as box:
            if box is not None and not box.flush(PATIENCE_S):
                raise UserError("the MLflow server was lost again", "what it has not got still waits; send it again later")
    found = tracking.waiting(own)
    if not options.json:
        print(buffered.waiting_text(store, uri) or "nothing waits for the tracking server")
    return {"waiting": found.calls, "sent": before.calls - found.calls, "refused": found.refused, "folder": str(own)}
