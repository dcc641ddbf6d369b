"""What of a store nothing needs any more: builds, checkpoints and temporary files. Finding it changes nothing.

Certain is what this file calls garbage: where a reader may be left, or nothing is known, the thing is kept, with the reason.
"""

from dataclasses import dataclass, field

from infra.storage import Location
from pipelines.artifact import Store
from pipelines.listing import Found, below, everything, is_temporary
from pipelines.references import BUILD, References
from training.checkpoint_manifest import MANIFEST

KINDS = ("build", "checkpoint", "piece", "temporary")
# Longer than a file of any kind takes to be written and renamed; writers on other hosts cannot be asked.
WRITING_S = 3600.0


@dataclass(frozen=True)
class Garbage:
    """One file or folder to remove.

    Attributes:
        kind: one of `KINDS`.
        label: None for what belongs to no label, such as a cache.
        bytes, files: of everything inside.
        modified: epoch seconds of the newest thing inside.
        reason: why nothing needs it.
        first: names inside that go before the rest: what makes it look whole to a reader.
    """

    kind: str
    step: str
    label: str | None
    place: Location
    bytes: int
    files: int
    modified: float
    reason: str
    first: tuple[str, ...] = ()


@dataclass(frozen=True)
class Kept:
    """Something that looks like garbage and stays."""

    kind: str
    step: str
    label: str | None
    place: Location
    reason: str


@dataclass
class Survey:
    """What was found, and what stays although it looks like it."""

    garbage: list[Garbage] = field(default_factory=list)
    kept: list[Kept] = field(default_factory=list)

    def add(self, item: Garbage, before: float, why: str | None = None) -> None:
        """Sort an item in: kept with the reason `why`, or when something in it is newer than `before` (epoch seconds)."""
        if why is None and item.modified > before:
            why = "changed too recently; see --older-than"
        if why is None:
            self.garbage.append(item)
        else:
            self.kept.append(Kept(item.kind, item.step, item.label, item.place, why))

    def extend(self, other: "Survey") -> None:
        self.garbage += other.garbage
        self.kept += other.kept


def survey_label(store: Store, step: str, label: str, references: References, before: float, writing_before: float) -> Survey:
    """Garbage of one label.

    Args:
        before: epoch seconds; what holds anything newer stays.
        writing_before: the same for temporary files, whose writers may be alive on another host.
    """
    folder, survey = store.folder(step, label), Survey()
    found = everything(folder)
    owner = next((each for each in references.live if (each.step, each.label) == (step, label)), None)
    gone: set[str] = set()
    for build in sorted(each.name for each in found if each.is_dir and BUILD.fullmatch(each.name)):
        item = _folder_item("build", step, label, folder, build, found, "nothing refers to it")
        key = (step, label, build)
        if key in references.current and key not in references.interrupted:
            if owner is None:
                _finished_state(survey, item, found, before)
            continue
        if key in references.interrupted:
            if owner is None:
                _half_written(survey, item, found, before)
            continue
        why = references.why(key, item.place)
        if why is None and owner is not None:
            why = str(owner)
        if why is None and references.live:
            # Which finished build a driver reads is settled before it takes its lease, and noted when it ends.
            why = f"{references.live[0]}, and may read it"
        survey.add(item, before, why)
        gone.add(build)
    for each in _temporaries(found, skip=gone):
        inside = below(found, each.name) if each.is_dir else [each]
        survey.add(_item("temporary", step, label, folder / each.name, inside or [each], "its writer is gone"), writing_before, _str(owner))
    return survey


def survey_shared(store: Store, step: str, references: References, writing_before: float) -> Survey:
    """Temporary files of a step outside its labels: in its folder and its cache."""
    survey, live = Survey(), references.live_in(step)
    for place, deep in ((store.root / step, False), (store.cache(step), True)):
        found = everything(place, deep)
        for each in _temporaries(found, skip=set()):
            inside = below(found, each.name) if each.is_dir and deep else [each]
            item = _item("temporary", step, None, place / each.name, inside or [each], "its writer is gone")
            survey.add(item, writing_before, _str(live))
    return survey


def survey_root(store: Store, references: References, writing_before: float) -> Survey:
    """Temporary files directly in the store."""
    survey = Survey()
    for each in everything(store.root, deep=False):
        if is_temporary(each.name) and not each.is_dir:
            item = _item("temporary", "", None, store.root / each.name, [each], "its writer is gone")
            survey.add(item, writing_before, str(references.live[0]) if references.live else None)
    return survey


def _finished_state(survey: Survey, build: Garbage, found: list[Found], before: float) -> None:
    """A finished training removes its checkpoints itself; a process that was lost on the way may leave or bring some."""
    assert build.label is not None
    if any(each.is_dir and each.name == f"{build.place.name}/state" for each in found):
        inside = _relative(found, build.place.name)
        survey.add(_folder_item("checkpoint", build.step, build.label, build.place, "state", inside, "the training is finished"), before)


def _half_written(survey: Survey, build: Garbage, found: list[Found], before: float) -> None:
    """Checkpoints of an interrupted training without a manifest: an upload that died; resuming would not use them."""
    assert build.label is not None
    root = f"{build.place.name}/state/{build.place.name}"
    inside = _relative(found, root)
    names = {each.name for each in inside}
    for each in inside:
        if each.is_dir and "/" not in each.name and each.name.startswith("step-") and f"{each.name}/{MANIFEST}" not in names:
            place = build.place / "state" / build.place.name
            reason = "half-written, and not used when the training goes on"
            survey.add(_folder_item("checkpoint", build.step, build.label, place, each.name, inside, reason), before)


def _relative(found: list[Found], folder: str) -> list[Found]:
    """What lies inside `folder`, with names relative to it."""
    return [Found(each.name.removeprefix(f"{folder}/"), each.is_dir, each.size, each.mtime) for each in below(found, folder)]


def _folder_item(kind: str, step: str, label: str, parent: Location, name: str, found: list[Found], reason: str) -> Garbage:
    own = [each for each in found if each.name == name]
    inside = _relative(found, name)
    first = tuple(each.name for each in inside if each.name.rsplit("/", 1)[-1] == MANIFEST)
    item = _item(kind, step, label, parent / name, inside or own, reason)
    return Garbage(kind, step, label, item.place, item.bytes, item.files, item.modified, reason, first)


def _item(kind: str, step: str, label: str | None, place: Location, inside: list[Found], reason: str) -> Garbage:
    files = [each for each in inside if not each.is_dir]
    newest = max((each.mtime for each in files or inside), default=0.0)
    return Garbage(kind, step, label, place, sum(each.size for each in files), len(files), newest, reason)


def _temporaries(found: list[Found], skip: set[str]) -> list[Found]:
    """Temporary names, outermost only, outside of the folders in `skip`, which are listed as a whole."""
    chosen: list[Found] = []
    outer: set[str] = set()
    for each in sorted(found, key=lambda one: one.name):
        parents = each.name.split("/")
        if parents[0] in skip or any("/".join(parents[:depth]) in outer for depth in range(1, len(parents))):
            continue
        if is_temporary(each.name):
            chosen.append(each)
            outer.add(each.name)
    return chosen


def _str(value: object) -> str | None:
    return None if value is None else str(value)
