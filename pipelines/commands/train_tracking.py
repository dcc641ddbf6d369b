"""Where figures of `mvforge train` go beside the terminal: a run in MLflow, where that is asked for."""

import contextlib
from collections.abc import Iterator
from typing import Any

from infra import tracking
from infra.storage import Location
from pipelines import buffered
from pipelines.context import Context
from pipelines.dag import Step
from pipelines.fingerprint import canonical
from pipelines.runner import say
from pipelines.track import EXPERIMENT
from training.stage import Log
from training.tracked_rows import TrackedRows

RUN = "tracking.json"


@contextlib.contextmanager
def tracked(context: Context, step: Step, out: Location) -> Iterator[Log]:
    """A function that takes rows of the training in `out`; a training that goes on also goes on in its run.

    Raises:
        UserError: the tracking store cannot be used.
    """
    uri, place = context.tracking_uri, out / RUN
    tracking.check(uri)
    with tracking.sending(uri, buffered.folder(context.store.root), say):
        known = tracking.id_on_server(uri, place.read_json()["run_id"]) if place.exists() else None
        name = f"{context.recipe.name}/{context.label}/{step.name}"
        run = tracking.open_run(uri, EXPERIMENT, name, run_id=known, tags={"mvforge.step": step.name, "mvforge.label": context.label})
        place.write_json({"run_id": run.run_id})
        run.params(canonical(step.config))
        rows = TrackedRows(run)

        def track(kind: str, row: dict[str, Any]) -> None:
            if kind == "pictures":
                for path in row["paths"]:
                    run.artifact(path.partition("/")[2], (out / path).read_bytes())
            else:
                rows.row(kind, row)

        with tracking.running(run):
            yield track
