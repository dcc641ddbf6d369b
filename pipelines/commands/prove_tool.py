"""The `prove` verb: claims about learning, each one command that trains what is missing, measures and says what holds."""

import argparse
import difflib
from pathlib import Path
from typing import Any

from infra.errors import UserError
from infra.storage import Location
from pipelines.commands.prove_options import DATA, PAGE
from pipelines.context import absolute, store_location

RECIPES = {"cpu": "proof", "gpu": "proof_gpu"}


def prove(options: argparse.Namespace) -> dict[str, Any]:
    """Run what `options.proof` names. Raises UserError for an unknown proof or setup."""
    from evaluation.proofs.run import GPU_PROOFS, PROOFS, run_proof

    known = [*PROOFS, *GPU_PROOFS, "all", DATA, PAGE]
    if options.proof not in known:
        near = difflib.get_close_matches(options.proof, known, n=1)
        hint = f"; did you mean '{near[0]}'?" if near else ""
        raise UserError(f"there is no proof '{options.proof}'{hint}", f"known: {', '.join(known)}")
    if options.setup not in RECIPES:
        raise UserError(f"there is no setup '{options.setup}'", f"choose from {', '.join(RECIPES)}")
    if options.proof == PAGE:
        from evaluation.proofs.page import write_page

        written = write_page(Path(options.out), Path(options.page))
        return _told(options, {"holds": True, "files": [str(path) for path in written]}, f"{len(written)} files -> {options.page}")
    if options.proof == DATA:
        path = make_data(options, Path(options.out))
        return _told(options, {"holds": True, "files": [str(path)]}, f"{path}, {path.stat().st_size / 1e6:.1f} MB")
    data = Path(options.data) if options.data else Path(options.out) / "data.npz"
    if not options.data and not data.is_file():
        make_data(options, data)
    failed = run_proof(options.proof, str(data), options.out, options.setup, options.share, options.threads)
    return {"holds": failed == 0, "out": str(options.out)}


def make_data(options: argparse.Namespace, path: Path) -> Path:
    """Render the setup's recipe (what is missing of it) and write its objects as one file."""
    from evaluation.proofs.collect import collect
    from pipelines import recipes
    from pipelines.__main__ import main
    from pipelines.artifact import Store

    name = RECIPES[options.setup]
    store = store_location(options.store)
    if main(["run", name, "--only", "data", "--store", str(store)]) != 0:
        raise UserError(f"the data of recipe '{name}' could not be made", f"see mvforge status {name}")
    fov_deg = recipes.by_name(name).model.fov_deg
    builds = Store(store)
    places: dict[str, Location] = {}
    for step in ("catalog", "render", "curate"):
        record = builds.record(step, name)
        assert record is not None, "the run above ended well"
        places[step] = builds.data(record)
    found = collect(places["catalog"], places["render"], places["curate"], fov_deg)
    target = Path(absolute(str(path), "the data file"))
    found.save(target)
    return target


def _told(options: argparse.Namespace, result: dict[str, Any], line: str) -> dict[str, Any]:
    if not options.json:
        print(line)
    return result
