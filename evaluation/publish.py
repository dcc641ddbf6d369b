"""What a person finds of an evaluation in MLflow: figures, pictures and data at the version, its run and the pipeline's run."""

import io

from PIL import Image

from evaluation import version_card
from evaluation.score_table import ScoreTable, plain_name
from evaluation.version_scores import dataset_facts, dataset_name, keep, shown_means
from infra import tracking
from infra.job import Job
from infra.storage import Location
from infra.tracking import ModelVersion, TrackedRun


def publish(uri: str, version: ModelVersion, table: ScoreTable, generated: Location, job: Job) -> None:
    """Figures, pictures and what was read, where a person looks for them: at the version, its run and the pipeline's run."""
    assert job.run.run_id is not None
    own = TrackedRun(uri, job.run.run_id)
    fresh = keep(uri, version, table, own)
    if own.parent is not None:
        own.parent.metrics({plain_name(name): mean for name, mean in shown_means(table).items()})
        own.parent.dataset(dataset_name(table), table.evaluation_set, context="evaluation", source=table.source, facts=dataset_facts(table))
    if fresh and (generated / "sheet.webp").exists():
        run = tracking.run_of(uri, version) or own
        run.artifact("evaluation/sheet.png", _png((generated / "sheet.webp").read_bytes()))


def describe_pipeline(uri: str, version: ModelVersion, table: ScoreTable, word: str, job: Job) -> None:
    """What came out, as the description of the pipeline's run."""
    assert job.run.run_id is not None
    parent = TrackedRun(uri, job.run.run_id).parent
    if parent is not None:
        where = f"`{version.uri}`; its source run holds the pictures, the report and the figures by object (`evaluation/`, `scores/`)."
        parent.describe(f"{where}\n\nGate: {word}.\n\n{version_card.figures(table, version_card.HEADLINE)}")


def _png(picture: bytes) -> bytes:
    """MLflow's UI shows PNG, JPEG and GIF, and offers WebP for download only."""
    buffer = io.BytesIO()
    with Image.open(io.BytesIO(picture)) as image:
        image.convert("RGB").save(buffer, "PNG", optimize=True)
    return buffer.getvalue()
