"""What is measured: real steps and the real search for what is left to do, on objects that are made up.

Each probe prepares its input when it is called with a size and a folder; `run` is what is measured.
"""

import gzip
import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from evaluation.generated_pieces import Pieces
from infra import cluster
from infra.job import Job
from infra.storage import Location
from pipelines.artifact import Record, Store, new_build_id
from pipelines.fingerprint import canonical
from pipelines.scale.watch import in_folder
from rendering import catalog, dry_run, render
from rendering.curate import CurateConfig
from rendering.duplicates import alike_pairs
from rendering.fingerprint import Fingerprint
from rendering.pieces import DONE, FAILED, file_name

SHARDS = 160  # of metadata, as Objaverse has
NOT_OPEN_EVERY = 10  # objects of a licence that the default policy refuses
FAILED_EVERY, MISSING_EVERY = 97, 1000
WORKERS = 2
TWIN_EVERY, RING = 100, 16

Counts = dict[str, int]


@dataclass
class Probe:
    """A prepared measurement.

    Attributes:
        run: measured.
        count: what came out, after `run`.
        expected: what must have come out.
        places: kinds of metadata and the folders that hold them.
    """

    run: Callable[[], None]
    count: Callable[[], Counts]
    expected: Counts
    places: dict[str, list[Path]] = field(default_factory=dict)

    def metadata(self) -> tuple[Counts, Counts]:
        """Files and bytes by kind."""
        found = {kind: [in_folder(place) for place in places] for kind, places in self.places.items()}
        return {k: sum(f for f, _ in v) for k, v in found.items()}, {k: sum(b for _, b in v) for k, v in found.items()}


def catalog_probe(size: int, folder: Path) -> Probe:
    """The catalog step on a mirror of Objaverse's index with so many annotated objects; every tenth has a closed licence."""
    mirror, out = folder / "mirror", folder / "store" / "catalog"
    _write_index(size, mirror)
    config = catalog.CatalogConfig(
        source="objaverse", count=size, objaverse_base_url=mirror.as_uri(), val_fraction=0.005, test_fraction=0.005
    )
    done: dict[str, Any] = {}

    def run() -> None:
        done["summary"] = catalog.run(config, out=Location(str(out)), job=Job(cache=Location(str(folder / "cache"))))
        _record(folder / "store", "catalog", config, done["summary"])

    def count() -> Counts:
        uids = (Location(str(out)) / catalog.OBJECTS).read_table(columns=["uid"]).column("uid").to_pylist()
        return {"objects": len(set(uids)), "rows": len(uids), "excluded": done["summary"].rejected}

    closed = len(range(0, size, NOT_OPEN_EVERY))
    expected = {"objects": size - closed, "rows": size - closed, "excluded": closed}
    return Probe(run, count, expected, {"tables": [out], "records": [folder / "store" / "_records"]})


def _write_index(size: int, mirror: Path) -> None:
    shards: list[list[int]] = [list(range(start, size, SHARDS)) for start in range(min(SHARDS, size))]
    (mirror / "metadata").mkdir(parents=True)
    paths = {_uid(number): f"glbs/000-{index:03d}/{_uid(number)}.glb" for index, shard in enumerate(shards) for number in shard}
    (mirror / "object-paths.json.gz").write_bytes(gzip.compress(json.dumps(paths).encode(), 1))
    for index, shard in enumerate(shards):
        notes = {_uid(number): _annotation(number) for number in shard}
        (mirror / "metadata" / f"000-{index:03d}.json.gz").write_bytes(gzip.compress(json.dumps(notes).encode(), 1))


def _uid(number: int) -> str:
    return f"{number * 2654435761 % 2**32:08x}{number:024x}"


def _annotation(number: int) -> dict[str, Any]:
    return {
        "name": f"Object {number}",
        "license": "by-nc" if number % NOT_OPEN_EVERY == 0 else "by",
        "user": {"displayName": f"author {number % 5000}", "username": f"a{number % 5000}"},
        "viewerUrl": f"https://example.org/models/{_uid(number)}",
        "tags": [{"name": f"tag{number % 97}"}, {"name": f"tag{number % 31}"}, {"name": "model"}],
        "categories": [{"name": f"category-{number % 18}"}],
        "faceCount": number % 50_000,
    }


