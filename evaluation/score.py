"""[step] Generated views and meshes against held-out truth. Only measures; what follows from it is the gate's business.

Per object and metric there is always a row: a figure, or none and the reason. In `scores.parquet` rows with a `view`
are of that target view, rows without one are of the object (the mean over its views where it has views).
"""

import csv
import io
import json
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from evaluation.metrics.alignment import ALIGNMENTS
from evaluation.metrics.image import PSNR_CAP_DB
from evaluation.metrics.learned import SET_METRICS, LearnedMetrics, LocalWeights, set_figures
from evaluation.pieces import Pieces
from evaluation.protocols import protocol_named
from evaluation.protocols.base import OPTIONAL_METRICS, Protocol, evaluation_set_of
from evaluation.protocols.coverage import coverage
from evaluation.score_object import (
    BASELINE_METRICS,
    TRUTH_HULL_METRICS,
    ObjectScores,
    ScoreInputs,
    aligned_metrics,
    finished_scores,
    learned_metrics,
    truth_digest,
)
from evaluation.statistics import aggregate
from infra.errors import UserError
from infra.fanout import fan_out
from infra.job import Job, Summary
from infra.storage import Location
from rendering.views import ViewStore
from training.nn.config import folder_of, weights_field

SCHEMA = pa.schema([("uid", pa.string()), ("metric", pa.string()), ("view", pa.int32()), ("value", pa.float64()), ("reason", pa.string())])
SHOWN_UIDS = 20


@dataclass(frozen=True)
class ScoreConfig:
    """What is measured. Numbers other than the protocol's show in its name.

    Attributes:
        protocol: `default`, `syncdreamer-gso30`, `mvdiffusionpp-sparse` or `instant3d-gso64` (`mvforge protocols list`).
        points: surface samples per mesh; none takes the protocol's.
        volume_resolution: points along a side of the box for volume IoU; none takes the protocol's.
        thresholds: of the F-scores, in units of the object's longest side; none takes the protocol's.
        seed: of surface samples and bootstrap.
        truth_hull_resolution: cells of the hull of the true views, the ceiling of the mesh figures; 0 leaves it out.
        consistency_resolution: cells of the hull of the generated views, against which they are held; 0 leaves that out.
        align: `bbox` or `icp` measures the mesh so aligned as well, under names of its own; empty for not.
        lpips: file with VGG-16 and LPIPS heads; without it LPIPS is null.
        clip: folder of a CLIP vision tower with projection in transformers' layout; without it CLIP similarity is null.
        features: TorchScript file or transformers folder of the network of FID, KID and IS; without it they are null.
    """

    protocol: str = "default"
    points: int | None = None
    volume_resolution: int | None = None
    thresholds: tuple[float, ...] | None = None
    seed: int = 0
    truth_hull_resolution: int = 64
    consistency_resolution: int | None = None
    align: str = ""
    lpips: str | None = weights_field(None, folder_of)
    clip: str | None = weights_field(None, folder_of)
    features: str | None = weights_field(None, folder_of)

    def __post_init__(self) -> None:
        protocol_named(self.protocol)
        if self.align and self.align not in ALIGNMENTS:
            raise UserError(f"unknown alignment '{self.align}'", f"choose {' or '.join(ALIGNMENTS)}, or leave it empty")

    def resolved(self) -> Protocol:
        """The protocol with this configuration's numbers."""
        return protocol_named(self.protocol).with_numbers(
            points=self.points,
            volume_resolution=self.volume_resolution,
            thresholds=None if self.thresholds is None else tuple(self.thresholds),
            seed=self.seed,
            consistency_resolution=self.consistency_resolution,
        )

    @property
    def weights(self) -> LocalWeights:
        return LocalWeights(self.lpips, self.clip, self.features)


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
    """Score every object that was to be generated; writes `scores.parquet`, `objects.csv`, `objects.json` and `summary.json` into `out`.

    `completed` counts objects with figures for their pictures, `failed` the others.

    Raises:
        UserError: weights that are named cannot be used, the model was trained on an object to be scored, or there is nothing to score.
    """
    learned = usable_weights(config.weights)
    uids, not_generated = _uids(generated)
    overlap = check_overlap([*uids, *not_generated], generated, model)
    job.run.params({"score": asdict(config)})
    failures = {row["uid"]: f"{row['reason']}: {row['detail']}" for row in _ledger(meshes) if row["status"] != "ok"}
    results = {uid: _empty(uid, config, f"not generated: {reason}") for uid, reason in not_generated.items()}
    protocol, weights_id = config.resolved(), json.dumps(learned.described(), sort_keys=True)
    inputs = ScoreInputs(
        reference, generated, meshes, failures, protocol, config.truth_hull_resolution, config.weights, weights_id, config.align
    )
    pieces = Pieces.of(job, out)
    for uid, result in fan_out(finished_scores, uids, job, "score", inputs=inputs, pieces=pieces):
        results[uid] = _empty(uid, config, f"{type(result).__name__}: {result}") if isinstance(result, Exception) else result
    objects = [results[uid] for uid in sorted(results)]
    rows = [row for scores in objects for row in scores.rows]
    (out / "scores.parquet").write_table(pa.Table.from_pylist(rows, schema=SCHEMA))
    categories = {row["uid"]: row.get("category") or "" for row in _ledger(reference)}
    (out / "objects.csv").write_text(_objects_csv(objects, config, categories))
    (out / "objects.json").write_json([_object_json(scores, config, categories) for scores in objects])
    truth = ViewStore(reference)
    digests = {scores.uid: truth_digest(scores.uid, truth) for scores in objects}
    summary = summarise(objects, config, digests, learned) | {
        "overlap": overlap,
        "model": _model_uri(generated, model),
        "generation": _generation(generated),
    }
    (out / "summary.json").write_json(summary)
    pieces.end(job)
    _track(summary, job)
    counts = summary["counts"]
    facts = {"protocol": protocol.name, "evaluation_set": summary["evaluation_set"], "without_mesh": counts["without_mesh"]}
    return Summary(counts["completed"], counts["failed"], facts=facts)


