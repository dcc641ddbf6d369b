"""Single tools on plain files, of use without the pipeline: render, export-views, reconstruct, score-views, score-mesh."""

import argparse
import dataclasses
import tempfile
from typing import Any

from infra import cluster
from infra.errors import UserError
from infra.job import Job, Resources
from infra.storage import Location
from pipelines.context import absolute


def render_objects(options: argparse.Namespace) -> dict[str, Any]:
    """The `render` verb: catalog, fetch and render without the graph."""
    from pipelines.settings import apply
    from rendering import catalog, fetch, render

    source = options.source
    if source.startswith("local:"):
        source = f"local:{absolute(source.removeprefix('local:'), 'the source')}"
    store = Location(absolute(options.store, "the store"))
    # A set rendered by hand has no split to protect: a folder of one file is fine.
    listing = dataclasses.replace(catalog.CatalogConfig(source=source), val_fraction=0.0, test_fraction=0.0)
    if options.objects:
        listing = dataclasses.replace(listing, count=options.objects)
    config = apply(
        render.RenderConfig(),
        [f"rig={options.rig}", f"resolution={options.resolution}", f"samples={options.samples}", f"num_conditions={options.conditions}"],
    )
    cluster.attach()
    with tempfile.TemporaryDirectory(prefix="mvforge-render-") as scratch:
        listed, fetched = Location(scratch) / "catalog", Location(scratch) / "fetch"
        catalog.run(listing, out=listed, job=Job())
        fetch.run(fetch.FetchConfig(), catalog=listed, out=fetched, job=Job(cache=store / "_cache" / "fetch"))
        summary = render.run(
            config, meshes=fetched, out=store, job=Job(resources=Resources(workers=options.workers), cache=store / "_cache" / "render")
        )
    ledger = (store / "ledger.parquet").read_table(columns=["uid", "status", "reason", "detail"]).to_pylist()
    failures = [row for row in ledger if row["status"] != "ok"]
    if not options.json:
        print(f"{summary.completed} rendered, {summary.failed} failed -> {store}  (contact sheet: {store / 'sheet.webp'})")
        for row in failures:
            print(f"  {row['uid']}: {row['reason']}: {str(row['detail']).splitlines()[-1] if row['detail'] else ''}")
    return {
        "completed": summary.completed,
        "failed": summary.failed,
        "rejected": summary.rejected,
        "store": str(store),
        "failures": failures,
    }


def export_one(options: argparse.Namespace) -> dict[str, Any]:
    """The `export-views` verb."""
    import difflib

    from rendering.export import export_views
    from rendering.views import ViewStore

    store = ViewStore(Location(absolute(options.store, "the store")))
    if options.uid not in store:
        near = difflib.get_close_matches(options.uid, store.uids(), n=3, cutoff=0.2)
        raise UserError(
            f"no object '{options.uid}' in {options.store}",
            f"the nearest are {', '.join(near)}" if near else "the store lists its objects in ledger.parquet",
        )
    export_views(store, options.uid, Location(absolute(str(options.out), "the output folder")))
    if not options.json:
        print(f"{options.out / 'transforms.json'}")
    return {"completed": 1, "failed": 0, "rejected": 0, "out": str(options.out)}


def reconstruct(options: argparse.Namespace) -> dict[str, Any]:
    """The `reconstruct` verb."""
    from evaluation.hull import HullSettings
    from evaluation.reconstruct_folder import reconstruct_folder

    settings = HullSettings(resolution=options.resolution, votes=options.votes)
    return _shown(options, reconstruct_folder(options.views, options.out, settings))


def score_pictures(options: argparse.Namespace) -> dict[str, Any]:
    """The `score-views` verb."""
    from evaluation.score_views import score_views

    return _shown(options, score_views(options.reference, options.generated))


def score_meshes(options: argparse.Namespace) -> dict[str, Any]:
    """The `score-mesh` verb."""
    from evaluation.score_mesh import score_mesh

    return _shown(options, score_mesh(options.reference, options.generated, options.normalize))


def _shown(options: argparse.Namespace, result: dict[str, Any]) -> dict[str, Any]:
    """Print the plain figures of a result, one a line, unless JSON was asked for."""
    if not options.json:
        for key, value in result.items():
            if value is None or isinstance(value, str | int | float):
                print(f"{key:20} {value:.6g}" if isinstance(value, float) else f"{key:20} {value}")
    return result
