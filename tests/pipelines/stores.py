"""Synthetic stores for tests, written by the project's own store code."""

import os
import time
from pathlib import Path

from infra.storage import Location
from pipelines.artifact import Building, InputRef, Record, Store, new_build_id

OLD = time.time() - 30 * 86400


def record(step: str, label: str, build_id: str, inputs: dict[str, InputRef] | None = None, **values) -> Record:
    described = {"fingerprint": f"print-{build_id}", "version": 1, "config": {"of": step}, "started_at": OLD, "seconds": 12.5}
    return Record(step=step, label=label, build_id=build_id, inputs=inputs or {}, **(described | values))


def finished(store: Store, step: str, label: str, inputs: dict[str, InputRef] | None = None, files: int = 2, **values) -> Record:
    """A finished build of `files` files of 100 bytes each."""
    made = record(step, label, new_build_id(), inputs, **values)
    orphan(store, step, label, made.build_id, files)
    store.commit(made)
    return made


def orphan(store: Store, step: str, label: str, build_id: str | None = None, files: int = 2) -> Location:
    """A build folder that nothing names."""
    place = store.folder(step, label) / (build_id or new_build_id())
    for number in range(files):
        (place / f"data-{number}.bin").write_bytes(bytes(100), sync=False)
    return place


def interrupted(store: Store, step: str, label: str, failure: str | None = None, started_at: float = OLD) -> Location:
    """A build in progress that no one works on."""
    building = Building(new_build_id(), "print", "build", started_at, failure)
    store.note_building(step, label, building)
    return store.folder(step, label) / building.build_id


def read_by(made: Record) -> InputRef:
    return InputRef(made.step, made.label, made.build_id)


def age(root: Location, days: float = 30) -> None:
    """Everything below was last changed so many days ago."""
    then = time.time() - days * 86400
    for path in [*Path(root.uri).rglob("*")]:
        os.utime(path, (then, then))
