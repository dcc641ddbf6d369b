"""Two models on the same objects: for every metric the paired difference, its interval and its significance."""

import json
from typing import Any

from evaluation.metrics.directions import LOWER_IS_BETTER, is_better
from evaluation.score_table import SAMPLING, ScoreTable
from evaluation.statistics import TEST, holm, paired
from infra.errors import UserError

LEVEL = 0.05
SHOWN = 6
UNDECIDED = "undecided"


def compare(a: ScoreTable, b: ScoreTable, seed: int = 0) -> dict[str, Any]:
    """Every metric that both have, B against A.

    Returns:
        `a`, `b` (source, model, settings), `protocol`, `evaluation_set`, `test` (how it was tested), `notes` (what else differs),
        and `metrics`: name -> what `paired` gives, with `p_holm`, `lower_is_better` and `verdict`: `better` or `worse` (B's
        interval excludes zero), `undecided`, or `no figures`.

    Raises:
        UserError: another protocol or evaluation set; figures of these do not compare, and the message says what differs.
    """
    refuse_different(a, b)
    names = [name for name in a.values if name in b.values]
    results = {name: paired(a.values[name], b.values[name], seed) for name in names}
    corrected = holm({name: result["p_value"] for name, result in results.items()})
    for name, result in results.items():
        result |= {"p_holm": corrected[name], "lower_is_better": name in LOWER_IS_BETTER, "verdict": verdict(name, result)}
    return {
        "a": {"source": a.source, "model": a.model, "settings": a.settings},
        "b": {"source": b.source, "model": b.model, "settings": b.settings},
        "protocol": a.protocol["name"],
        "evaluation_set": a.evaluation_set,
        "test": TEST,
        "notes": _notes(a, b),
        "metrics": results,
    }


def verdict(metric: str, result: dict[str, Any]) -> str:
    """What the interval of a paired difference says of B: it must leave zero out, on the side that is good for this metric."""
    if not result["objects"]:
        return "no figures"
    if result["ci95"] is None or result["ci95"][0] <= 0 <= result["ci95"][1]:
        return UNDECIDED
    return "better" if is_better(metric, result["mean_difference"], 0.0) else "worse"


def refuse_different(a: ScoreTable, b: ScoreTable) -> None:
    """Raises UserError unless both were measured by one protocol on one evaluation set."""
    if a.evaluation_set == b.evaluation_set:
        return
    differing = _differences(a.protocol, b.protocol)
    if differing:
        shown = "; ".join(differing[:SHOWN])
        raise UserError(
            f"{a.source} and {b.source} were scored by different protocols ({shown}), so their figures do not compare",
            "score both with the same settings: `mvforge run RECIPE --only eval --set generate.model=models:/NAME/VERSION` for each",
        )
    only_a, only_b = sorted(a.uids - b.uids), sorted(b.uids - a.uids)
    what = "the same objects, but other true views or meshes of them"
    if only_a or only_b:
        what = f"{len(a.uids & b.uids)} objects in both, {len(only_a)} only in the first{_some(only_a)}, {len(only_b)} only in the second"
        what += _some(only_b)
    raise UserError(
        f"{a.source} and {b.source} were scored on different evaluation sets ({what}), so their figures do not compare",
        "generate and score both from one render build and split: run the eval steps once for each under the same catalog, render and "
        "curate settings, with --set generate.model=models:/NAME/VERSION",
    )


def _some(uids: list[str]) -> str:
    return f" ({', '.join(uids[:3])}{', ...' if len(uids) > 3 else ''})" if uids else ""


def _differences(a: Any, b: Any, name: str = "") -> list[str]:
    """`geometry.points: 2000 and 1000` for every leaf that differs."""
    if isinstance(a, dict) and isinstance(b, dict):
        keys = sorted(a.keys() | b.keys(), key=str)
        return [line for key in keys for line in _differences(a.get(key), b.get(key), f"{name}.{key}" if name else str(key))]
    return [] if a == b else [f"{name}: {json.dumps(a)} and {json.dumps(b)}"]


def _notes(a: ScoreTable, b: ScoreTable) -> list[str]:
    """What a reader must know beside the figures."""
    notes = []
    differing = [
        f"{name} {a.settings.get(name)} and {b.settings.get(name)}" for name in SAMPLING if a.settings.get(name) != b.settings.get(name)
    ]
    if differing:
        notes.append(f"the pictures were sampled differently: {', '.join(differing)}")
    for side, table in (("A", a), ("B", b)):
        overlap = table.summary.get("overlap") or {}
        if not overlap.get("checked"):
            notes.append(f"it is not known whether {side} was trained on these objects: {overlap.get('reason') or 'nothing was recorded'}")
    return notes