def usable_weights(weights: LocalWeights) -> LearnedMetrics:
    """The learned metrics, loaded.

    Raises:
        UserError: weights that are named are missing or cannot be read; those that are not named are no error.
    """
    learned = learned_metrics(weights)
    for name, metric in (("lpips", "lpips"), ("clip", "clip_similarity"), ("features", "fid")):
        if getattr(weights, name) is not None and metric in learned.reasons:
            raise UserError(
                f"{name}: {learned.reasons[metric]}", f"give the path of usable weights, or leave {name} out for a null {metric}"
            )
    return learned


def metric_names(config: ScoreConfig) -> tuple[str, ...]:
    return (*config.resolved().metric_names(), *aligned_metrics(config.align))


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


def _generation(generated: Location) -> dict[str, Any]:
    """The settings that the views were made with, so that scores tell it without them; empty where they are not recorded."""
    place = generated / "model.json"
    return (place.read_json().get("settings") or {}) if place.exists() else {}


def _empty(uid: str, config: ScoreConfig, reason: str) -> ObjectScores:
    scores = ObjectScores(uid)
    scores.add_missing((*metric_names(config), *baseline_names(config)), reason)
    return scores


def _of_object(scores: ObjectScores) -> dict[str, dict[str, Any]]:
    return {row["metric"]: row for row in scores.rows if row["view"] is None}


