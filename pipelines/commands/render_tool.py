"""The `render` verb: any source to a folder of views, without the graph."""

import argparse
from dataclasses import dataclass, replace
from typing import Any

from infra import cluster, logs
from infra.job import Job, Resources
from infra.metrics import TOOL, measured
from infra.storage import Location
from pipelines.context import absolute
from pipelines.lease import Lease
from pipelines.settings import apply
from rendering import catalog, fetch, render
from rendering.catalog import CatalogConfig
from rendering.fetch import FetchConfig
from rendering.render import RenderConfig


@dataclass(frozen=True)
class RenderSettings:
    """The settings of `mvforge render`: a set rendered by hand has no split to protect, so a folder of one file is fine."""

    catalog: CatalogConfig
    fetch: FetchConfig
    render: RenderConfig


def render_objects(options: argparse.Namespace) -> dict[str, Any]:
    """The `render` verb: catalog, fetch and render without the graph."""
    source = options.source
    if source.startswith("local:"):
        source = f"local:{absolute(source.removeprefix('local:'), 'the source')}"
    store = Location(absolute(options.store, "the store"))
    chosen = apply(
        RenderSettings(replace(CatalogConfig(source=source), val_fraction=0.0, test_fraction=0.0), FetchConfig(), RenderConfig()),
        [
            *([f"catalog.count={options.objects}"] if options.objects else []),
            f"render.rig={options.rig}",
            f"render.light={options.light}",
            f"render.resolution={options.resolution}",
            f"render.profile={options.profile}",
            f"render.samples={options.samples}",
            f"render.passes={options.passes}",
            f"render.num_conditions={options.conditions}",
            *options.sets,
        ],
    )
    cluster.attach()
    cache = store / "_cache"
    with Lease(cache / "lease.json", str(store)):
        listed, fetched = cache / "listing" / "catalog", cache / "listing" / "fetch"
        excluded = catalog.run(chosen.catalog, out=listed, job=Job()).rejected
        with logs.working_on(step="fetch", label=TOOL):
            fetch.run(chosen.fetch, catalog=listed, out=fetched, job=Job(cache=cache / "fetch", retry_failed=options.retry_failed))
        workers = Resources(workers=options.workers)
        with logs.working_on(step="render", label=TOOL), measured("render", TOOL) as meter:
            job = Job(resources=workers, cache=cache / "render", retry_failed=options.retry_failed, meter=meter)
            summary = render.run(chosen.render, meshes=fetched, out=store, job=job)
            meter.settle(summary.tally)
    ledger = (store / "ledger.parquet").read_table(columns=["uid", "status", "reason", "detail"]).to_pylist()
    failures = [row for row in ledger if row["status"] != "ok"]
    if not options.json:
        print(f"{summary.completed} rendered, {summary.failed} failed -> {store}  (contact sheet: {store / 'sheet.webp'})")
        if excluded:
            print(f"{excluded} left out by licence, score or size: {store / 'excluded.parquet'}")
        for row in failures:
            print(f"  {row['uid']}: {row['reason']}: {str(row['detail']).splitlines()[-1] if row['detail'] else ''}")
    return {
        "completed": summary.completed,
        "failed": summary.failed,
        "rejected": excluded,
        "store": str(store),
        "failures": failures,
    }
