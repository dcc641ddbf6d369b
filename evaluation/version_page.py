"""The report page where a person who chooses a model finds it: beside the pictures and figures, at the version's own run."""

from typing import Any

from infra.job import Job

PLACE = "evaluation/report.html"


def attach(page: bytes, made_by: dict[str, Any], job: Job) -> None:
    """Store the page at the run that registered the version which `made_by` (`model.json`) names; nothing without a registry."""
    uri = job.run.tracking_uri
    if uri is None or not {"name", "version", "uri"} <= made_by.keys():
        return
    from infra import tracking  # MLflow takes seconds to import, and reports are also written without it

    run = tracking.run_of(uri, tracking.ModelVersion(made_by["name"], str(made_by["version"]), made_by["uri"]))
    if run is not None:
        run.artifact(PLACE, page)
