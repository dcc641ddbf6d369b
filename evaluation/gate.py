"""[step] The gate: decides whether a scored model version becomes the champion, and is alone in moving that alias.

The decision itself (`decide`) is a pure function of two figures; the rest reads them from the score summary and from
tags of the champion's version, where an earlier gate left them.
"""

import json
import math
import re
from dataclasses import dataclass
from typing import Any

from infra import tracking
from infra.errors import UserError
from infra.job import Job, Summary
from infra.storage import Location
from infra.tracking import ModelVersion

LOWER_IS_BETTER = ("accuracy", "completeness", "chamfer", "max_distance", "p95_distance", "lpips", "fid", "kid")
PROMOTED, KEPT, REFUSED = "promoted", "kept", "refused"


@dataclass(frozen=True)
class GateConfig:
    """The rule of the gate.

    Attributes:
        alias: what the best version is called in the registry.
        metric: whose mean over objects decides; errors and distances count as better when lower.
        minimum: what the first champion must reach (for an error: the most it may be); None asks for nothing.
    """

    alias: str = "champion"
    metric: str = "psnr_foreground"
    minimum: float | None = None


@dataclass(frozen=True)
class Figure:
    """One version's mean on the gate's metric, and what it was measured on.

    `basis` names protocol, evaluation set and number of condition views; two figures compare only on one basis.
    `value` is None where the version was never measured on that basis; `missing` counts the objects without a figure,
    which do not enter the mean.
    """

    uri: str
    basis: str
    value: float | None
    missing: int = 0


def run(config: GateConfig, *, scores: Location, model: Location | None, generated: Location, out: Location, job: Job) -> Summary:
    """Judge the version that made the pictures in `generated`; writes `decision.json`.

    The figures are left as tags on the version. Running again changes nothing.

    Raises:
        UserError: no registry, or the metric is not among the scores.
    """
    uri = job.run.tracking_uri
    if uri is None:
        raise UserError("the gate needs a model registry, and none is in use", "set MLFLOW_TRACKING_URI, or leave the gate step out")
    made_by = (generated / "model.json").read_json()
    version = ModelVersion(made_by["name"], str(made_by["version"]), made_by["uri"])
    summary = (scores / "summary.json").read_json()
    means = mean_figures(summary)
    if config.metric not in means:
        raise UserError(f"the gate's metric '{config.metric}' was not scored", f"choose gate.metric among {', '.join(sorted(means))}")
    basis = basis_of(summary, made_by)
    missing = {name: int((stats or {}).get("missing") or 0) for name, stats in summary["metrics"].items()}
    tracking.set_version_tags(uri, version, score_tags(means, missing, basis))

    challenger = Figure(version.uri, basis, means[config.metric], missing[config.metric])
    record = _unfinished(config, uri, version, challenger, job) or _judge(config, uri, version, challenger)
    if record["decision"] == PROMOTED:
        # The intention first: an interrupted build finds it and ends with the same decision.
        tracking.set_version_tags(uri, version, {_intention(job): json.dumps(record)})
        tracking.set_alias(uri, version, config.alias)
    (out / "decision.json").write_json(record)
    job.run.tags({"gate.decision": record["decision"], "gate.reason": record["reason"]})
    return Summary(1, facts={key: record[key] for key in ("decision", "reason", "champion_before", "champion_after")})


def _judge(config: GateConfig, uri: str, version: ModelVersion, challenger: Figure) -> dict[str, Any]:
    before = tracking.get_alias(uri, version.name, config.alias)
    champion = None
    if before is not None:
        stored = json.loads(tracking.version_tags(uri, before).get(_tag(challenger.basis, config.metric), "{}"))
        champion = Figure(before.uri, challenger.basis, stored.get("mean"), stored.get("missing", 0))
    decision, reason = decide(config, challenger, champion)
    return {
        "decision": decision,
        "reason": reason,
        "alias": config.alias,
        "metric": config.metric,
        "minimum": config.minimum,
        "basis": challenger.basis,
        "model": version.uri,
        "value": challenger.value,
        "champion_before": champion.uri if champion else None,
        "champion_before_value": champion.value if champion else None,
        "champion_after": version.uri if decision == PROMOTED else champion.uri if champion else None,
    }


