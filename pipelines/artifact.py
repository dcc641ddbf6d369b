"""The store on disk: `<store>/<step>/<label>/record.json` beside one folder per build.

    <store>/render/tiny/record.json          written last: names the finished build and what made it
    <store>/render/tiny/20260101T120000-ab12cd/   its data
    <store>/render/tiny/building.json        a build in progress (or interrupted), if any
    <store>/render/_cache/                   pieces kept across builds and labels

A rerun builds beside the old build and replaces `record.json` when complete, so readers always find a whole
one. A label without `record.json` is unfinished by definition.
"""

import dataclasses
import re
import secrets
import time
from dataclasses import dataclass, field
from typing import Any

from infra.errors import UserError
from infra.storage import Location
from pipelines.schema import NewerFormat, readable, schema_note

CACHE = "_cache"
LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}")


@dataclass(frozen=True)
class InputRef:
    """Which build of which step was read."""

    step: str
    label: str
    build_id: str


@dataclass(frozen=True)
class Record:
    """What a finished build is and where it came from; the content of `record.json`.

    Attributes:
        fingerprint: hash of `config`, `version` and the inputs' build ids.
        config: canonical configuration.
        inputs: role -> build that was read; a role with several reads as `role.key`.
        completed, failed, rejected: item counts.
        facts: figures the step wants to show (JSON).
        started_at: epoch seconds; seconds: duration of the last run of this build.
        run_id: MLflow run of the step.
    """

    step: str
    label: str
    build_id: str
    fingerprint: str
    version: int
    config: Any
    inputs: dict[str, InputRef]
    completed: int = 0
    failed: int = 0
    rejected: int = 0
    facts: dict[str, Any] = field(default_factory=dict)
    started_at: float = 0.0
    seconds: float = 0.0
    run_id: str | None = None

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "Record":
        inputs = {role: InputRef(**_known(InputRef, ref)) for role, ref in value["inputs"].items()}
        return cls(**{**_known(cls, value), "inputs": inputs})


@dataclass(frozen=True)
class Building:
    """A build that was started and not finished; the content of `building.json`."""

    build_id: str
    fingerprint: str
    kind: str  # "build", "rerun" or "retry-failed"
    started_at: float
    failure: str | None = None


class Store:
    """The records of all steps and labels below one place."""

    def __init__(self, root: Location) -> None:
        self.root = root

    def folder(self, step: str, label: str) -> Location:
        """Folder of a label. Raises UserError for a label that is no plain name."""
        if not LABEL.fullmatch(label):
            raise UserError(f"'{label}' is not a valid label", "use letters, digits, '.', '_' and '-', starting with a letter or digit")
        return self.root / step / label

    def cache(self, step: str) -> Location:
        return self.root / step / CACHE

    def data(self, record: Record) -> Location:
        """Where a finished build's data lie."""
        return self.folder(record.step, record.label) / record.build_id

    def labels(self, step: str) -> list[str]:
        return [entry.name for entry in (self.root / step).children() if entry.is_dir and entry.name != CACHE]

    def record(self, step: str, label: str) -> Record | None:
        place = self.folder(step, label) / "record.json"
        if not place.exists():
            return None
        try:
            return Record.from_json(readable(place, place.read_json()))
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{place} is damaged: {error}", f"delete the folder {self.folder(step, label)} and run again") from error

    def readable(self, step: str, label: str) -> Record | None:
        """As `record`, but None for one in the format of a newer version: of use to those who look for something to reuse."""
        try:
            return self.record(step, label)
        except NewerFormat:
            return None

    def find(self, step: str, fingerprint: str, preferred: str) -> Record | None:
        """A finished build with this fingerprint, under the preferred label if there, else under any."""
        for label in sorted(self.labels(step), key=lambda name: (name != preferred, name)):
            record = self.readable(step, label)
            if record is not None and record.fingerprint == fingerprint:
                return record
        return None

    def commit(self, record: Record) -> None:
        """Make a build the finished one of its label: the record appears, then the note of the build in progress goes."""
        folder = self.folder(record.step, record.label)
        (folder / "record.json").write_json(record.to_json() | schema_note())
        (folder / "building.json").delete()

    def amend(self, record: Record) -> None:
        """Correct a fact in the record of a finished build, if it is still the finished one of its label."""
        current = self.record(record.step, record.label)
        if current is not None and current.build_id == record.build_id:
            (self.folder(record.step, record.label) / "record.json").write_json(record.to_json() | schema_note())

    def building(self, step: str, label: str) -> Building | None:
        place = self.folder(step, label) / "building.json"
        if not place.exists():
            return None
        try:
            return Building(**_known(Building, readable(place, place.read_json())))
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{place} is damaged: {error}", f"delete {place} and run again; the unfinished build is begun anew") from error

    def note_building(self, step: str, label: str, building: Building) -> None:
        (self.folder(step, label) / "building.json").write_json(dataclasses.asdict(building))

    def open_build(self, step: str, label: str, fingerprint: str, kind: str) -> Building:
        """Continue the interrupted build of the same kind and fingerprint, or start a new one.

        What an abandoned, different build left behind is removed; the finished build is never touched.
        """
        old = self.building(step, label)
        if old is not None and old.fingerprint == fingerprint and old.kind == kind:
            return old
        record = self.record(step, label)
        if old is not None and (record is None or record.build_id != old.build_id):
            (self.folder(step, label) / old.build_id).delete()
        building = Building(new_build_id(), fingerprint, kind, time.time())
        self.note_building(step, label, building)
        return building


def new_build_id() -> str:
    """Sortable by time, unique: `20260101T120000-ab12cd`."""
    return f"{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}-{secrets.token_hex(3)}"


def _known(kind: type, value: dict[str, Any]) -> dict[str, Any]:
    """The entries that the dataclass `kind` knows: a later version of the same format may have added others."""
    names = {each.name for each in dataclasses.fields(kind)}
    return {key: item for key, item in value.items() if key in names}
