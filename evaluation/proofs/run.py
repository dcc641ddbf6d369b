"""A proof by name: train what is missing, measure, write `result.json` (and pictures), say which claims hold."""

import json
import platform
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from evaluation.proofs.ablate import ablate
from evaluation.proofs.adapt import adapt
from evaluation.proofs.compare import compare
from evaluation.proofs.condition import condition
from evaluation.proofs.conditions import more_conditions
from evaluation.proofs.data import ProofData
from evaluation.proofs.dropout import dropout
from evaluation.proofs.fitting import scaled
from evaluation.proofs.memorise import memorise
from evaluation.proofs.setups import SETUPS, Setup
from infra.errors import UserError
from infra.provenance import git_commit

TRAININGS = ("vae_rgb", "vae", "memorise", "condition", "dropout", "sparse", "ablation")
Proof = Callable[[Setup, ProofData, Path], dict[str, Any]]
PROOFS: dict[str, Proof] = {"adapt": adapt, "memorise": memorise, "condition": condition, "dropout": dropout}
# One card's work: proofs 5 to 7.
GPU_PROOFS: dict[str, Proof] = {"compare": compare, "conditions": more_conditions, "ablate": ablate}


def run_proof(name: str, data: str, out: str, setup: str, share: float = 1.0, threads: int = 0) -> int:
    """Returns 0 when every claim holds, else 1. Raises UserError for an unknown setup or unreadable data."""
    if setup not in SETUPS:
        raise UserError(f"there is no setup '{setup}'", f"choose from {', '.join(SETUPS)}")
    if threads:
        torch.set_num_threads(threads)
    chosen = SETUPS[setup]()
    if share != 1.0:
        trainings: dict[str, Any] = {field: scaled(getattr(chosen, field), share) for field in TRAININGS}
        chosen = replace(chosen, **trainings)
    loaded, folder = ProofData.load(Path(data)), Path(out)
    holds = True
    for proof in (GPU_PROOFS if setup == "gpu" else PROOFS) if name == "all" else [name]:
        result = (PROOFS | GPU_PROOFS)[proof](chosen, loaded, folder)
        pictures = result.pop("pictures", None)
        result |= {"proof": proof, "setup": setup, "share": share, "git_commit": git_commit(), "machine": _machine()}
        folder.mkdir(parents=True, exist_ok=True)
        if pictures:
            _save_pictures(folder / f"{proof}.npz", pictures)
        unfinished = folder / f"{proof}.json.part"
        unfinished.write_text(json.dumps(result, indent=1, default=float))
        unfinished.replace(folder / f"{proof}.json")
        for claim, facts in result["claims"].items():
            interval = f" [{facts['ci95'][0]:.2f}, {facts['ci95'][1]:.2f}]" if facts.get("ci95") else ""
            print(f"{'HOLDS ' if facts['holds'] else 'FAILS '} {claim}: {facts['value']:.3f}{interval}", flush=True)
            holds &= bool(facts["holds"])
    return 0 if holds else 1


def _save_pictures(path: Path, pictures: dict[str, Any]) -> None:
    uids = pictures["uids"]
    arrays = {name: np.stack([values[uid] for uid in uids]) for name, values in pictures.items() if name != "uids"}
    np.savez_compressed(path, uids=np.array(uids), **arrays)


def _machine() -> dict[str, Any]:
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else _processor()
    return {"device": device, "threads": torch.get_num_threads(), "torch": torch.__version__}


def _processor() -> str:
    """The CPU's model as Linux tells it, else its architecture."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
