"""[step] Checkpoints of all stages -> one generator folder and one version in the model registry, at most once per build."""

import hashlib
import json
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from infra import tracking
from infra.errors import UserError
from infra.job import Job, Summary
from infra.provenance import git_commit
from infra.scratch import scratch_folder
from infra.storage import Location
from rendering.attribution import COLUMNS, CSV, write_attribution
from training.lookup import method_named
from training.model_card import INTENDED_USE, LIMITS, CardFacts, hub_page, model_card, shown_licences
from training.served import INPUT_COLUMNS, OUTPUT_COLUMNS, TRAINED_UIDS


@dataclass(frozen=True, kw_only=True)
class RegisterConfig:
    """Attributes:
    name: of the registered model.
    method, model: name in `METHODS` and that method's own config.
    recipe: the recipe's name, as a tag.
    intended_use, limits: sentences of the model card.
    """

    name: str = "mvforge"
    method: str = ""
    model: Any = None
    recipe: str = ""
    intended_use: str = field(default=INTENDED_USE, metadata={"identity": False})
    limits: str = field(default=LIMITS, metadata={"identity": False})


def run(
    config: RegisterConfig,
    *,
    checkpoints: dict[str, Location],
    meshes: Location,
    views: Location,
    kept: Location,
    out: Location,
    job: Job,
) -> Summary:
    """Assemble the generator and register it under `job.run`.

    Writes `model/` (the generator folder, with `attribution.csv` and `attribution.json` for what it learned from and the
    model card, `README.md`) and `version.json`: name, version, uri, run_id, build_id, uids (every object any stage trained
    on). Counts are versions.

    Args:
        checkpoints: outputs of the train steps by stage name.
        meshes: output of the fetch step, for licences and file hashes.

    Raises:
        UserError: no tracking run to register under, or a stage of the method is missing.
    """
    if job.run.tracking_uri is None or job.run.run_id is None:
        raise UserError("register needs a tracking store", "run it through a pipeline, or set MLFLOW_TRACKING_URI")
    method = method_named(config.method)
    if missing := [stage.name for stage in method.stages if stage.name not in checkpoints]:
        raise UserError(f"register lacks checkpoints of {', '.join(missing)}", "train these stages first")
    uids = sorted({uid for place in checkpoints.values() for uid in (place / "uids.json").read_json()})
    trained = _meshes_of(uids, meshes)
    tags = _tags(config, uids, trained, checkpoints)
    with scratch_folder("generator") as scratch, ExitStack() as stack:
        folder = Path(scratch) / "generator"
        folder.mkdir()
        local = {name: stack.enter_context((place / "checkpoint").as_local()) for name, place in checkpoints.items()}
        method.export(config.model, local, folder)
        # Travels with the model, so that no one scores it on what it has seen, wherever it is used.
        (folder / TRAINED_UIDS).write_text(json.dumps(uids))
        licences = write_attribution(trained, Location(str(folder)))
        card = _card(config, uids, licences, tags)
        (folder / "README.md").write_text(hub_page(card))
        run = tracking.TrackedRun(job.run.tracking_uri, job.run.run_id)
        facts = {"objects": len(uids), "licences": licences, "uids": tags["trained_uids"]}
        for each in filter(None, (run, run.parent)):
            each.dataset(f"{len(uids)} objects to train on", tags["data_fingerprint"], context="training", source=views.shown, facts=facts)
        version = tracking.register(
            job.run.tracking_uri,
            name=config.name,
            folder=folder,
            loader_module="training.served",
            input_columns=INPUT_COLUMNS,
            output_columns=OUTPUT_COLUMNS,
            tags=tags,
            description=model_card(card),
            run=run,
            build_id=job.build_id,
            model_description=_about(config),
        )
        (out / "model").delete()
        (out / "model").upload(folder)
    made = {"name": version.name, "version": version.version, "uri": version.uri, "run_id": job.run.run_id, "build_id": job.build_id}
    (out / "version.json").write_json({**made, "uids": uids})
    job.run.tags({"mvforge.model": version.uri, **{f"mvforge.{name}": value for name, value in tags.items()}})
    return Summary(completed=1, facts={**tags, "model": version.uri, "trained_objects": len(uids)})


def _meshes_of(uids: list[str], meshes: Location) -> list[dict[str, Any]]:
    """The meshes' rows of the trained objects, whose files were fetched: what the attribution needs, and the digests."""
    table = (meshes / "meshes.parquet").read_table()
    chosen = table.select([name for name in ("sha256", *COLUMNS) if name in table.column_names])
    return chosen.filter(pc.is_in(chosen["uid"], pa.array(uids, pa.string()))).sort_by("uid").to_pylist()


def _tags(config: RegisterConfig, uids: list[str], rows: list[dict[str, Any]], checkpoints: dict[str, Location]) -> dict[str, str]:
    files = sorted([row["uid"], row["sha256"]] for row in rows)
    losses = {f"validation_loss.{stage}": loss for stage, place in checkpoints.items() if (loss := _last_loss(place)) is not None}
    return {
        "method": config.method,
        "recipe": config.recipe,
        "git_commit": git_commit(),
        "data_fingerprint": _digest(files),
        "trained_uids": _digest(uids),
        "trained_objects": str(len(uids)),
        "licences": shown_licences(Counter(row["licence"] or "unknown" for row in rows)),
        "attribution": CSV,
        **losses,
    }


def _last_loss(place: Location) -> str | None:
    lines = (place / "validation.jsonl").read_text().splitlines()
    return f"{json.loads(lines[-1])['loss']:.6g}" if lines else None


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:16]


def _card(config: RegisterConfig, uids: list[str], licences: dict[str, int], tags: dict[str, str]) -> CardFacts:
    losses = {name.partition(".")[2]: loss for name, loss in tags.items() if name.startswith("validation_loss.")}
    return CardFacts(
        title=config.name,
        method=config.method,
        recipe=config.recipe,
        objects=len(uids),
        licences=licences,
        data_fingerprint=tags["data_fingerprint"],
        commit=tags["git_commit"],
        losses=losses,
        intended_use=config.intended_use,
        limits=config.limits,
        attribution=CSV,
    )


def _about(config: RegisterConfig) -> str:
    """The first description of the registered model; its versions have cards of their own."""
    return (
        f"Generators of many views from few pictures, made with mvforge. Each version has its card. `models:/{config.name}@champion` is "
        "the one that passed the gate; `mvforge models list` shows all of them with their figures.\n"
    )
