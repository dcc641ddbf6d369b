"""What a report is made from: outputs of earlier steps, read once. Anything may be missing; the page then says so."""

import json
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
        ledgers: step -> ledger rows.
        rejected: curate's rows.
        generated, reference: view stores, None where there are no views.
    """

    summary: dict[str, Any]
    figures: dict[str, dict[str, float | None]]
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


def read_inputs(
    *,
    scores: Location,
    generated: Location,
    reference: Location,
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
    return ReportInputs(
        summary=(scores / "summary.json").read_json(),
        figures=_figures(scores),
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


def _figures(scores: Location) -> dict[str, dict[str, float | None]]:
    """Rows without a view are of the whole object."""
    figures: dict[str, dict[str, float | None]] = {}
    for row in (scores / "scores.parquet").read_table(columns=["uid", "metric", "view", "value"]).to_pylist():
        if row["view"] is None:
            figures.setdefault(row["uid"], {})[row["metric"]] = row["value"]
    return figures


def _store(place: Location) -> ViewStore | None:
    return ViewStore(place) if any(entry.name.startswith("part-") for entry in place.children()) else None


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
