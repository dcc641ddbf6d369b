"""The `notice` verb: a checkpoint of every running training, now."""

import argparse
import time
from typing import Any

from infra.storage import Location
from pipelines.artifact import Store
from pipelines.context import store_location
from pipelines.lease import read_holder
from pipelines.references import labels, steps
from training.checkpoint_manifest import MANIFEST
from training.notice_file import give

POLL_S = 0.5


def give_notice(options: argparse.Namespace) -> dict[str, Any]:
    """Ask, then wait at most `options.wait` seconds for new whole checkpoints; one entry a training."""
    store = Store(store_location(options.store))
    found = _running(store)
    before = {name: _whole(state) for name, (_, state) in found.items()}
    for out, _ in found.values():
        give(out, leave=False)
    deadline, saved = time.monotonic() + options.wait, dict.fromkeys(found, "")
    while "" in saved.values():
        for name, (_, state) in found.items():
            saved[name] = saved[name] or max(_whole(state) - before[name], default="")
        if time.monotonic() > deadline:
            break
        time.sleep(POLL_S)
    if not options.json:
        for name, checkpoint in saved.items():
            print(f"{name}: {checkpoint or f'no new checkpoint within {options.wait:g} s; the last one counts'}")
        if not found:
            print(f"no training is running in {store.root.shown}")
    return {"trainings": [{"training": name, "saved": bool(checkpoint), "checkpoint": checkpoint} for name, checkpoint in saved.items()]}


def _running(store: Store) -> dict[str, tuple[Location, Location]]:
    """Build folder and checkpoints' folder of every training whose driver lives, by step and label."""
    found = {}
    for step in steps(store):
        for label in labels(store, step) if step.startswith("train.") else []:
            folder, building = store.folder(step, label), store.building(step, label)
            holder = read_holder(folder / "lease.json")
            if building is not None and holder is not None and not holder.is_gone():
                out = folder / building.build_id
                found[f"{step} under label '{label}'"] = (out, out / "state" / building.build_id)
    return found


def _whole(state: Location) -> set[str]:
    return {entry.name for entry in state.children() if entry.name.startswith("step-") and (state / entry.name / MANIFEST).exists()}
