"""Batch inference: a registered model, or a generator folder, on anyone's pictures; views, meshes and a manifest of them.

    job.json              what was asked for, written first; another job in the same folder is refused
    views/                view shards, readable by every tool here
    sheets/, meshes/      where asked for
    manifest.parquet, manifest.jsonl, summary.json   one row an object; written at the end of each call
    rows/, mesh_rows/     what is finished, from which a call goes on
    work/                 pieces of objects in progress; empty at the end

Every object is made once: it is a piece from the moment it is finished, then a row of a shard. A kill loses what the actors have
in hand.
"""

import hashlib
import json
import time
from dataclasses import asdict, dataclass
from typing import Any, Literal

from evaluation.generate_pool import Work, generate_all
from evaluation.generated_pieces import Pieces, digest
from evaluation.infer import manifest
from evaluation.infer.inputs import Inputs, Item, listed
from evaluation.infer.meshes import make_meshes, mesh_rows
from evaluation.infer.results import NOTED, ROWS, SHEETS, Results
from evaluation.infer.sheet import sheet_png
from evaluation.infer.verify import Problem, verify
from evaluation.model_source import ModelSource
from evaluation.reconstruct import ReconstructConfig
from infra.errors import UserError
from infra.job import Job, Summary
from infra.seeds import seed_for
from infra.storage import Location
from rendering.view_set import ViewSet
from training.diffusion.sampling import SAMPLERS
from training.lookup import load_generator

FORMAT_VERSION = 1
JOB, PIECES = "job.json", "work/pieces"
# Objects that are packed into shards at once.
PACKED_TOGETHER = 128


@dataclass(frozen=True)
class InferConfig:
    """What decides the views.

    Attributes:
        steps, sampler, guidance: sampling settings, handed to the method; guidance 1 means none.
        seed: with the uid it decides the noise of an object.
        preprocess: `photo` cuts the object out and centres it, `none` takes square pictures as they are.
        at_most: how many pictures of an object the input gives, the first ones; None: all of them.
        sheets: also a contact sheet of each object.
    """

    steps: int = 25
    sampler: str = "dpm++"
    guidance: float = 1.0
    seed: int = 0
    preprocess: Literal["photo", "none"] = "photo"
    at_most: int | None = None
    sheets: bool = False

    @property
    def conditions(self) -> int | None:
        """All that the input gives: an object with fewer than `at_most` pictures is none the worse."""
        return None


@dataclass(frozen=True)
class How:
    """How this call works, and what it does besides.

    Attributes:
        deadline_s: seconds an object may take, looked at after each sampling step; None: any.
        retry_failed: try objects again that failed before.
        meshes: make meshes of the views with these settings.
        check: read all results again at the end.
    """

    deadline_s: float | None = None
    retry_failed: bool = False
    meshes: ReconstructConfig | None = None
    check: bool = True


@dataclass(frozen=True)
class GivenObjects:
    """What the actors need to know of the input and the output."""

    inputs: Inputs
    config: InferConfig
    out: Location
    model_uri: str

    def read(self, uid: str, place: str) -> tuple[ViewSet, dict[str, Any]]:
        views, files = self.inputs.read(uid, place, self.config.preprocess == "photo")
        return views, {"pictures": len(views), "source_sha256": [hashlib.sha256(data).hexdigest() for data in files]}

    def keep(self, uid: str, shown: ViewSet, made: ViewSet) -> dict[str, Any]:
        if not self.config.sheets:
            return {}
        file = f"{SHEETS}/{uid}.png"
        data = sheet_png(shown, made, f"{uid} | {self.model_uri} | seed {made.facts['seed']}")
        (self.out / file).write_bytes(data)
        return {"sheet_file": file, "sheet_sha256": hashlib.sha256(data).hexdigest()}


