"""[step] Generated views and meshes against held-out truth. Only measures; what follows from it is the gate's business.

Per object and metric there is always a row: a figure, or none and the reason. In `scores.parquet` rows with a `view`
are of that target view, rows without one are of the object (the mean over its views where it has views).
"""

import csv
import io
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa

from evaluation.metrics.image import IMAGE_METRICS, PSNR_CAP_DB
from evaluation.pieces import Pieces
from evaluation.protocol import Protocol, evaluation_set_of
from evaluation.score_object import (
    BASELINE_METRICS,
    CONSISTENCY_METRICS,
    TRUTH_HULL_METRICS,
    ObjectScores,
    ScoreInputs,
    finished_scores,
    truth_digest,
)
from evaluation.statistics import aggregate
from infra.errors import UserError
from infra.fanout import fan_out
from infra.job import Job, Summary
from infra.storage import Location
from rendering.views import ViewStore

SCHEMA = pa.schema([("uid", pa.string()), ("metric", pa.string()), ("view", pa.int32()), ("value", pa.float64()), ("reason", pa.string())])
SHOWN_UIDS = 20


@dataclass(frozen=True)
class ScoreConfig:
    """What is measured. Numbers other than the defaults show in the protocol's name.

    Attributes:
        points: surface samples per mesh.
        volume_resolution: cells along the longest side of the joint box for volume IoU.
        thresholds: of the F-scores, in units of the object's longest side.
        seed: of surface samples and bootstrap.
        truth_hull_resolution: cells of the hull of the true views, the ceiling of the mesh figures; 0 leaves it out.
    """

    points: int = 100_000
    volume_resolution: int = 128
    thresholds: tuple[float, ...] = (0.01, 0.02, 0.05)
    seed: int = 0
    truth_hull_resolution: int = 64

    @property
    def protocol(self) -> Protocol:
        return Protocol(self.points, self.volume_resolution, tuple(self.thresholds), self.seed)


def run(
    config: ScoreConfig,
    *,
    reference: Location,
    generated: Location,
    meshes: Location | None,
    model: Location | None,
    out: Location,
    job: Job,
) -> Summary:
    """Score every object that was to be generated; writes `scores.parquet`, `objects.csv` and `summary.json` into `out`.

    `completed` counts objects with figures for their pictures, `failed` the others.

    Raises:
        UserError: the model was trained on an object to be scored, or there is nothing to score.
    """
    uids, not_generated = _uids(generated)
    overlap = check_overlap([*uids, *not_generated], generated, model)
    job.run.params({"score": asdict(config)})
    failures = {row["uid"]: f"{row['reason']}: {row['detail']}" for row in _ledger(meshes) if row["status"] != "ok"}
    results = {uid: _empty(uid, config, f"not generated: {reason}") for uid, reason in not_generated.items()}
    inputs = ScoreInputs(reference, generated, meshes, failures, config.protocol, config.truth_hull_resolution)
    pieces = Pieces.of(job, out)
    for uid, result in fan_out(finished_scores, uids, job, "score", inputs=inputs, pieces=pieces):
        results[uid] = _empty(uid, config, f"{type(result).__name__}: {result}") if isinstance(result, Exception) else result
    objects = [results[uid] for uid in sorted(results)]
    rows = [row for scores in objects for row in scores.rows]
    (out / "scores.parquet").write_table(pa.Table.from_pylist(rows, schema=SCHEMA))
    (out / "objects.csv").write_text(_objects_csv(objects, config, _ledger(reference)))
    truth = ViewStore(reference)
    digests = {scores.uid: truth_digest(scores.uid, truth) for scores in objects}
    summary = summarise(objects, config, digests) | {"overlap": overlap, "model": _model_uri(generated, model)}
    (out / "summary.json").write_json(summary)
    pieces.end(job)
    _track(summary, job)
    counts = summary["counts"]
    facts = {"protocol": config.protocol.name, "evaluation_set": summary["evaluation_set"], "without_mesh": counts["without_mesh"]}
    return Summary(counts["completed"], counts["failed"], facts=facts)


def metric_names(config: ScoreConfig) -> tuple[str, ...]:
    return (*IMAGE_METRICS, *config.protocol.geometry.metric_names(), *CONSISTENCY_METRICS)


def baseline_names(config: ScoreConfig) -> tuple[str, ...]:
    return BASELINE_METRICS + (TRUTH_HULL_METRICS if config.truth_hull_resolution else ())


def _uids(generated: Location) -> tuple[list[str], dict[str, str]]:
    """Objects with generated views, and uid -> reason of those whose generation failed."""
    not_generated = {row["uid"]: row["reason"] or "" for row in _ledger(generated) if row["status"] != "ok"}
    if not_generated and not any(entry.name.startswith("part-") for entry in generated.children()):
        return [], not_generated
    return ViewStore(generated).uids(), not_generated


def _ledger(place: Location | None) -> list[dict[str, Any]]:
    if place is None or not (place / "ledger.parquet").exists():
        return []
    return (place / "ledger.parquet").read_table().to_pylist()


