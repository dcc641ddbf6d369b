"""Removing what `pipelines.garbage` finds, beside drivers that are at work, and so that a kill at any moment harms nothing.

A label is emptied under its own lease, after a second look, so no driver builds there meanwhile. On a local disk a thing first gets a
temporary name in one rename and is gone for every reader; an object store has no rename, so there what makes it look whole goes
first. A sweep that was killed leaves temporary names and unreferenced rests, which the next one finds.
"""

import os
import time
import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from infra.errors import UserError
from infra.storage import Location
from pipelines.artifact import Store
from pipelines.garbage import WRITING_S, Garbage, Kept, Survey, survey_label, survey_root, survey_shared
from pipelines.garbage_pieces import survey_pieces
from pipelines.lease import Lease
from pipelines.references import References, Registered, labels, steps

AskRegistry = Callable[[], list[Registered]]
# How often, while a cache is emptied, it is asked whether a driver has come.
LOOK_AGAIN_S = 1.0


@dataclass(frozen=True)
class Choice:
    """What a sweep may look at.

    Attributes:
        labels: only these labels and nothing shared between labels; empty means everything.
        older_than_s: seconds since the newest change inside; what is younger stays.
    """

    labels: frozenset[str] = frozenset()
    older_than_s: float = WRITING_S

    @property
    def before(self) -> float:
        return time.time() - self.older_than_s

    @property
    def writing_before(self) -> float:
        return time.time() - max(self.older_than_s, WRITING_S)

    def takes(self, label: str) -> bool:
        return not self.labels or label in self.labels


@dataclass
class Swept:
    """What a sweep did; `failed` holds (item, reason)."""

    deleted: list[Garbage] = field(default_factory=list)
    kept: list[Kept] = field(default_factory=list)
    failed: list[tuple[Garbage, str]] = field(default_factory=list)


def survey(store: Store, choice: Choice, ask: AskRegistry) -> Survey:
    """Everything that could be removed now.

    Args:
        ask: tells which registered versions there are; called only when some build seems to be needed by nothing else.

    Raises:
        UserError: a record or note that cannot be read, or the registry cannot be asked.
    """
    references = References.of(store, [])
    found = _survey(store, choice, references)
    if any(item.kind == "build" for item in found.garbage):
        references.registered.extend(ask())
        found = _survey(store, choice, references)
    return found


def _survey(store: Store, choice: Choice, references: References) -> Survey:
    found = Survey()
    for step in steps(store):
        for label in filter(choice.takes, labels(store, step)):
            found.extend(survey_label(store, step, label, references, choice.before, choice.writing_before))
    if not choice.labels:
        _extend_shared(found, store, choice, references)
    return found


def _extend_shared(found: Survey, store: Store, choice: Choice, references: References) -> None:
    gone = {(item.step, item.label or "", item.place.name) for item in found.garbage if item.kind == "build"}
    for step in steps(store):
        found.extend(survey_shared(store, step, references, choice.writing_before))
        found.extend(survey_pieces(store, step, references, gone, min(choice.before, choice.writing_before)))
    found.extend(survey_root(store, references, choice.writing_before))


def sweep(store: Store, choice: Choice, ask: AskRegistry, say: Callable[[str], None]) -> Swept:
    """Remove what `survey` finds, label by label and then the caches; the store may be in use.

    Raises:
        UserError: as `survey`; nothing more is removed then.
    """
    first, swept = survey(store, choice, ask), Swept()
    registered = ask() if any(item.kind == "build" for item in first.garbage) else []
    swept.kept += [item for item in first.kept]
    for step, label in sorted({(item.step, item.label) for item in first.garbage if item.label is not None}):
        try:
            with Lease(store.folder(step, label) / "lease.json", f"{step} under label '{label}'", say=say):
                references = References.of(store, registered, own=(step, label))
                again = survey_label(store, step, label, references, choice.before, choice.writing_before)
                _remove_all(again.garbage, swept)
        except UserError as error:
            if "is being built by" not in error.message:
                raise
            swept.kept += [
                Kept(i.kind, i.step, i.label, i.place, error.message) for i in first.garbage if (i.step, i.label) == (step, label)
            ]
    if not choice.labels:
        references, shared = References.of(store, registered), Survey()
        _extend_shared(shared, store, choice, references)
        _remove_shared(store, shared.garbage, swept)
    return swept


def _remove_shared(store: Store, items: list[Garbage], swept: Swept) -> None:
    """Caches have no lease of their own: a step at work, under any label, keeps its cache untouched."""
    looked, live = 0.0, References()
    for item in items:
        if time.monotonic() - looked > LOOK_AGAIN_S:
            live, looked = References.of(store, []), time.monotonic()
        if (busy := live.live_in(item.step)) is not None:
            swept.kept.append(Kept(item.kind, item.step, item.label, item.place, str(busy)))
        else:
            _remove_all([item], swept)


def _remove_all(items: Iterable[Garbage], swept: Swept) -> None:
    for item in items:
        try:
            remove(item.place, item.first)
            swept.deleted.append(item)
        except OSError as error:
            swept.failed.append((item, f"{type(error).__name__}: {error}"))


def remove(place: Location, first: Iterable[str] = ()) -> None:
    """Remove a file or folder; a reader finds all of it or, from the first moment on, nothing that looks whole.

    Args:
        first: names inside that go before the rest where there is no rename.
    """
    if place.is_local and os.path.isdir(place.path) and not place.name.startswith("."):
        grave = os.path.join(os.path.dirname(place.path), f".{uuid.uuid4().hex}.tmp")
        os.rename(place.path, grave)
        place = Location(grave)
    elif not place.is_local:
        for name in first:
            (place / name).delete()
    place.delete()