def render_probe(size: int, folder: Path) -> Probe:
    """The render step with a stand-in for Blender: real Ray Data, actors, pieces, packing, ledger."""
    cluster.attach()
    store, facts = folder / "store", {}

    def run() -> None:
        facts.update(dry_run.dry_run(size, WORKERS, store))

    def count() -> Counts:
        book = (Location(str(store / "out")) / "ledger.parquet").read_table(columns=["uid"]).column("uid").to_pylist()
        return {"completed": facts["completed"], "failed": facts["failed"], "ledger": len(book), "uids": len(set(book))}

    failed = len(range(0, size, dry_run.FAILS_EVERY))
    expected = {"completed": size - failed, "failed": failed, "ledger": size, "uids": size}
    return Probe(run, count, expected, {"pieces": [store / "cache"], "views and ledger": [store / "out"]})


def duplicates_probe(size: int, folder: Path) -> Probe:
    """Curation's search for objects that look the same; every `TWIN_EVERY`-th is there twice, turned by a step of its ring."""
    rng = np.random.default_rng(0)
    prints: list[Fingerprint] = []
    while len(prints) < size:
        colours = rng.integers(0, 256, (RING, 1, 1, 4)) // 2 + rng.integers(0, 128, (1, 8, 8, 4))
        one = Fingerprint(rng.random((RING, 64)) < 0.5, colours.astype(np.uint8))
        prints.append(one)
        if len(prints) % TWIN_EVERY == 0:
            prints[-2] = Fingerprint(np.roll(one.hashes, 1, 0), np.roll(one.thumbnails, 1, 0))
    found: list[tuple[int, int]] = []
    limits = CurateConfig()

    def run() -> None:
        found.extend(pair[:2] for pair in alike_pairs(prints, limits.max_hash_distance, limits.max_colour_distance))

    twins = {(number - 2, number - 1) for number in range(TWIN_EVERY, size + 1, TWIN_EVERY)}
    return Probe(run, lambda: {"pairs": len(found), "wrong": len(set(found) ^ twins)}, {"pairs": len(twins), "wrong": 0})


def render_left_probe(size: int, folder: Path) -> Probe:
    """What the render step has left to do: the fetched objects without those that have a piece."""
    config, pieces = dry_run.CONFIG, folder / "pieces"
    found: dict[str, Any] = {}
    place = Location(str(folder / "meshes.parquet"))
    dry_run.write_manifest(place, size)
    pieces.mkdir()
    for row in render._rows(place.read_table(columns=["uid", "sha256", "split"])):
        number = int(row["uid"].rpartition("-")[2])
        outcome = {"state": FAILED, "reason": "dry_failure"} if number % FAILED_EVERY == 0 else {"state": DONE}
        if number % MISSING_EVERY:
            _touch(pieces / file_name(render.piece_of(config, row), outcome))

    def run() -> None:
        objects = place.read_table().sort_by("uid")
        found["pieces"], found["rows"] = render.left_to_do(config, objects, Location(str(pieces)), Job())

    def count() -> Counts:
        left = {int(uid.rpartition("-")[2]) for uid in found["rows"].column("uid").to_pylist()}
        return {"left": len(found["rows"]), "wrong": len(left ^ set(range(0, size, MISSING_EVERY))), "pieces": len(found["pieces"])}

    left = len(range(0, size, MISSING_EVERY))
    return Probe(run, count, {"left": left, "wrong": 0, "pieces": size - left})


def generate_left_probe(size: int, folder: Path) -> Probe:
    """What generating has left to do: the tasks without those whose piece is there."""
    pieces, found = folder / "pieces", {}
    pieces.mkdir()
    keys = [f"{number:032x}" for number in range(size)]
    for number, key in enumerate(keys):
        if number % MISSING_EVERY:
            _touch(pieces / f"{key}.parquet")

    def run() -> None:
        tasks = [{"uid": f"dry-{number:07d}", "key": key, "place": ""} for number, key in enumerate(keys)]
        found["left"] = Pieces(Location(str(pieces))).missing(tasks)

    left = len(range(0, size, MISSING_EVERY))
    return Probe(run, lambda: {"left": len(found["left"])}, {"left": left})


def _touch(path: Path) -> None:
    os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o644))


def _record(root: Path, step: str, config: Any, summary: Any) -> None:
    """The record that the runner would leave, beside the tables and not among them."""
    store = Store(Location(str(root / "_records")))
    counted = {"completed": summary.completed, "failed": summary.failed, "rejected": summary.rejected, "facts": summary.facts}
    store.commit(Record(step, "scale", new_build_id(), "none", 1, canonical(config), {}, **counted))


PROBES: dict[str, Callable[[int, Path], Probe]] = {
    "catalog": catalog_probe,
    "render": render_probe,
    "duplicates": duplicates_probe,
    "render-left": render_left_probe,
    "generate-left": generate_left_probe,
}