def check_overlap(scored: list[str], generated: Location, model: Location | None) -> dict[str, Any]:
    """Refuse figures on objects the model has trained on; returns what was checked, for the summary.

    Raises:
        UserError: naming the objects in both lists.
    """
    trained, why_unknown = trained_uids(generated, model)
    if trained is None:
        return {"checked": False, "trained_objects": None, "reason": why_unknown}
    both = sorted(set(scored) & trained)
    if both:
        shown = ", ".join(both[:SHOWN_UIDS]) + (f" and {len(both) - SHOWN_UIDS} more" if len(both) > SHOWN_UIDS else "")
        message = f"the model was trained on {len(both)} of the objects to be scored: {shown}"
        raise UserError(message, "generate from the test split, or score another model")
    return {"checked": True, "trained_objects": len(trained), "reason": ""}


def trained_uids(generated: Location, model: Location | None) -> tuple[set[str] | None, str]:
    """The objects that the model which made `generated` was trained on, or None and why they are not known."""
    if (generated / "model.json").exists() and (told := (generated / "model.json").read_json().get("trained_uids")) is not None:
        return set(told), ""
    if model is None or not (model / "version.json").exists():
        return None, "no registered model was given"
    version = (model / "version.json").read_json()
    uri = _model_uri(generated, None)
    if uri is not None and uri != version["uri"]:
        return None, f"the views were made by {uri}, the record at hand is of {version['uri']}"
    if "uids" not in version:
        return None, f"{version['uri']} does not tell what it was trained on"
    return set(version["uids"]), ""


def _model_uri(generated: Location, model: Location | None) -> str | None:
    for place, name in ((generated, "model.json"), (model, "version.json")):
        if place is not None and (place / name).exists():
            return (place / name).read_json()["uri"]
    return None


def _empty(uid: str, config: ScoreConfig, reason: str) -> ObjectScores:
    scores = ObjectScores(uid)
    scores.add_missing((*metric_names(config), *baseline_names(config)), reason)
    return scores


def _of_object(scores: ObjectScores) -> dict[str, dict[str, Any]]:
    return {row["metric"]: row for row in scores.rows if row["view"] is None}


def summarise(objects: list[ObjectScores], config: ScoreConfig, digests: dict[str, str]) -> dict[str, Any]:
    """The whole evaluation in one JSON-able dictionary; `digests` stand for the truth of each object, by uid."""
    protocol = config.protocol.described() | {"condition_views": max((scores.conditions for scores in objects), default=0)}
    figures = {scores.uid: _of_object(scores) for scores in objects}
    completed = [uid for uid, rows in figures.items() if rows["psnr"]["value"] is not None]
    missing: dict[tuple[str, str], list[str]] = {}
    for uid, rows in figures.items():
        for metric in metric_names(config):
            if rows[metric]["value"] is None:
                missing.setdefault((uid, rows[metric]["reason"]), []).append(metric)
    identical = sum(row["metric"] == "psnr" and row["view"] is not None and row["value"] == PSNR_CAP_DB for s in objects for row in s.rows)
    return {
        "protocol": protocol,
        "evaluation_set": evaluation_set_of(protocol, digests),
        "counts": {
            "objects": len(objects),
            "completed": len(completed),
            "failed": len(objects) - len(completed),
            "identical_views": identical,
            "without_mesh": sum(rows["chamfer"]["value"] is None for rows in figures.values()),
        },
        "metrics": {name: aggregate([rows[name]["value"] for rows in figures.values()], config.seed) for name in metric_names(config)},
        "baselines": {name: aggregate([rows[name]["value"] for rows in figures.values()], config.seed) for name in baseline_names(config)},
        "missing": [{"uid": uid, "reason": reason, "metrics": names} for (uid, reason), names in sorted(missing.items())],
    }


def _objects_csv(objects: list[ObjectScores], config: ScoreConfig, ledger: list[dict[str, Any]]) -> str:
    """One row per object, metrics in columns; a missing figure is an empty cell, its reason stands in `reasons`."""
    categories = {row["uid"]: row.get("category") for row in ledger}
    names = (*metric_names(config), *baseline_names(config))
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["uid", "category", *names, "reasons"])
    for scores in objects:
        rows = _of_object(scores)
        reasons = "; ".join(dict.fromkeys(row["reason"] for row in rows.values() if row["reason"]))
        values = ["" if rows[name]["value"] is None else repr(rows[name]["value"]) for name in names]
        writer.writerow([scores.uid, categories.get(scores.uid) or "", *values, reasons])
    return buffer.getvalue()


def _track(summary: dict[str, Any], job: Job) -> None:
    # MLflow's names know no '@'.
    means = {name.replace("@", "_at_"): stats["mean"] for name, stats in (summary["metrics"] | summary["baselines"]).items()}
    job.run.metrics({f"score/{name}": mean for name, mean in means.items() if mean is not None})
    job.run.tags({"score.protocol": summary["protocol"]["name"], "score.evaluation_set": summary["evaluation_set"]})
