"""[step] A model version and held-out condition views -> generated views, object by object on the actors of `generate_pool`."""

import io
import itertools
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from evaluation import model_source
from evaluation.generate_pool import Work, generate_all
from evaluation.generated_pieces import LEDGER, Pieces, digest
from evaluation.model_source import ModelSource
from infra.errors import UserError
from infra.job import Job, Summary
from infra.storage import Location
from rendering.sheet import contact_sheet
from rendering.view_set import CONDITION, ViewSet
from rendering.views import ViewStore, from_row, write_shards
from training.lookup import load_generator

SHEET_OBJECTS = 24


@dataclass(frozen=True)
class GenerateConfig:
    """What to generate, and with what.

    Attributes:
        model: `models:/<name>@<alias>` or `models:/<name>/<version>`; None uses the pipeline's own registered version.
        split: which held-out objects.
        conditions: how many of an object's condition views the model sees; the first is the reference.
        steps, sampler, guidance: sampling settings, handed to the method; guidance 1 means none.
        seed: with the uid it decides the noise of an object.
        max_objects: at most so many objects, first by uid; None takes all.
        quality_note: a caution shown on every picture for people, for example `tiny: not trained to quality`.
    """

    model: str | None = None
    split: str = "test"
    conditions: int = 1
    steps: int = 20
    sampler: str = "ddim"
    guidance: float = 1.0
    seed: int = 0
    max_objects: int | None = None
    quality_note: str = ""


def run(config: GenerateConfig, *, model: Location | None, views: Location, kept: Location, out: Location, job: Job) -> Summary:
    """Generate the held-out objects; writes view shards, `ledger.parquet`, `sheet.webp` and `model.json` into `out`.

    The generated views live in the frame where the reference view's azimuth is 0; `facts` of each object say by how
    much that is turned (`reference_azimuth_deg`), which condition views were used, and every sampling setting.

    Raises:
        UserError: no model, no object in the split, or no object with enough condition views.
    """
    source = model_source.find(config.model, model, job.run.tracking_uri)
    uids = chosen_uids(config, kept)
    job.run.params({"generate": asdict(config) | {"model": source.uri, "requested": config.model or ""}})
    pieces = Pieces((job.cache or out) / "pieces", job.fresh_since, job.retry_failed)
    tasks = _tasks(config, source, ViewStore(views), uids)
    missing = pieces.missing(tasks)
    work = Work(config, source, StoredObjects(views), pieces, load_generator)
    for _ in generate_all(missing, work, job, finished=len(tasks) - len(missing)):
        pass
    keys = {task["uid"]: task["key"] for task in tasks}
    write_shards(_noted(pieces.tables(keys), config.quality_note), out)
    ledger = pieces.ledger(keys)
    ledger = ledger.append_column("split", pa.array([config.split] * len(ledger), pa.string()))
    (out / "ledger.parquet").write_table(ledger)
    sheet = _sheet(pieces.tables(keys), config, source)
    (out / "sheet.webp").write_bytes(sheet)
    (out / "model.json").write_json(source.described() | {"settings": asdict(config), "trained_uids": source.trained_uids()})
    if job.cache is None:
        pieces.place.delete()
    return _summary(ledger, source, sheet, job)


def chosen_uids(config: GenerateConfig, kept: Location) -> list[str]:
    """The kept objects of the split by uid, cut to `max_objects`."""
    table = (kept / "kept.parquet").read_table(columns=["uid", "split"])
    uids = sorted(row["uid"] for row in table.to_pylist() if row["split"] == config.split)
    if not uids:
        raise UserError(f"no object of split '{config.split}' is left to generate", "use another split, or more objects in the catalog")
    return uids[: config.max_objects]


def _tasks(config: GenerateConfig, source: ModelSource, store: ViewStore, uids: list[str]) -> list[dict[str, str]]:
    """One `{uid, key, place}` per object; the key changes with anything that would change its result."""
    settings = {k: v for k, v in asdict(config).items() if k not in ("model", "split", "max_objects", "quality_note")}
    tasks, available = [], 0
    for uid in uids:
        row = store.row(uid, ["images", "roles", "azimuth_deg", "elevation_deg", "radius"]) if uid in store else {"roles": []}
        given = [i for i, role in enumerate(row["roles"]) if role == CONDITION][: config.conditions]
        available = max(available, len(given))
        seen = [[digest(row["images"][i]), row["azimuth_deg"][i], row["elevation_deg"][i], row["radius"][i]] for i in given]
        key = digest(json.dumps([1, uid, source.identity, settings, seen], sort_keys=True).encode())
        tasks.append({"uid": uid, "key": key, "place": ""})
    if available < config.conditions:
        raise UserError(
            f"{config.conditions} condition views are asked for, the rendered objects have at most {available}",
            "set generate.conditions lower, or render with more condition views",
        )
    return tasks


class StoredObjects:
    """Rendered objects of a view store."""

    def __init__(self, views: Location) -> None:
        self.store = ViewStore(views)

    def read(self, uid: str, place: str) -> tuple[ViewSet, dict[str, Any]]:
        return self.store.read(uid), {}

    def keep(self, uid: str, shown: ViewSet, made: ViewSet) -> dict[str, Any]:
        return {}


def _noted(tables: Iterator[pa.Table], note: str) -> Iterator[pa.Table]:
    """The tables with the caution added to `facts`, so that it travels with the pictures."""
    for table in tables:
        facts = json.loads(table.column("facts")[0].as_py()) | ({"quality_note": note} if note else {})
        index = table.schema.get_field_index("facts")
        yield table.set_column(index, "facts", pa.array([json.dumps(facts, sort_keys=True)], pa.string()))


def _sheet(tables: Iterator[pa.Table], config: GenerateConfig, source: ModelSource) -> bytes:
    sets = [from_row(table.to_pylist()[0]) for table in itertools.islice(tables, SHEET_OBJECTS)]
    labels = [" | ".join(part for part in (made.uid, source.uri, config.quality_note) if part) for made in sets]
    buffer = io.BytesIO()
    contact_sheet(sets, cell_px=72, labels=labels).save(buffer, "WEBP", quality=85)
    return buffer.getvalue()


def _summary(ledger: pa.Table, source: ModelSource, sheet: bytes, job: Job) -> Summary:
    rows = ledger.select([name for name in LEDGER.names]).to_pylist()
    completed = [row for row in rows if row["status"] == "ok"]
    facts = {
        "model": source.uri,
        "requested": source.requested,
        "views": sum(row["views"] or 0 for row in completed),
        "seconds_per_object": round(float(np.mean([row["seconds"] for row in completed])), 3) if completed else None,
        "objects_per_worker": {w: sum(row["worker"] == w for row in rows) for w in sorted({row["worker"] for row in rows})},
    }
    job.run.metrics({"generate/completed": len(completed), "generate/failed": len(rows) - len(completed)})
    job.run.artifact("generate/sheet.webp", sheet)
    return Summary(len(completed), len(rows) - len(completed), facts=facts)
