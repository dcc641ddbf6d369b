"""The `report` verb: the page of any score folder, by itself. What else belongs to it is found through the store's records."""

import argparse
import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from infra.errors import UserError
from infra.job import Job
from infra.storage import Location
from pipelines.artifact import Record, Store
from pipelines.context import absolute

GIVEN = ("generated", "reference", "meshes")


@dataclass
class Behind:
    """The builds that a score build comes from, as far as they are still the ones it has read.

    Attributes:
        record: of the score build.
        store: where it lies.
        builds: step -> the nearest build of it.
        decision: the gate's, where it judged these scores.
    """

    record: Record
    store: Store
    builds: dict[str, Record] = field(default_factory=dict)
    decision: Location | None = None

    def place(self, step: str) -> Location | None:
        return self.store.data(self.builds[step]) if step in self.builds else None

    def histories(self) -> dict[str, Location]:
        """Stage -> its training build, the first trained first."""
        stages = sorted((r for name, r in self.builds.items() if name.startswith("train.")), key=lambda record: record.started_at)
        return {record.step.removeprefix("train."): self.store.data(record) for record in stages}


def make_report(options: argparse.Namespace) -> dict[str, Any]:
    """The `report` verb.

    Raises:
        UserError: there are no scores in the folder, or a folder that is named does not exist.
    """
    from evaluation.report import ReportConfig, write_page
    from evaluation.report_page.inputs import read_inputs

    scores, out = (Location(absolute(str(path), what)) for path, what in ((options.scores, "the scores"), (options.out, "the page")))
    given = {name: Location(absolute(str(path), name)) for name in GIVEN if (path := getattr(options, name)) is not None}
    for name, place in given.items():
        if not place.exists():
            raise UserError(f"--{name}: no such folder: {place.shown}", "check the path")
    behind = builds_behind(scores)
    found = {name: behind.place(step) for name, step in zip(GIVEN, ("generate", "render", "reconstruct"), strict=True)} if behind else {}
    places = dict.fromkeys(GIVEN) | found | given
    inputs = read_inputs(
        scores=scores,
        **places,
        decision=behind.decision if behind else None,
        model=behind.place("register") if behind else None,
        histories=behind.histories() if behind else {},
        fetched=behind.place("fetch") if behind else None,
        curated=behind.place("curate") if behind else None,
    )
    told = _of_the_run(behind)
    words = ["mvforge", "report", str(options.scores), *(w for name in given for w in (f"--{name}", str(getattr(options, name))))]
    config = ReportConfig(
        title=options.title or told.get("title") or "Evaluation",
        note=told.get("note", "") if options.note is None else options.note,
        recipe=told.get("recipe", ""),
        command=shlex.join([*words, "--out", str(options.out)]),
        max_objects_shown=options.objects,
        shown_by=options.by,
        embedded_mb=options.embed_mb,
    )
    summary = write_page(config, inputs, out, Job())
    missing = [name for name, place in places.items() if place is None]
    if not options.json:
        print(f"{summary.completed} objects with pictures, {summary.facts['bytes'] / 1e6:.1f} MB -> {out.shown}")
        if missing:
            print(f"without {', '.join(missing)}: not named, and the folder is no current build of a store")
    return {"completed": summary.completed, "failed": 0, "rejected": 0, "out": str(out), "missing": missing, **summary.facts}


def builds_behind(scores: Location) -> Behind | None:
    """What a score build was made from, by following the records; None when the folder is no finished build of a store."""
    if not scores.is_local:
        return None
    folder = Path(scores.local_path())
    if not (folder.parent / "record.json").exists() or len(folder.parents) < 3:
        return None
    store = Store(Location(str(folder.parents[2])))
    record = store.record(folder.parents[1].name, folder.parent.name)
    if record is None or record.build_id != folder.name:
        return None
    behind = Behind(record, store)
    queue = [record]
    while queue:
        for ref in queue.pop(0).inputs.values():
            upstream = store.record(ref.step, ref.label)
            if ref.step not in behind.builds and upstream is not None and upstream.build_id == ref.build_id:
                behind.builds[ref.step] = upstream
                queue.append(upstream)
    for label in store.labels("gate"):
        gate = store.record("gate", label)
        if gate is not None and (read := gate.inputs.get("scores")) is not None and read.build_id == record.build_id:
            behind.decision = store.data(gate)
    return behind


def _of_the_run(behind: Behind | None) -> dict[str, Any]:
    """Title, note and recipe of the report that the run itself made."""
    own = behind.store.record("report", behind.record.label) if behind else None
    return dict(own.config) if own is not None and isinstance(own.config, dict) else {}
