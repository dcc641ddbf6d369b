"""`mvforge gc`: what of the store nothing needs any more, and its removal."""

import argparse
import difflib
import functools
import re
import time
from collections import Counter
from pathlib import Path
from typing import Any

from infra.errors import UserError
from pipelines import sweep
from pipelines.artifact import Store
from pipelines.context import store_location, tracking_uri
from pipelines.garbage import KINDS, Garbage, Kept
from pipelines.references import Registered, labels, registered_versions, steps
from pipelines.runner import say

UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}


def collect(options: argparse.Namespace) -> dict[str, Any]:
    """The `gc` verb.

    Raises:
        UserError: no such label, an age that cannot be read, a damaged record, or a registry that cannot be asked.
    """
    store = Store(store_location(options.store))
    choice = sweep.Choice(_labels(store, options.names), seconds_of(options.older_than))
    ask = functools.cache(lambda: _registered(tracking_uri(store.root)))
    if options.delete:
        swept = sweep.sweep(store, choice, ask, say)
        items, kept, failed = swept.deleted, swept.kept, swept.failed
    else:
        found = sweep.survey(store, choice, ask)
        items, kept, failed = found.garbage, found.kept, []
    result = {
        "store": store.root.shown,
        "deleted": bool(options.delete),
        "items": [_row(item) for item in items],
        "by_kind": _totals(items),
        "bytes": sum(item.bytes for item in items),
        "kept": [{"kind": k.kind, "step": k.step, "label": k.label, "path": k.place.shown, "reason": k.reason} for k in kept],
        "failed": [{**_row(item), "error": error} for item, error in failed],
    }
    if not options.json:
        _print(result, items, kept, bool(options.delete))
    return result


def seconds_of(text: str) -> float:
    """`7d`, `12h`, `30m`, `90s`, `2w` -> seconds; a bare 0 is none."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhdw])", text.strip())
    if match is None and text.strip() != "0":
        raise UserError(f"--older-than '{text}' is not a time", "write a number and s, m, h, d or w, for example 7d")
    return float(match[1]) * UNITS[match[2]] if match else 0.0


def _labels(store: Store, names: list[str]) -> frozenset[str]:
    """Labels of the store by name; a recipe's name stands also for its labels with `--set` (name and six hex digits)."""
    present = {label for step in steps(store) for label in labels(store, step)}
    chosen: set[str] = set()
    for name in names:
        hits = {label for label in present if label == name or re.fullmatch(re.escape(name) + r"-[0-9a-f]{6}", label)}
        if not hits:
            near = difflib.get_close_matches(name, sorted(present), n=1)
            hint = f"; did you mean '{near[0]}'?" if near else ""
            raise UserError(
                f"there is no label '{name}' in {store.root.shown}{hint}", f"labels: {', '.join(sorted(present)) or 'none'}; check --store"
            )
        chosen |= hits
    return frozenset(chosen)


def _registered(uri: str) -> list[Registered]:
    """Registered versions; none where the embedded tracking store was never made."""
    if uri.startswith("sqlite:///") and not Path(uri.removeprefix("sqlite:///")).exists():
        return []
    from infra import tracking  # MLflow takes seconds to import
    from infra.tracking.sources import version_sources

    tracking.check(uri)
    return registered_versions(version_sources(uri))


def _row(item: Garbage) -> dict[str, Any]:
    return {
        "kind": item.kind,
        "step": item.step,
        "label": item.label,
        "path": item.place.shown,
        "bytes": item.bytes,
        "files": item.files,
        "age_s": round(max(0.0, time.time() - item.modified), 1),
        "reason": item.reason,
    }


def _totals(items: list[Garbage]) -> dict[str, dict[str, int]]:
    totals = {}
    for kind in KINDS:
        own = [item for item in items if item.kind == kind]
        totals[kind] = {"items": len(own), "files": sum(i.files for i in own), "bytes": sum(i.bytes for i in own)}
    return totals


def _print(result: dict[str, Any], items: list[Garbage], kept: list[Kept], deleted: bool) -> None:
    print(f"store {result['store']}\n")
    for item in items:
        print(f"{item.kind:10}  {size(item.bytes):>9}  {item.place.shown}  ({item.reason})")
    if items:
        print()
    for kind, total in result["by_kind"].items():
        if total["items"]:
            print(f"{kind:10}  {size(total['bytes']):>9}  {total['items']} items, {total['files']} files")
    for (kind, reason), count in Counter((each.kind, each.reason) for each in kept).items():
        print(f"kept: {count} {kind}: {reason}")
    for row in result["failed"]:
        print(f"not deleted: {row['path']}: {row['error']}")
    if deleted:
        print(f"deleted {size(result['bytes'])} in {len(items)} items")
    elif items:
        print(f"{size(result['bytes'])} in {len(items)} items could go; nothing was deleted, --delete does it")
    else:
        print("nothing to delete")


def size(count: float) -> str:
    """Bytes in powers of 1024, as people read them."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"