def _unfinished(config: GateConfig, uri: str, version: ModelVersion, challenger: Figure, job: Job) -> dict[str, Any] | None:
    """The promotion this very build began before it was interrupted, unless the world has changed since."""
    text = tracking.version_tags(uri, version).get(_intention(job))
    if text is None:
        return None
    record = json.loads(text)
    now = tracking.get_alias(uri, version.name, config.alias)
    same_world = (now.uri if now else None) in (record["champion_before"], version.uri)
    same_case = (record["alias"], record["metric"], record["minimum"]) == (config.alias, config.metric, config.minimum)
    return record if same_world and same_case and (record["basis"], record["value"]) == (challenger.basis, challenger.value) else None


def _intention(job: Job) -> str:
    return f"gate/{_clean(job.build_id)}"


def mean_figures(summary: dict[str, Any]) -> dict[str, float | None]:
    """Metric name -> mean over objects (None where it is undefined) from a score summary."""
    return {name: (stats or {}).get("mean") for name, stats in summary["metrics"].items()}


def basis_of(summary: dict[str, Any], made_by: dict[str, Any]) -> str:
    """What two figures must share to be compared."""
    protocol = summary["protocol"]
    name = protocol["name"] if isinstance(protocol, dict) else protocol
    conditions = made_by.get("settings", {}).get("conditions", "?")
    return f"{name}/{summary['evaluation_set'][:16]}/{conditions}-view"


def score_tags(means: dict[str, float | None], missing: dict[str, int], basis: str) -> dict[str, str]:
    """Tags for a version: figures by basis, which gates read, and the latest ones by plain name, which people read."""
    known = {name: value for name, value in means.items() if value is not None and math.isfinite(value)}
    exact = {_tag(basis, name): json.dumps({"mean": float(value), "missing": missing[name]}) for name, value in known.items()}
    return exact | {_clean(name): f"{value:.4g}" for name, value in known.items()} | {"scored_on": basis}


def _tag(basis: str, metric: str) -> str:
    return f"score/{_clean(basis)}/{_clean(metric)}"


def _clean(name: str) -> str:
    """MLflow's tag names know letters, digits and `_-./: ` only."""
    return re.sub(r"[^\w\-./]", "_", name.replace("@", "_at_"))


def decide(config: GateConfig, challenger: Figure, champion: Figure | None) -> tuple[str, str]:
    """-> (`promoted`, `kept` or `refused`; the reason in one sentence).

    `refused`: the challenger is not fit to be champion whoever holds the title. `kept`: the champion stays.
    """
    value, metric = challenger.value, config.metric
    if value is None or not math.isfinite(value):
        return REFUSED, f"{challenger.uri} has no finite mean {metric}"
    if champion is None:
        if config.minimum is not None and value != config.minimum and not _better(metric, value, config.minimum):
            return (
                REFUSED,
                f"the first {config.alias} needs {metric} {_at_least(metric)} {config.minimum:g}; {challenger.uri} has {value:.4f}",
            )
        floor = "no floor is set" if config.minimum is None else f"the floor is {config.minimum:g}"
        return PROMOTED, f"there was no {config.alias}; {challenger.uri} has {metric} {value:.4f} ({floor})"
    if champion.uri == challenger.uri:
        return KEPT, f"{challenger.uri} is the {config.alias} already"
    if champion.value is None or champion.basis != challenger.basis:
        return KEPT, f"{champion.uri} was never scored on {challenger.basis}, so the two cannot be compared"
    if challenger.missing > champion.missing:
        lost = f"{challenger.missing} objects have no {metric}, {champion.missing} with {champion.uri}"
        return KEPT, f"the mean of {challenger.uri} leaves more objects out: {lost}"
    figures = f"mean {metric} {value:.4f} against {champion.value:.4f} of {champion.uri} on {challenger.basis}"
    return (PROMOTED, f"better: {figures}") if _better(metric, value, champion.value) else (KEPT, f"not better: {figures}")


def _better(metric: str, value: float, other: float) -> bool:
    return value < other if metric in LOWER_IS_BETTER else value > other


def _at_least(metric: str) -> str:
    return "at most" if metric in LOWER_IS_BETTER else "at least"