def summarise(objects: list[ObjectScores], config: ScoreConfig, digests: dict[str, str], learned: LearnedMetrics) -> dict[str, Any]:
    """The whole evaluation in one JSON-able dictionary; `digests` stand for the truth of each object, by uid."""
    asked = config.resolved()
    conditions = max((scores.seen.conditions for scores in objects), default=0)
    protocol = asked.described() | {"condition_views": conditions, "align": config.align or "none", "learned": learned.described()}
    figures = {scores.uid: _of_object(scores) for scores in objects}
    completed = [uid for uid, rows in figures.items() if rows["psnr"]["value"] is not None]
    missing: dict[tuple[str, str], list[str]] = {}
    unavailable: dict[str, dict[str, Any]] = {}
    for uid, rows in figures.items():
        for metric in metric_names(config):
            if rows[metric]["value"] is not None:
                continue
            reason = rows[metric]["reason"]
            if metric in OPTIONAL_METRICS and uid in completed:
                unavailable.setdefault(metric, {"reason": reason, "objects": 0})["objects"] += 1
            else:
                missing.setdefault((uid, reason), []).append(metric)
    identical = sum(row["metric"] == "psnr" and row["view"] is not None and row["value"] == PSNR_CAP_DB for s in objects for row in s.rows)
    return {
        "protocol": protocol,
        "evaluation_set": evaluation_set_of(protocol, digests),
        "coverage": coverage(asked, {scores.uid: scores.seen for scores in objects if scores.uid in completed}, figures),
        "counts": {
            "objects": len(objects),
            "completed": len(completed),
            "failed": len(objects) - len(completed),
            "identical_views": identical,
            "without_mesh": sum(rows["chamfer"]["value"] is None for rows in figures.values()),
        },
        "metrics": {name: aggregate([rows[name]["value"] for rows in figures.values()], config.seed) for name in metric_names(config)},
        "sets": _set_metrics(objects, learned),
        "baselines": {name: aggregate([rows[name]["value"] for rows in figures.values()], config.seed) for name in baseline_names(config)},
        "missing": [{"uid": uid, "reason": reason, "metrics": names} for (uid, reason), names in sorted(missing.items())],
        "unavailable": unavailable,
    }


def _set_metrics(objects: list[ObjectScores], learned: LearnedMetrics) -> dict[str, dict[str, Any]]:
    """FID, KID and IS over all scored pictures of all objects: value, how many pictures, and a note or why there is none."""
    known = [scores.features for scores in objects if scores.features]
    if not known:
        return {name: {"value": None, "pictures": 0, "note": learned.reasons.get(name, "no object has pictures")} for name in SET_METRICS}
    whole = {name: np.concatenate([features[name] for features in known]) for name in known[0]}
    values, notes = set_figures(whole["reference"], whole["generated"], whole.get("probabilities"))
    notes |= {name: learned.reasons[name] for name in SET_METRICS if name in learned.reasons}
    count = len(whole["generated"])
    return {name: {"value": values[name], "pictures": count, "note": notes.get(name, "")} for name in SET_METRICS}


def _objects_csv(objects: list[ObjectScores], config: ScoreConfig, categories: dict[str, str]) -> str:
    """One row per object, metrics in columns; a missing figure is an empty cell, its reason stands in `reasons`."""
    names = (*metric_names(config), *baseline_names(config))
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["uid", "category", *names, "reasons"])
    for scores in objects:
        rows = _of_object(scores)
        reasons = "; ".join(dict.fromkeys(row["reason"] for row in rows.values() if row["reason"]))
        values = ["" if rows[name]["value"] is None else repr(rows[name]["value"]) for name in names]
        writer.writerow([scores.uid, categories.get(scores.uid, ""), *values, reasons])
    return buffer.getvalue()


def _object_json(scores: ObjectScores, config: ScoreConfig, categories: dict[str, str]) -> dict[str, Any]:
    """Everything about one object, also view by view and why a figure is missing."""
    rows = _of_object(scores)
    views: dict[int, dict[str, Any]] = {}
    for row in scores.rows:
        if row["view"] is not None:
            views.setdefault(row["view"], {"view": row["view"]})[row["metric"]] = row["value"]
    return {
        "uid": scores.uid,
        "category": categories.get(scores.uid, ""),
        "metrics": {name: rows[name]["value"] for name in metric_names(config)},
        "baselines": {name: rows[name]["value"] for name in baseline_names(config)},
        "reasons": {name: row["reason"] for name, row in rows.items() if row["value"] is None},
        "seen": asdict(scores.seen),
        "worst_view": scores.worst,
        "views": [views[number] for number in sorted(views)],
    }


def _track(summary: dict[str, Any], job: Job) -> None:
    # MLflow's names know no '@'.
    means = {name.replace("@", "_at_"): stats["mean"] for name, stats in (summary["metrics"] | summary["baselines"]).items()}
    means |= {name: one["value"] for name, one in summary["sets"].items()}
    job.run.metrics({f"score/{name}": mean for name, mean in means.items() if mean is not None})
    job.run.tags({"score.protocol": summary["protocol"]["name"], "score.evaluation_set": summary["evaluation_set"]})
