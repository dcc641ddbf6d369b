"""Single tools on plain files, of use without the pipeline: the exports."""

import argparse
from typing import Any

from infra.errors import UserError
from infra.storage import Location
from pipelines.context import absolute


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
    count = export_views(store, options.uid, Location(absolute(str(options.out), "the output folder")), options.format)
    if not options.json:
        print(f"{count} views and their cameras ({options.format}) -> {options.out}")
    return {"completed": 1, "failed": 0, "rejected": 0, "out": str(options.out)}


def export_webdataset(options: argparse.Namespace) -> dict[str, Any]:
    """The `export-webdataset` verb."""
    from rendering.export_webdataset import export_webdataset
    from rendering.views import ViewStore

    store, out = ViewStore(Location(absolute(options.store, "the store"))), Location(absolute(options.out, "the output folder"))
    passes = [name for name in options.passes.split(",") if name]
    result = export_webdataset(store, out, passes=passes, bytes_per_shard=options.shard_mb << 20)
    if not options.json:
        print(f"{result['objects']} objects, {result['views']} views in {result['shards']} shards -> {out.shown}")
    return {"completed": result["objects"], "failed": 0, "rejected": 0, "out": str(out), **result}
