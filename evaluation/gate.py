"""[step] The gate: decides whether a scored model version becomes the champion, and moves that alias.

The decision itself is `evaluation.gate_rule.decide`. The rest gathers what it needs: from the score step, from the tables
that earlier gates kept with the champion, or by scoring the champion again.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from evaluation import champions, version_card
from evaluation.champions import Move
from evaluation.gate_rule import PROMOTED, Figure, GateConfig, decide
from evaluation.publish import describe_pipeline, publish
from evaluation.rescore import Rescoring, needs_meshes, rescore
from evaluation.score_table import ScoreTable, plain_name, read_scores
from evaluation.statistics import paired
from evaluation.version_scores import keep, kept_table, kept_tables
from infra import logs, tracking
from infra.errors import UserError
from infra.job import Job, Summary
from infra.storage import Location
from infra.tracking import ModelVersion, TrackedRun
from training.served import TRAINED_UIDS


@dataclass(frozen=True)
class GateTask(GateConfig):
    """The rule, and how a champion without comparable figures is scored again (None: it is not); the rule alone is identity."""

    rescoring: Rescoring | None = field(default=None, metadata={"identity": False})


def task_of(rule: GateConfig, rescoring: Rescoring) -> GateTask:
    """What the graph hands to the step."""
    return GateTask(**asdict(rule), rescoring=rescoring)


def run(
    config: GateConfig,
    *,
    scores: Location,
    model: Location | None,
    generated: Location,
    out: Location,
    job: Job,
    views: Location | None = None,
    kept: Location | None = None,
) -> Summary:
    """Judge the version that made the pictures in `generated`; writes `decision.json`.

    Its figures are kept with the version, which is described by them. A champion that was never scored on this basis is
    generated and scored again below `out`, from `views` and `kept`. Running again changes nothing.

    Raises:
        UserError: no registry, or the metric is not among the scores.
    """
    uri = job.run.tracking_uri
    if uri is None:
        raise UserError("the gate needs a model registry, and none is in use", "set MLFLOW_TRACKING_URI, or leave the gate step out")
    made_by = (generated / "model.json").read_json()
    version = ModelVersion(made_by["name"], str(made_by["version"]), made_by["uri"])
    table = read_scores(scores, generated)
    if config.metric not in table.means():
        raise UserError(
            f"the gate's metric '{config.metric}' was not scored", f"choose gate.metric among {', '.join(sorted(table.means()))}"
        )
    publish(uri, version, table, generated, job)
    trained = made_by.get("trained_uids")
    seen = _seen(table, trained if trained is not None else _trained_uids(uri, version))
    withdrawn = tracking.version_tags(uri, version).get(champions.WITHDRAWN, "")
    challenger = _measured(Figure(version.uri, table.basis, None, seen=seen, withdrawn=withdrawn), config.metric, table)
    record = _unfinished(config, uri, version, challenger, job)
    if record is None:
        record = _judge(config, uri, version, table, challenger, {"views": views, "kept": kept}, out, job)
    if record["decision"] == PROMOTED:
        # The intention first: an interrupted build finds it and ends with the same decision.
        tracking.set_version_tags(uri, version, {_intention(job): json.dumps(_short(record))})
        before = record["champion_before"]
        entry = Move(version.version, _number(before), champions.GATE, record["reason"], record["at"], f"build {job.build_id}")
        champions.move(uri, version, config.alias, entry)
    (out / "decision.json").write_json(record)
    told = {"gate.decision": record["decision"], "gate.reason": record["reason"]}
    job.run.tags(told)
    tracking.set_version_tags(uri, version, told)
    word = f"{record['decision']}: {record['reason']}"
    version_card.describe(uri, version, table, config.alias, word)
    describe_pipeline(uri, version, table, word, job)
    return Summary(1, facts={key: record[key] for key in ("decision", "reason", "champion_before", "champion_after")})


def _measured(figure: Figure, metric: str, table: ScoreTable) -> Figure:
    """The figure with what the table says."""
    value = table.means().get(metric)
    return replace(figure, value=value, missing=table.missing(metric), why_not="" if value is not None else _first_reason(table, metric))


def _trained_uids(uri: str, version: ModelVersion) -> list[str] | None:
    """What the version was trained on, as it travels with the model; None when it does not tell."""
    listed = tracking.read_model_file(uri, version, TRAINED_UIDS)
    return json.loads(listed) if listed is not None else None


def _seen(table: ScoreTable, trained: list[str] | None) -> int | None:
    return None if trained is None else len(table.uids & set(trained))


def _first_reason(table: ScoreTable, metric: str) -> str:
    reasons = sorted(set(table.reasons.get(metric, {}).values()))
    return f"no object has a {metric}" + (f": {reasons[0]}" if reasons else "")


def _judge(
    config: GateConfig,
    uri: str,
    version: ModelVersion,
    table: ScoreTable,
    challenger: Figure,
    data: Mapping[str, Location | None],
    out: Location,
    job: Job,
) -> dict[str, Any]:
    before = tracking.get_alias(uri, version.name, config.alias)
    champion, difference, again = None, None, False
    if before is not None:
        champion = Figure(before.uri, challenger.basis, None, seen=None)
        if before != version and challenger.value is not None:
            champion, against, again = _champion(config, uri, before, table, data, out, job)
            if against is not None:
                difference = paired(against.values[config.metric], table.values[config.metric])
    decision, reason = decide(config, challenger, champion, difference)
    return {
        "decision": decision,
        "reason": reason,
        "at": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "alias": config.alias,
        "metric": config.metric,
        "minimum": config.minimum,
        "min_objects": config.min_objects,
        "basis": challenger.basis,
        "model": version.uri,
        "value": challenger.value,
        "champion_before": champion.uri if champion else None,
        "champion_before_value": champion.value if champion else None,
        "champion_after": version.uri if decision == PROMOTED else champion.uri if champion else None,
        "champion_scored_again": again,
        "paired": difference,
        "trained_on": {figure.uri: figure.seen for figure in (champion, challenger) if figure is not None},
    }


def _champion(
    config: GateConfig, uri: str, version: ModelVersion, table: ScoreTable, data: Mapping[str, Location | None], out: Location, job: Job
) -> tuple[Figure, ScoreTable | None, bool]:
    """The champion's figure on the basis of `table`, its figures by object, and whether it had to be scored again for them."""
    nothing = Figure(version.uri, table.basis, None, seen=_seen(table, _trained_uids(uri, version)))
    if nothing.seen != 0:
        # Its figures would flatter it, however they came about; there is no use in making them.
        return nothing, None, False
    pointer = kept_tables(tracking.version_tags(uri, version)).get(table.basis)
    known = kept_table(uri, version, pointer) if pointer is not None else None
    if known is not None and known.means().get(config.metric) is not None:
        return _measured(nothing, config.metric, known), known, False
    rescoring = config.rescoring if isinstance(config, GateTask) else None
    views, kept = data.get("views"), data.get("kept")
    if rescoring is None or views is None or kept is None:
        return replace(nothing, why_not="it was never scored there, and this gate has nothing to score it with"), None, False
    logs.say(f"[gate] {version.uri} was never scored on {table.basis}: scoring it now")
    try:
        fresh = rescore(
            rescoring,
            version,
            tracking_uri=uri,
            views=views,
            kept=kept,
            meshes=needs_meshes(config.metric),
            out=out / "champion",
            job=job,
        )
    except UserError as error:
        return replace(nothing, why_not=f"scoring it failed: {error.message}"), None, True
    assert job.run.run_id is not None
    keep(uri, version, fresh, TrackedRun(uri, job.run.run_id))
    version_card.describe(uri, version, fresh, config.alias, f"holds it, and was scored again to be compared with {table.model}")
    if fresh.basis != table.basis:
        return replace(nothing, why_not=f"scored now, it stands on {fresh.basis}"), None, True
    return _measured(nothing, config.metric, fresh), fresh, True


