"""The figures of one evaluation by object, wherever they are kept: a folder that `score` wrote, or a model version in the registry."""

import math
import re
from dataclasses import dataclass
from typing import Any

from infra.errors import UserError
from infra.storage import Location

# What of the generation's settings changes the pictures of a given model and object.
SAMPLING = ("sampler", "steps", "guidance", "seed", "conditions")


@dataclass(frozen=True)
class ScoreTable:
    """One model's figures on one evaluation set.

    Attributes:
        source: where they came from, for messages.
        model: address of the version that made the pictures, empty when it is not known.
        summary: the score summary: protocol, evaluation set, counts, means.
        settings: the generation's settings, as far as they are known.
        values: metric -> uid -> figure of the object, None where it is undefined.
        reasons: metric -> uid -> why it is undefined.
    """

    source: str
    model: str
    summary: dict[str, Any]
    settings: dict[str, Any]
    values: dict[str, dict[str, float | None]]
    reasons: dict[str, dict[str, str]]

    @property
    def evaluation_set(self) -> str:
        return str(self.summary["evaluation_set"])

    @property
    def protocol(self) -> dict[str, Any]:
        described = self.summary["protocol"]
        return described if isinstance(described, dict) else {"name": described}

    @property
    def basis(self) -> str:
        """What two tables must share to be compared: protocol, evaluation set, and what the models were shown and asked for."""
        return basis_of(self.protocol["name"], self.evaluation_set, self.settings)

    @property
    def uids(self) -> set[str]:
        return {uid for figures in self.values.values() for uid in figures}

    def means(self) -> dict[str, float | None]:
        """Metric -> mean over objects, None where no object has a figure."""
        return {name: (stats or {}).get("mean") for name, stats in self.summary["metrics"].items()}

    def missing(self, metric: str) -> int:
        """Objects without a figure for the metric."""
        return sum(value is None for value in self.values.get(metric, {}).values())

    def to_json(self) -> dict[str, Any]:
        return {
            "format": 1,
            "model": self.model,
            "summary": self.summary,
            "settings": self.settings,
            "values": self.values,
            "reasons": self.reasons,
        }

    @classmethod
    def from_json(cls, value: dict[str, Any], source: str) -> "ScoreTable":
        return cls(source, value["model"], value["summary"], value["settings"], value["values"], value["reasons"])


def basis_of(protocol: str, evaluation_set: str, settings: dict[str, Any]) -> str:
    """For example `default/0123456789abcdef/1-view/ddim-20`; a guidance or seed other than the usual one is appended."""
    parts = [protocol, evaluation_set[:16], f"{settings.get('conditions', '?')}-view"]
    if "sampler" in settings:
        parts.append(f"{settings['sampler']}-{settings.get('steps', '?')}")
    parts += [f"{name}-{settings[name]:g}" for name, usual in (("guidance", 1), ("seed", 0)) if settings.get(name, usual) != usual]
    return "/".join(parts)


def read_scores(scores: Location, generated: Location | None = None) -> ScoreTable:
    """What the score step left in `scores`; `generated` (its input) tells the sampling settings.

    Raises:
        UserError: there are no scores, or they are damaged.
    """
    if not (scores / "summary.json").exists() or not (scores / "scores.parquet").exists():
        raise UserError(f"no scores in {scores.shown}: summary.json and scores.parquet are expected", "give the folder of a score build")
    try:
        summary = (scores / "summary.json").read_json()
        rows = (scores / "scores.parquet").read_table(columns=["uid", "metric", "view", "value", "reason"]).to_pylist()
        settings, model = summary.get("generation") or {}, summary.get("model") or ""
        if generated is not None and (generated / "model.json").exists():
            made_by = (generated / "model.json").read_json()
            settings, model = made_by.get("settings", {}), made_by["uri"]
        summary["metrics"], summary["evaluation_set"], summary["protocol"]  # noqa: B018 - a summary without them is none
    except (ValueError, KeyError, OSError) as error:
        raise UserError(f"the scores in {scores.shown} cannot be read: {error}", "score again") from error
    values: dict[str, dict[str, float | None]] = {}
    reasons: dict[str, dict[str, str]] = {}
    for row in rows:
        if row["view"] is not None or row["metric"] not in summary["metrics"]:
            continue
        value = row["value"] if row["value"] is not None and math.isfinite(row["value"]) else None
        values.setdefault(row["metric"], {})[row["uid"]] = value
        if value is None:
            reasons.setdefault(row["metric"], {})[row["uid"]] = row["reason"] or "not a finite number"
    asked = {name: settings[name] for name in SAMPLING if name in settings}
    return ScoreTable(scores.shown, model, summary, asked, values, reasons)


def plain_name(name: str) -> str:
    """A name of a file, a tag or a metric that MLflow takes: letters, digits and `_-./`, `@` as `_at_`."""
    return re.sub(r"[^\w\-./]", "_", name.replace("@", "_at_"))
