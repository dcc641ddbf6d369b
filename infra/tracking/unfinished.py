"""Runs that seem to go on: those of a driver that was killed stay so until somebody ends them."""

import logging

from mlflow.entities import ViewType
from mlflow.exceptions import MlflowException

from infra.tracking import outbox
from infra.tracking.runs import TrackedRun
from infra.tracking.stores import client_of, first_line

MOST = 1000

log = logging.getLogger(__name__)


def running_runs(uri: str, experiment: str, tags: dict[str, str]) -> list[tuple[TrackedRun, dict[str, str]]]:
    """Runs of an experiment that are RUNNING and have these tags, each with all its tags, at most `MOST`.

    An empty list while the server does not answer, which is said in the log: whoever asks later finds them.
    """
    box = outbox.opened(uri)
    if box is not None and box.lost:
        return []
    client = client_of(uri)
    wanted = " and ".join(["attributes.status = 'RUNNING'", *(f"tags.`{name}` = '{value}'" for name, value in tags.items())])
    try:
        found = client.get_experiment_by_name(experiment)
        if found is None:
            return []
        runs = client.search_runs([found.experiment_id], wanted, run_view_type=ViewType.ACTIVE_ONLY, max_results=MOST)
    except MlflowException as error:
        log.warning("runs of killed drivers cannot be looked for: %s", first_line(error))
        return []
    return [(TrackedRun(uri, run.info.run_id), dict(run.data.tags)) for run in runs]
