"""What a report is made from: outputs of earlier steps, read once. Anything may be missing; the page then says so."""

import json
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from infra.errors import UserError
from infra.storage import Location
from rendering.views import ViewStore


@dataclass
class Curve:
    """One training stage: logged rows (`step` and figures), and held-out rows."""

    training: list[dict[str, Any]]
    validation: list[dict[str, Any]]


@dataclass
class ReportInputs:
    """Everything the page shows.

    Attributes:
        summary: the score summary.
        figures: uid -> metric -> figure of the object (None where it is undefined).
        views: uid -> metric -> generated target view -> figure of that view.
        reasons: metric -> reason -> number of objects that have no figure because of it.
        ledgers: step -> ledger rows.
        rejected: curate's rows.
        generated, reference: view stores, None where there are no views.
    """

    summary: dict[str, Any]
    figures: dict[str, dict[str, float | None]]
    views: dict[str, dict[str, dict[int, float]]]
    reasons: dict[str, Counter[str]]
    generated: ViewStore | None
    reference: ViewStore | None
    meshes: Location | None
    ledgers: dict[str, list[dict[str, Any]]]
    rejected: list[dict[str, Any]]
    made_by: dict[str, Any]
    version: dict[str, Any]
    decision: dict[str, Any] | None
    curves: dict[str, Curve] = field(default_factory=dict)

    @property
    def objects(self) -> dict[str, dict[str, Any]]:
        """uid -> what the reference ledger knows (category, licence, split, ...)."""
        return {row["uid"]: row for row in self.ledgers["render"]}

    @property
    def protocol(self) -> dict[str, Any]:
        """The protocol's description; one that is only a name counts as such."""
        described = self.summary["protocol"]
        return described if isinstance(described, dict) else {"name": described}

    def stats(self, metric: str) -> dict[str, Any]:
        """What the summary says about a metric: mean, ci95, ...; of a set metric its `value` as the mean, `pictures` and `note`."""
        if metric in self.sets:
            return {**self.sets[metric], "mean": self.sets[metric].get("value")}
        return self.summary["metrics"].get(metric) or {}

    @property
    def sets(self) -> dict[str, dict[str, Any]]:
        """Metrics of all pictures together (FID and the like), which no single object has."""
        return self.summary.get("sets") or {}

    def metric_names(self) -> list[str]:
        """The metrics of this evaluation, baselines left out."""
        return list(self.summary["metrics"])


def read_inputs(
    *,
    scores: Location,
    generated: Location | None,
    reference: Location | None,
    meshes: Location | None,
    decision: Location | None,
    model: Location | None,
    histories: dict[str, Location],
    fetched: Location | None,
    curated: Location | None,
) -> ReportInputs:
    """Read all there is. Raises UserError when the scores are missing: then there is nothing to report."""
    if not (scores / "summary.json").exists():
        raise UserError(f"no scores in {scores}", "run the score step first")
    ledgers = {"render": _rows(reference, "ledger"), "generate": _rows(generated, "ledger"), "reconstruct": _rows(meshes, "ledger")}
    figures, views, reasons = _figures(scores)
    return ReportInputs(
        summary=(scores / "summary.json").read_json(),
        figures=figures,
        views=views,
        reasons=reasons,
        generated=_store(generated),
        reference=_store(reference),
        meshes=meshes,
        ledgers={"fetch": _rows(fetched, "meshes")} | ledgers,
        rejected=_rows(curated, "rejected"),
        made_by=_json(generated, "model.json") or {},
        version=_json(model, "version.json") or {},
        decision=_json(decision, "decision.json"),
        curves={name: Curve(_lines(place, "history.jsonl"), _lines(place, "validation.jsonl")) for name, place in histories.items()},
    )


def _figures(
    scores: Location,
) -> tuple[dict[str, dict[str, float | None]], dict[str, dict[str, dict[int, float]]], dict[str, Counter[str]]]:
    """Figures of objects, figures of views, and why there are none. Rows without a view are of the whole object."""
    figures: dict[str, dict[str, float | None]] = {}
    views: dict[str, dict[str, dict[int, float]]] = {}
    reasons: dict[str, Counter[str]] = {}
    for row in (scores / "scores.parquet").read_table(columns=["uid", "metric", "view", "value", "reason"]).to_pylist():
        uid, metric, value = row["uid"], row["metric"], row["value"]
        if row["view"] is None:
            figures.setdefault(uid, {})[metric] = value
            if value is None:
                reasons.setdefault(metric, Counter())[row["reason"] or "no reason was recorded"] += 1
        elif value is not None:
            views.setdefault(uid, {}).setdefault(metric, {})[row["view"]] = value
    return figures, views, reasons


def _store(place: Location | None) -> ViewStore | None:
    return ViewStore(place) if place is not None and any(entry.name.startswith("part-") for entry in place.children()) else None


def _rows(place: Location | None, name: str) -> list[dict[str, Any]]:
    if place is None or not (place / f"{name}.parquet").exists():
        return []
    return (place / f"{name}.parquet").read_table().to_pylist()


def _json(place: Location | None, name: str) -> dict[str, Any] | None:
    return (place / name).read_json() if place is not None and (place / name).exists() else None


def _lines(place: Location, name: str) -> list[dict[str, Any]]:
    """One JSON object per line; figures nested under `metrics` are lifted to the row."""
    if not (place / name).exists():
        return []
    rows = [json.loads(line) for line in (place / name).read_text().splitlines() if line.strip()]
    return [{**{k: v for k, v in row.items() if k != "metrics"}, **(row.get("metrics") or {})} for row in rows]
