"""What `mvforge compare` and `mvforge models compare` do: find two tables of figures, compare them, show the result."""

import argparse
from typing import Any

from evaluation.compare import compare
from evaluation.score_table import ScoreTable, read_scores
from evaluation.version_card import HEADLINE
from evaluation.version_scores import Kept, kept_table, kept_tables, latest
from infra import tracking
from infra.errors import UserError
from infra.storage import Location
from infra.tracking import ModelVersion
from pipelines.artifact import LABEL, Store
from pipelines.commands.columns import figure, print_table
from pipelines.commands.model_addresses import address_of, registry_of
from pipelines.context import absolute, store_location

RESCORE = "score it there: mvforge run RECIPE --only eval --set generate.model={uri}"


def compare_scores(options: argparse.Namespace) -> dict[str, Any]:
    """The `compare` verb."""
    if options.a.startswith("models:/") and options.b.startswith("models:/"):
        return _compared(options, *_versions_tables(registry_of(options), options.a, options.b))
    if options.a.startswith("models:/"):
        b = _built(options.b, options)
        return _compared(options, _kept_like(registry_of(options), options.a, b), b)
    a = _built(options.a, options)
    if options.b.startswith("models:/"):
        return _compared(options, a, _kept_like(registry_of(options), options.b, a))
    return _compared(options, a, _built(options.b, options))


def compare_versions(options: argparse.Namespace) -> dict[str, Any]:
    """The `models compare` verb."""
    a, b = (address_of(text, options.model) for text in (options.a, options.b))
    return _compared(options, *_versions_tables(registry_of(options), a, b))


def _built(text: str, options: argparse.Namespace) -> ScoreTable:
    """The table of a label of the store, or of a folder."""
    store = Store(store_location(options.store))
    if LABEL.fullmatch(text) and (record := store.record("score", text)) is not None:
        source = record.inputs.get("generated")
        generated = store.folder(source.step, source.label) / source.build_id if source is not None else None
        return read_scores(store.data(record), generated)
    place = Location(absolute(text, "the score folder"))
    if (place / "summary.json").exists():
        return read_scores(place)
    if (place / "record.json").exists() and (place / (place / "record.json").read_json()["build_id"] / "summary.json").exists():
        return read_scores(place / (place / "record.json").read_json()["build_id"])
    labels = ", ".join(store.labels("score")) or "none"
    raise UserError(
        f"'{text}' is no label with a finished score step, no folder with summary.json, and no models:/ address",
        f"labels of {store.root.shown}: {labels}",
    )


def _versions_tables(uri: str, a: str, b: str) -> tuple[ScoreTable, ScoreTable]:
    """The tables of two versions on the basis they share, else on one evaluation set; the latest where there are several."""
    versions = [tracking.resolve(uri, text) for text in (a, b)]
    known = [kept_tables(tracking.version_tags(uri, version)) for version in versions]
    for version, tables in zip(versions, known, strict=True):
        if not tables:
            raise UserError(f"{version.uri} was never scored", RESCORE.format(uri=version.uri))
    pairs = [(a, b) for a in known[0].values() for b in known[1].values() if a.evaluation_set == b.evaluation_set]
    if not pairs:
        shown = " and ".join(f"{version.uri} on {', '.join(tables)}" for version, tables in zip(versions, known, strict=True))
        raise UserError(f"the versions share no evaluation: {shown}", RESCORE.format(uri=versions[0].uri))
    best = max(pairs, key=lambda pair: (pair[0].basis == pair[1].basis, max(kept.at for kept in pair)))
    return _read(uri, versions[0], best[0]), _read(uri, versions[1], best[1])


def _kept_like(uri: str, text: str, other: ScoreTable) -> ScoreTable:
    """The table of a version that compares with `other`: on the same evaluation set if there is one, else the latest."""
    version = tracking.resolve(uri, text)
    facts = tracking.version_facts(uri, version)
    last = latest(facts)
    if last is None:
        raise UserError(f"{version.uri} was never scored", RESCORE.format(uri=version.uri))
    same_set = [kept for kept in kept_tables(facts.tags).values() if kept.evaluation_set == other.evaluation_set]
    exact = [kept for kept in same_set if kept.basis == other.basis]
    return _read(uri, version, (exact or same_set or [last])[-1])


def _read(uri: str, version: ModelVersion, kept: Kept) -> ScoreTable:
    table = kept_table(uri, version, kept)
    if table is None:
        raise UserError(
            f"the figures of {version.uri} on {kept.basis} are gone from MLflow, or changed there ({kept.artifact} of run {kept.run_id})",
            RESCORE.format(uri=version.uri),
        )
    return table


def _compared(options: argparse.Namespace, a: ScoreTable, b: ScoreTable) -> dict[str, Any]:
    result = compare(a, b)
    if not options.json:
        print(
            f"A  {a.model or a.source}\nB  {b.model or b.source}\non {result['protocol']}, evaluation set {result['evaluation_set'][:16]}\n"
        )
        ordered = sorted(result["metrics"], key=lambda name: (name not in HEADLINE, name not in HEADLINE or HEADLINE.index(name), name))
        print_table([_compared_row(name, result["metrics"][name]) for name in ordered])
        print("\nB - A per object, mean and bootstrap 95 % interval; p: sign-flip test, corrected for the number of metrics.")
        left_out = {uid: why for of_metric in result["metrics"].values() for uid, why in of_metric["left_out"].items()}
        if left_out:
            print(
                f"{len(left_out)} objects are left out of some metric, for example {next(iter(left_out))}: {next(iter(left_out.values()))}"
            )
        for note in result["notes"]:
            print(f"note: {note}")
    return result


def _compared_row(name: str, of_metric: dict[str, Any]) -> dict[str, str]:
    interval = of_metric["ci95"]
    return {
        "metric": name,
        "A": figure(of_metric["mean_a"]),
        "B": figure(of_metric["mean_b"]),
        "B - A": figure(of_metric["mean_difference"], "+"),
        "95 % interval": f"{figure(interval[0], '+')} .. {figure(interval[1], '+')}" if interval else "",
        "p": figure(of_metric["p_holm"]),
        "objects": str(of_metric["objects"]),
        "B is": of_metric["verdict"],
    }
