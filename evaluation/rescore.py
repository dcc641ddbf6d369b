"""A registered version generated, meshed and scored once more, by the same steps and settings as another one."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from evaluation import generate, reconstruct, score
from evaluation.generate import GenerateConfig
from evaluation.metrics.hull_consistency import HULL_METRICS
from evaluation.metrics.image import IMAGE_METRICS
from evaluation.metrics.learned import PAIR_METRICS
from evaluation.metrics.warp import OVERLAP_METRICS
from evaluation.reconstruct import ReconstructConfig
from evaluation.score import ScoreConfig
from evaluation.score_table import ScoreTable, read_scores
from infra.job import Job, Resources, SilentRun
from infra.storage import Location
from infra.tracking import ModelVersion


@dataclass(frozen=True)
class Rescoring:
    """The settings of the steps that made the scores at hand.

    Attributes:
        resources: what each step may use, by its name.
    """

    generate: GenerateConfig = GenerateConfig()
    reconstruct: ReconstructConfig = ReconstructConfig()
    score: ScoreConfig = ScoreConfig()
    resources: dict[str, Resources] = field(default_factory=dict)


def needs_meshes(metric: str) -> bool:
    """Whether a metric is measured on meshes, and not on pictures alone."""
    return metric not in (*IMAGE_METRICS, *PAIR_METRICS, *HULL_METRICS, *OVERLAP_METRICS)


def rescore(
    settings: Rescoring, version: ModelVersion, *, tracking_uri: str, views: Location, kept: Location, meshes: bool, out: Location, job: Job
) -> ScoreTable:
    """The version's figures on the objects of `kept`, measured against `views`; everything it makes lies in `out`.

    An interrupted call, given again with the same `out`, goes on where it was. Without `meshes` the figures that need
    them are undefined.

    Raises:
        UserError: what the generate, reconstruct and score steps raise.
    """
    generated, rebuilt, scores = out / "generated", out / "meshes", out / "scores"
    if _made_by(out) != version.uri:
        out.delete()
        (out / "model.json").write_json({"uri": version.uri})
    config = replace(settings.generate, model=version.uri)
    first = _job("generate", settings, tracking_uri, job)
    _once(generated, lambda: generate.run(config, model=None, views=views, kept=kept, out=generated, job=first))
    if meshes:
        mesh_job = _job("reconstruct", settings, tracking_uri, job)
        _once(rebuilt, lambda: reconstruct.run(settings.reconstruct, views=generated, out=rebuilt, job=mesh_job))
    last, found = _job("score", settings, tracking_uri, job), rebuilt if meshes else None
    _once(scores, lambda: score.run(settings.score, reference=views, generated=generated, meshes=found, model=None, out=scores, job=last))
    return read_scores(scores, generated)


def _made_by(out: Location) -> str | None:
    return (out / "model.json").read_json()["uri"] if (out / "model.json").exists() else None


def _once(place: Location, work: Callable[[], object]) -> None:
    """Do the work unless its note, written last, says that it is done."""
    if not (place / "done.json").exists():
        work()
        (place / "done.json").write_json({})


def _job(step: str, settings: Rescoring, tracking_uri: str, job: Job) -> Job:
    """The step's own resources; nothing is tracked under the caller's run, whose figures are another model's."""
    silent = SilentRun()
    silent.tracking_uri = tracking_uri
    return replace(job, resources=settings.resources.get(step, job.resources), cache=None, run=silent)
