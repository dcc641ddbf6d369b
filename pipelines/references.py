"""Which builds of a store something still points to: records, builds in progress, and the model registry."""

import json
import re
from dataclasses import dataclass, field
from typing import Any

from infra.storage import Location
from pipelines.artifact import LABEL, Store
from pipelines.lease import Holder, read_holder

BUILD = re.compile(r"\d{8}T\d{6}-[0-9a-f]{6}")
# The embedded tracking store keeps its files beside the steps.
NO_STEPS = ("mlartifacts", "mlruns")

BuildKey = tuple[str, str, str]
"""Step, label, build id."""


@dataclass(frozen=True)
class Registered:
    """A registered model version that may need files of the store.

    Attributes:
        uri: `models:/name/version`.
        source: where the registry says its files lie, a path or URL.
        build_id: the build that registered it; empty when another tool did.
    """

    uri: str
    source: str
    build_id: str


@dataclass(frozen=True)
class Live:
    """A build whose lease is held by a living process."""

    step: str
    label: str
    holder: Holder

    def __str__(self) -> str:
        return f"{self.step} under label '{self.label}' is being built by {self.holder}"


@dataclass(frozen=True)
class References:
    """What must stay. Made from the store as it is now; `of` again before anything is deleted.

    Attributes:
        builds: build -> why it stays, for current, interrupted and read builds.
        current: builds that a `record.json` names.
        interrupted: builds that a `building.json` names.
        live: leases that are held.
        settings: canonical settings of all current records as text; a build id in there is a reference too.
        registered: versions in the model registry.
    """

    builds: dict[BuildKey, str] = field(default_factory=dict)
    current: set[BuildKey] = field(default_factory=set)
    interrupted: set[BuildKey] = field(default_factory=set)
    live: list[Live] = field(default_factory=list)
    settings: list[str] = field(default_factory=list)
    registered: list[Registered] = field(default_factory=list)

    @classmethod
    def of(cls, store: Store, registered: list[Registered], own: tuple[str, str] | None = None) -> "References":
        """Read every record, note and lease of the store.

        Args:
            own: step and label whose lease the caller holds itself.

        Raises:
            UserError: a record or note that is damaged or of a newer format: what it refers to is then not known.
        """
        found = cls(registered=registered)
        for step in steps(store):
            for label in labels(store, step):
                found._read(store, step, label, own)
        return found

    def _read(self, store: Store, step: str, label: str, own: tuple[str, str] | None) -> None:
        # The lease first, the note before the record: a driver that ends meanwhile is then seen in one of them.
        holder = read_holder(store.folder(step, label) / "lease.json")
        try:
            building = store.building(step, label)
        except FileNotFoundError:  # the driver ended between two looks: its record is there by now
            building = None
        record = store.record(step, label)
        if holder is not None and not holder.is_gone() and (step, label) != own:
            self.live.append(Live(step, label, holder))
        if building is not None:
            key = (step, label, building.build_id)
            self.interrupted.add(key)
            self.builds[key] = "interrupted; the next run of this label goes on with it"
        if record is None:
            return
        self.current.add((step, label, record.build_id))
        self.builds[(step, label, record.build_id)] = "current"
        self.settings.append(json.dumps(record.config))
        for each in record.inputs.values():
            self.builds.setdefault((each.step, each.label, each.build_id), f"read by {step} under label '{label}'")

    def why(self, key: BuildKey, place: Location) -> str | None:
        """Why a build stays, or None when nothing points to it."""
        if key in self.builds:
            return self.builds[key]
        if any(key[2] in text for text in self.settings):
            return "named in the settings of a current build"
        inside = _path(place.uri)
        for version in self.registered:
            if version.build_id == key[2] or _path(version.source).startswith(inside):
                return f"registered as {version.uri}"
        return None

    def live_in(self, step: str) -> Live | None:
        """A living build of the step under any label."""
        return next((each for each in self.live if each.step == step), None)


def _path(uri: str) -> str:
    """A path or URL without keys and options, so that two spellings of one place compare; ends in a slash."""
    plain = uri.removeprefix("file://")
    if "://" in plain:
        plain = re.sub(r"(?<=://)[^/@]+@", "", plain.partition("?")[0])
    return plain.rstrip("/") + "/"


def steps(store: Store) -> list[str]:
    """Folders of the store that hold labels or a cache; others (a tracking store, foreign files) are none of ours."""
    names = [entry.name for entry in store.root.children() if entry.is_dir and LABEL.fullmatch(entry.name) and entry.name not in NO_STEPS]
    return [name for name in names if store.cache(name).exists() or labels(store, name)]


def labels(store: Store, step: str) -> list[str]:
    """Labels of the step that hold a record, a note or a lease of ours, or a build."""
    return [name for name in store.labels(step) if LABEL.fullmatch(name) and _is_label(store.folder(step, name))]


def _is_label(folder: Location) -> bool:
    ours = ("record.json", "building.json", "lease.json")
    return any(entry.name in ours or (entry.is_dir and BUILD.fullmatch(entry.name)) for entry in folder.children())


def registered_versions(rows: list[dict[str, Any]]) -> list[Registered]:
    """What `infra.tracking.version_sources` tells, as references."""
    return [Registered(row["uri"], row["source"], row["build_id"]) for row in rows]
