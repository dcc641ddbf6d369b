"""The figures of a model version, kept with the version: for later gates, for `mvforge models`, and for people in MLflow's UI.

The whole table by object is an artifact of the run that registered the version, so it lives as long as the version does and
whatever happens to the store's builds. A tag of the version per basis points to it. The means are logged onto the model
itself, where the UI sorts and charts them.
"""

import hashlib
import json
import math
import time
from dataclasses import dataclass
from typing import Any

from evaluation.score_table import ScoreTable, plain_name
from infra import tracking
from infra.tracking import ModelVersion, TrackedRun, VersionFacts

POINTER = "scores/"
LATEST = "scored_on"
# What MLflow's list of versions shows, which knows tags only, and `mvforge models list`.
USUAL = ("psnr_foreground", "ssim", "lpips", "chamfer", "volume_iou")


@dataclass(frozen=True)
class Kept:
    """Where one table of a version lies, and its gist.

    Attributes:
        basis: what it was measured on (`evaluation.score_table.basis_of`).
        evaluation_set: its fingerprint; sampling may differ on one set.
        run_id, artifact: where the table is.
        sha256: of the table's bytes.
        objects: on how many objects.
        means: metric -> mean over objects, of those that have one.
        at: epoch seconds.
    """

    basis: str
    evaluation_set: str
    run_id: str
    artifact: str
    sha256: str
    objects: int
    means: dict[str, float]
    at: float


def keep(uri: str, version: ModelVersion, table: ScoreTable, fallback: TrackedRun) -> bool:
    """Keep the table with the version, and its means on the model; False when this very table is kept already.

    The artifact comes first and the tag that points to it last. `fallback` is used for a version whose own run is gone.
    """
    data = json.dumps(table.to_json(), sort_keys=True, allow_nan=False).encode()
    digest = hashlib.sha256(data).hexdigest()
    before = kept_tables(tracking.version_tags(uri, version)).get(table.basis)
    if before is not None and before.sha256 == digest:
        return False
    run = tracking.run_of(uri, version) or fallback
    artifact = f"scores/{_short_name(table.basis).replace('/', '_')}.json"
    run.artifact(artifact, data)
    means = shown_means(table)
    name = dataset_name(table)
    run.dataset(name, table.evaluation_set, context="evaluation", source=table.source, facts=dataset_facts(table))
    tracking.log_version_metrics(uri, version, run, means, (name, table.evaluation_set))
    kept = Kept(table.basis, table.evaluation_set, run.run_id, artifact, digest, len(table.uids), means, time.time())
    shown = {plain_name(metric): f"{means[metric]:.4g}" for metric in USUAL if metric in means}
    tags = {**shown, f"{POINTER}{_short_name(table.basis)}": json.dumps(vars(kept)), LATEST: table.basis}
    tracking.set_version_tags(uri, version, tags)
    return True


def shown_means(table: ScoreTable) -> dict[str, float]:
    """Metric -> mean to six digits, as the UI shows them, and FID and its like; the table itself holds the means in full."""
    of_sets = {name: figure.get("value") for name, figure in (table.summary.get("sets") or {}).items()}
    known = {name: mean for name, mean in (table.means() | of_sets).items() if mean is not None and math.isfinite(mean)}
    return {name: float(f"{mean:.6g}") for name, mean in known.items()}


def _short_name(basis: str) -> str:
    """Names of files and tags end somewhere; a protocol that differs from its original in many numbers has a long one."""
    plain = plain_name(basis)
    return plain if len(plain) <= 150 else f"{plain[:130]}-{hashlib.sha256(basis.encode()).hexdigest()[:16]}"


def dataset_name(table: ScoreTable) -> str:
    """For example `40 objects, 1-view, default`, cut to a length that MLflow takes."""
    return f"{len(table.uids)} objects, {table.settings.get('conditions', '?')}-view, {table.protocol['name']}"[:200]


def dataset_facts(table: ScoreTable) -> dict[str, Any]:
    return {"objects": len(table.uids), "evaluation_set": table.evaluation_set, "basis": table.basis}


def kept_tables(tags: dict[str, str]) -> dict[str, Kept]:
    """Basis -> what is kept on it, from a version's tags."""
    found = [Kept(**json.loads(text)) for key, text in tags.items() if key.startswith(POINTER) and text.startswith("{")]
    return {kept.basis: kept for kept in found}


def latest(facts: VersionFacts) -> Kept | None:
    """The table scored last."""
    tables = kept_tables(facts.tags)
    return tables.get(facts.tags.get(LATEST, "")) or max(tables.values(), key=lambda kept: kept.at, default=None)


def kept_table(uri: str, version: ModelVersion, kept: Kept) -> ScoreTable | None:
    """The table by object; None when its run or file is gone from MLflow, or was changed there."""
    data = tracking.read_artifact(uri, kept.run_id, kept.artifact)
    if data is None or hashlib.sha256(data).hexdigest() != kept.sha256:
        return None
    return ScoreTable.from_json(json.loads(data), version.uri)
