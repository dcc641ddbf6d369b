"""The `generate` verb: many objects on Ray, and the check of what it wrote."""

import argparse
from dataclasses import dataclass
from typing import Any

from evaluation import model_source
from evaluation.generate_pool import usual_resources
from evaluation.infer import verify as verification
from evaluation.infer.batch import How, InferConfig, claim, run
from evaluation.infer.manifest import LINES, SUMMARY
from evaluation.infer.open import open_inputs
from evaluation.infer.table import Columns
from evaluation.reconstruct import ReconstructConfig
from infra import cluster, logs
from infra.errors import UserError
from infra.job import Job
from infra.metrics import TOOL, measured
from infra.storage import Location
from pipelines.context import absolute, store_location, tracking_uri
from pipelines.lease import Lease
from pipelines.settings import apply
from training.diffusion.sampling import USUAL_STEPS

SHOWN_FAILURES = 10


@dataclass(frozen=True)
class MeshSettings:
    """What `--set` can change."""

    reconstruct: ReconstructConfig = ReconstructConfig()


def generate(options: argparse.Namespace) -> dict[str, Any]:
    """The `generate` verb; with `--verify` only the check."""
    if options.verify:
        return _verify(Location(absolute(options.verify, "the output folder")), options.json)
    for name in ("model", "input", "out"):
        if not getattr(options, name):
            raise UserError(f"--{name} is missing", "mvforge generate --help shows examples")
    if options.sets and not options.mesh:
        raise UserError(f"--set {options.sets[0]} without --mesh", "add --mesh")
    if options.conditions is not None and options.conditions < 1:
        raise UserError(f"{options.conditions} pictures of an object", "give --conditions 1 or more")
    place, out = Location(absolute(options.input, "the input")), Location(absolute(options.out, "the output folder"))
    masks = Location(absolute(options.masks, "the folder of masks")) if options.masks else None
    columns = Columns(options.uid_column, options.image_column, options.mask_column)
    inputs = open_inputs(place, masks, options.layout, columns, options.conditions)
    registry = tracking_uri(store_location())
    named = options.model if options.model.startswith("models:/") else absolute(options.model, "the model folder")
    model = model_source.named(named, registry)
    config = InferConfig(
        steps=options.steps or USUAL_STEPS[options.sampler],
        sampler=options.sampler,
        guidance=options.guidance,
        seed=options.seed,
        preprocess=options.preprocess,
        at_most=options.conditions,
        sheets=options.sheets,
    )
    meshes = apply(MeshSettings(), options.sets).reconstruct if options.mesh else None
    claim(out, config, place.shown, model)
    resources = usual_resources(options.workers, options.cpus, options.gpus)
    cluster.check_size({"generate": resources})
    how = How(options.deadline, options.retry_failed, meshes)
    with Lease(out / "work" / "lease.json", out.shown):
        cluster.check_shared(out / "work", "" if model.folder else registry)
        with logs.working_on(step="generate", label=TOOL), measured("generate", TOOL) as meter:
            job = Job(resources=resources, meter=meter)
            summary = run(config, inputs=inputs, given=place.shown, model=model, out=out, job=job, how=how)
    return _told(summary.facts, out, options.json)


def _verify(out: Location, json: bool) -> dict[str, Any]:
    problems = verification.verify(out, Job())
    facts = (out / SUMMARY).read_json()
    return _told(facts | {"verified": {"problems": problems}, "this_call": facts["this_call"] | {"made": 0}}, out, json)


def _told(facts: dict[str, Any], out: Location, json: bool) -> dict[str, Any]:
    """The result of the verb, in words unless JSON was asked for."""
    counts, problems = facts["counts"], facts["verified"]["problems"]
    if not json:
        call = facts["this_call"]
        print(
            f"{counts['completed']} of {counts['objects']} objects have views ({counts['views']}); {counts['failed']} failed -> {out.shown}"
        )
        if call["made"]:
            steady = call["steady_objects_per_second"]
            pace = f", {steady:.3g} a second once the models were loaded" if steady else ""
            print(f"this call: {call['made']} objects in {call['seconds']:.0f} s{pace}")
        if facts["mesh_settings"]:
            print(f"meshes: {counts['meshes']}, failed {counts['meshes_failed']}")
        for kind in ("reasons", "mesh_reasons"):
            for reason, count in counts[kind].items():
                print(f"  {count} x {'mesh: ' if kind == 'mesh_reasons' else ''}{reason}")
        if counts["failed"]:
            print(f"details of each: {(out / LINES).shown}")
        for problem in problems[:SHOWN_FAILURES]:
            print(f"  DAMAGED {problem['file']} {problem['uid']}: {problem['problem']}")
        if problems:
            print(f"{len(problems)} problems; delete the damaged shard or mesh and give the command again: its objects are made anew")
        else:
            print("verified: every file of the manifest is there and holds what was made")
    return {
        **{name: counts[name] for name in ("completed", "failed", "objects", "views", "meshes", "reasons", "mesh_reasons")},
        "rejected": 0,
        "problems": problems,
        "this_call": facts["this_call"],
        "model": facts["model"]["uri"],
        "out": str(out.shown),
        "manifest": (out / "manifest.parquet").shown,
    }
