"""What `mvforge models` does: everything is read from MLflow, and every move of an alias is recorded there."""

import argparse
import getpass
import time
from typing import Any

from evaluation import champions, version_card
from evaluation.champions import Move
from evaluation.version_card import HEADLINE
from evaluation.version_scores import USUAL, kept_table, kept_tables, latest
from infra import tracking
from infra.errors import UserError
from infra.tracking import ModelVersion, VersionFacts
from pipelines.commands.columns import figure, print_table
from pipelines.commands.model_addresses import address_of, registry_of


def list_models(options: argparse.Namespace) -> dict[str, Any]:
    """The `models list` verb."""
    uri = registry_of(options)
    found = tracking.versions(uri, options.model)
    moves = champions.history(uri, options.model, options.alias)
    rows = [_row(facts) for facts in found]
    if not options.json:
        print(f"{options.model} in {uri}\n")
        print_table(_shown(rows, _columns(rows, options.metrics)))
        bases = {row["scored_on"] for row in rows if row["scored_on"]}
        if len(bases) > 1:
            print(f"\nscored on {len(bases)} bases: figures of different ones do not compare")
        _print_history(moves, options.alias)
    return {"model": options.model, "tracking_uri": uri, "versions": rows, "history": [vars(move) for move in moves]}


def promote_version(options: argparse.Namespace) -> dict[str, Any]:
    """The `models promote` verb."""
    uri = registry_of(options)
    version = tracking.resolve(uri, address_of(options.version, options.model))
    entry = champions.promote(uri, version, options.alias, _reason(options), getpass.getuser())
    return _moved(options, uri, version, entry)


def roll_back(options: argparse.Namespace) -> dict[str, Any]:
    """The `models rollback` verb."""
    uri = registry_of(options)
    tracking.versions(uri, options.model)  # refuses an unknown name with the known ones
    entry = champions.rollback(uri, options.model, options.alias, _reason(options), getpass.getuser())
    return _moved(options, uri, tracking.resolve(uri, f"models:/{options.model}/{entry.version}"), entry)


def _reason(options: argparse.Namespace) -> str:
    reason = " ".join(options.reason.split())
    if not reason:
        raise UserError("--reason is empty", "say in one sentence why; whoever looks at the model later will want to know")
    return reason[:1000]


def _row(facts: VersionFacts) -> dict[str, Any]:
    last = latest(facts)
    return {
        "version": facts.version.version,
        "uri": facts.version.uri,
        "aliases": list(facts.aliases),
        "recipe": facts.tags.get("recipe", ""),
        "method": facts.tags.get("method", ""),
        "made": time.strftime("%Y-%m-%d %H:%M", time.gmtime(facts.created_at)),
        "figures": last.means if last else {},
        "scored_on": last.basis if last else None,
        "objects_scored": last.objects if last else 0,
        "other_bases": sorted(set(kept_tables(facts.tags)) - {last.basis}) if last else [],
        "trained_objects": int(facts.tags["trained_objects"]) if facts.tags.get("trained_objects", "").isdigit() else None,
        "data_fingerprint": facts.tags.get("data_fingerprint"),
        "licences": facts.tags.get("licences"),
        "gate": facts.tags.get("gate.decision"),
        "gate_reason": facts.tags.get("gate.reason"),
        "withdrawn": facts.tags.get(champions.WITHDRAWN),
        "run_id": facts.run_id,
    }


def _columns(rows: list[dict[str, Any]], asked: str | None) -> list[str]:
    """The metrics to show. Raises UserError for one that no version was scored by."""
    known = dict.fromkeys(name for row in rows for name in row["figures"])
    if not asked:
        return [name for name in USUAL if name in known]
    names = [name.strip() for name in asked.split(",") if name.strip()]
    if wrong := [name for name in names if name not in known]:
        raise UserError(f"no version was scored by {', '.join(wrong)}", f"known: {', '.join(known) or 'none'}")
    return names


def _shown(rows: list[dict[str, Any]], metrics: list[str]) -> list[dict[str, str]]:
    return [
        {
            "version": row["version"],
            "alias": ", ".join(row["aliases"]),
            "recipe": row["recipe"],
            **{name: figure(row["figures"].get(name)) for name in metrics},
            "gate": "withdrawn" if row["withdrawn"] else row["gate"] or "",
            "scored on": row["scored_on"] or "never",
            "trained on": f"{row['trained_objects']} objects, {row['data_fingerprint'] or '?'}"
            if row["trained_objects"] is not None
            else "?",
            "made": row["made"],
        }
        for row in rows
    ]


def _print_history(moves: list[Move], alias: str) -> None:
    if moves:
        print(f"\nmoves of {alias}:")
    for entry in moves:
        of = f"{entry.before or 'none'} -> {entry.version}"
        print(f"  {entry.at[:16].replace('T', ' ')}  {of:12}  {entry.how:8}  {entry.by}: {entry.reason}")


def _moved(options: argparse.Namespace, uri: str, version: ModelVersion, entry: Move) -> dict[str, Any]:
    """Bring the model's description up to date, and say what was done."""
    last = latest(tracking.version_facts(uri, version))
    table = kept_table(uri, version, last) if last is not None else None
    text = version_card.figures(table, HEADLINE) if table is not None else "It was not scored yet."
    word = "taken back to it" if entry.how == champions.ROLLBACK else "promoted by hand"
    version_card.describe_champion(uri, version, options.alias, f"{text}\n\n{word} by {entry.by}: {entry.reason}")
    if not options.json:
        print(f"{options.alias} is {version.uri} now (before: {entry.before or 'none'})")
    return {"alias": options.alias, "uri": version.uri, **vars(entry)}
