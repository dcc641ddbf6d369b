"""`mvforge support-bundle`: one file to attach to a report."""

import argparse
import io
import os
import tarfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from infra import cluster
from infra.errors import UserError
from infra.storage import Location
from pipelines import graph, settings
from pipelines.artifact import Store
from pipelines.commands.gc_tool import size
from pipelines.context import Context, store_location
from pipelines.dag import decide_all
from pipelines.support_bundle import Bundle, gather, members


def write_bundle(options: argparse.Namespace) -> dict[str, Any]:
    """The `support-bundle` verb.

    Raises:
        UserError: an unknown recipe or setting, or a file that cannot be written.
    """
    target = Path(options.out).expanduser().absolute()
    if not target.name.endswith((".tar.gz", ".tgz")):
        raise UserError(f"--out {options.out} is no .tar.gz", "give a file name that ends in .tar.gz")
    if target.is_dir() or not target.parent.is_dir():
        raise UserError(f"{target} cannot be written", f"the folder {target.parent} must exist, and the name must not be a folder's")
    context = Context.open(options.recipe, options.sets, options.label, options.store) if options.recipe else None
    store = context.store if context is not None else Store(store_location(options.store))
    label = context.label if context is not None else options.label
    bundle = gather(store, label, cluster.home(), None if context is None else lambda into: _recipe(into, context))
    packed = pack(bundle)
    try:
        Location(str(target)).write_bytes(packed)
        os.chmod(target, 0o600)
    except OSError as error:
        raise UserError(f"{target} cannot be written: {error}", "choose another --out") from None
    result = {"path": str(target), "bytes": len(packed), "files": sorted(bundle.files), "not_gathered": bundle.failures}
    if not options.json:
        print(f"{target}: {len(bundle.files)} files, {size(len(packed))}")
        for line in bundle.failures:
            print(f"not gathered: {line}")
        print("look into it before you send it: labels, paths, host and object names are in it")
    return result


def _recipe(bundle: Bundle, context: Context) -> None:
    """The recipe's settings, where its results lie, and the state of every step."""
    values = {key: str(value) for key, value in settings.keys_of(context.recipe).items()}
    head = {"recipe": context.recipe.name, "label": context.label, "store": context.store.root.shown, "tracking": context.tracking_uri}
    bundle.value("recipe.json", head | {"settings": values})
    decisions = decide_all(graph.build(context.recipe), context.label, context.store)
    rows = [{"step": d.step.name, "state": d.state, "reason": d.reason, "resources": asdict(d.step.resources)} for d in decisions]
    bundle.value("steps.json", rows)


def pack(bundle: Bundle) -> bytes:
    """The archive: regular files of nobody in particular."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, data in members(bundle):
            entry = tarfile.TarInfo(name)
            entry.size, entry.mtime, entry.mode = len(data), int(time.time()), 0o644
            archive.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()