def run(config: InferConfig, *, inputs: Inputs, given: str, model: ModelSource, out: Location, job: Job, how: How = How()) -> Summary:
    """Generate every object of the input that is not finished yet, then meshes where asked; `facts` are those of `summary.json`.

    Args:
        inputs: where the pictures are; `given` names that place for people.
        out: the folder of the results, of this job alone.
        job: workers; its cache is not used.

    Raises:
        UserError: wrong settings, another job's folder, no input, or a model that cannot be opened.
    """
    if config.sampler not in SAMPLERS or config.steps < 1:
        raise UserError(f"sampler {config.sampler}, {config.steps} steps", f"take one of {', '.join(SAMPLERS)} and at least one step")
    claim(out, config, given, model)
    results = Results(out)
    pieces = Pieces(out / PIECES, retry_failed=how.retry_failed, columns=NOTED)
    tasks, refused = _tasks(config, listed(inputs, out_is_url=not out.is_local), model)
    pace = _generate(
        tasks,
        refused,
        results,
        pieces,
        Work(config, model, GivenObjects(inputs, config, out, model.uri), pieces, load_generator, how.deadline_s, refusals_are_rows=True),
        job,
        how,
    )
    if how.meshes is not None:
        make_meshes(how.meshes, results.rows(), out, job, how.retry_failed)
    table = manifest.joined(results.rows(), mesh_rows(out))
    facts: dict[str, Any] = {
        "format": FORMAT_VERSION,
        "input": given,
        "model": model.described(),
        "settings": asdict(config),
        "mesh_settings": asdict(how.meshes) if how.meshes is not None else None,
        "counts": manifest.counted(table),
        "this_call": pace | {"workers": job.resources.workers},
        "files": manifest.write(table, out),
        "verified": None,
    }
    (out / manifest.SUMMARY).write_json(facts)
    problems: list[Problem] = []
    if how.check:
        problems = verify(out, job)
        facts["verified"] = {"at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "problems": problems}
        (out / manifest.SUMMARY).write_json(facts)
    counts = facts["counts"]
    return Summary(counts["completed"], counts["failed"], facts=facts)


def claim(out: Location, config: InferConfig, given: str, model: ModelSource) -> None:
    """Note what is asked for, or compare it with what was noted before.

    Raises:
        UserError: the folder holds something else, or results of other settings.
    """
    asked = {"format": FORMAT_VERSION, "input": given, "model": model.identity, "settings": asdict(config)}
    place = out / JOB
    if not place.exists():
        if {entry.name for entry in out.children()} - {"work"}:
            raise UserError(f"{out.shown} holds other files", "give a new or empty folder as --out")
    elif (out / ROWS).children() or (out / PIECES).children():
        before = place.read_json()
        values = [*((name, before["settings"].get(name), value) for name, value in asdict(config).items())]
        values += [(name, before.get(name), asked[name]) for name in ("format", "input", "model")]
        differing = [f"{name} {old!r} -> {new!r}" for name, old, new in values if old != new]
        if differing:
            message = f"{out.shown} holds the results of another job: {'; '.join(differing)}"
            raise UserError(message, "use another --out, or the settings of before")
    place.write_json(asked | {"model_uri": model.uri})


def _tasks(config: InferConfig, items: list[Item], model: ModelSource) -> tuple[dict[str, dict[str, Any]], list[dict[str, Any]]]:
    """By key: `{uid, key, place, source}` of each object; and the rows of those that cannot even be tried."""
    settings = asdict(config)
    tasks, refused = {}, []
    for item in items:
        key = digest(json.dumps([FORMAT_VERSION, item.uid, model.identity, settings, item.stamp], sort_keys=True).encode())
        named = {"uid": item.uid, "key": key, "source": item.source}
        if item.reason:
            refused.append(
                named | {"status": "failed", "reason": item.reason, "detail": item.detail, "seed": seed_for(config.seed, item.uid)}
            )
        else:
            tasks[key] = named | {"place": item.place}
    return tasks, refused


def _generate(
    tasks: dict[str, dict[str, Any]], refused: list[dict[str, Any]], results: Results, pieces: Pieces, work: Work, job: Job, how: How
) -> dict[str, Any]:
    """Make what is missing and pack what is made; how many objects this call made or failed at, and how quickly."""
    began = time.monotonic()
    finished = results.keys()
    known = {key for key, good in finished.items() if good or not how.retry_failed}
    waiting = []  # pieces that an interrupted call left
    for key in sorted(pieces.names()):
        if key in known or key not in tasks:
            pieces.remove(key)  # packed before the kill, or of a picture that has changed
        elif pieces.done(key):
            waiting.append(key)
    left = set(waiting)
    missing = [
        {name: task[name] for name in ("uid", "key", "place")} for key, task in tasks.items() if key not in known and key not in left
    ]
    sources = {key: task["source"] for key, task in tasks.items()}
    results.add(pieces, [], sources, [row for row in refused if row["key"] not in finished])
    ends = []
    for row in generate_all(missing, work, job, finished=len(tasks) - len(missing)):
        ends.append(time.monotonic())
        waiting.append(row["key"])
        if len(waiting) >= PACKED_TOGETHER:
            results.add(pieces, waiting, sources)
            waiting = []
    results.add(pieces, waiting, sources)
    pieces.place.delete()
    return _pace(began, ends)


def _pace(began: float, ends: list[float]) -> dict[str, Any]:
    """Objects a second over the whole call, and from the first finished object on, when the models are loaded."""
    seconds, steady = time.monotonic() - began, ends[-1] - ends[0] if len(ends) > 1 else 0.0
    return {
        "made": len(ends),
        "seconds": round(seconds, 3),
        "objects_per_second": round(len(ends) / seconds, 4),
        "steady_objects_per_second": round((len(ends) - 1) / steady, 4) if steady > 0 else None,
    }