def _unfinished(config: GateConfig, uri: str, version: ModelVersion, challenger: Figure, job: Job) -> dict[str, Any] | None:
    """The promotion this very build began before it was interrupted, unless the world has changed since."""
    text = tracking.version_tags(uri, version).get(_intention(job))
    if text is None:
        return None
    record = json.loads(text)
    now = tracking.get_alias(uri, version.name, config.alias)
    same_world = (now.uri if now else None) in (record["champion_before"], version.uri)
    rule = ("alias", "metric", "minimum", "min_objects")
    same_case = [record.get(name) for name in rule] == [getattr(config, name) for name in rule] and not challenger.withdrawn
    return record if same_world and same_case and (record["basis"], record["value"]) == (challenger.basis, challenger.value) else None


def _intention(job: Job) -> str:
    return f"gate/{plain_name(job.build_id)}"


def _short(record: dict[str, Any]) -> dict[str, Any]:
    """Tags hold 5000 characters: the objects left out may be many, and stand in `decision.json` of a build that was not interrupted."""
    difference = record["paired"]
    if difference is None:
        return record
    return {**record, "paired": {**difference, "left_out": dict(list(difference["left_out"].items())[:10])}}


def _number(uri: str | None) -> str:
    return uri.rpartition("/")[2] if uri else ""
