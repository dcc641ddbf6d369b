"""What must hold after a disturbed run, compared with an undisturbed one of the same recipe and seed.

Each check returns sentences for what does not hold; no sentence is good.
"""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipelines.chaos import results
from pipelines.chaos.results import LEDGERS, PACKED, Finished

# Of losses and scores, relative. A training repeats to the last digit at the same number of workers; an update that is left out,
# repeated, or made with other objects changes a loss by percents.
TOLERANCE = 1e-6
# Steps whose shards are the same to the bit, whoever makes them.
SAME_TO_THE_BIT = ("render", "encode")
KEPT_ON_PURPOSE = ("ray", "torchinductor_")
# Figures of a training that tell of the machine, not of the model.
NOT_OF_THE_MODEL = ("seconds", "wait", "samples_per_s", "memory", "mfu", "tflops", "_per_s", "upload")


def records(store: Path, steps: list[str]) -> Iterator[str]:
    """Every step has one finished build whose inputs are the finished builds, and nothing is begun or held."""
    builds = results.finished(store, steps)
    for step in steps:
        if step not in builds:
            yield f"{step} has no record"
            continue
        build = builds[step]
        if not build.folder.is_dir():
            yield f"{step}: the record names {build.folder.name}, which is not there"
        for role, read in build.record["inputs"].items():
            if read["step"] in builds and builds[read["step"]].record["build_id"] != read["build_id"]:
                yield f"{step} was made from an older build of {role}"
        for left in ("building.json", "lease.json"):
            if (build.folder.parent / left).exists():
                yield f"{step}: {left} was left"
        others = [path.name for path in build.folder.parent.iterdir() if path.is_dir() and path != build.folder]
        if others:
            yield f"{step}: builds that no record names were left: {', '.join(others)}"


def objects(store: Path, reference: Path, steps: list[str]) -> Iterator[str]:
    """Every object once in every step's ledger and shards, with the state and the content that it has without faults."""
    ours, theirs = results.finished(store, steps), results.finished(reference, steps)
    for step in [each for each in steps if each in LEDGERS and each in ours]:
        rows, expected = results.statuses(ours[step]), results.statuses(theirs[step])
        if twice := results.doubled([uid for uid, _ in rows]):
            yield f"{step}: more than once in the ledger: {', '.join(twice)}"
        if rows != expected:
            yield f"{step}: the ledger differs from the undisturbed one: {sorted(set(rows) ^ set(expected))}"
    for step in [each for each in steps if each in PACKED and each in ours]:
        packed, expected = results.packed_digests(ours[step]), results.packed_digests(theirs[step])
        if twice := results.doubled([uid for uid, _ in packed]):
            yield f"{step}: more than once in the shards: {', '.join(twice)}"
        if [uid for uid, _ in packed] != [uid for uid, _ in expected]:
            yield f"{step}: the shards hold {len(packed)} objects, those of the undisturbed run {len(expected)}, or others"
        if step in SAME_TO_THE_BIT and (unlike := sorted({uid for uid, _ in set(packed) ^ set(expected)})):
            yield f"{step}: the shards differ from the undisturbed ones in {', '.join(unlike)}"


def curves(store: Path, reference: Path, steps: list[str]) -> Iterator[str]:
    """Every update once and in order, with the loss that it has without faults; validations likewise."""
    ours, theirs = results.finished(store, steps), results.finished(reference, steps)
    for step in [each for each in steps if each.startswith("train.") and each in ours]:
        for name in ("history.jsonl", "validation.jsonl"):
            rows, expected = results.curve(ours[step], name), results.curve(theirs[step], name)
            if [row["step"] for row in rows] != [row["step"] for row in expected]:
                yield f"{step}: {name} has steps {[row['step'] for row in rows]} instead of {[row['step'] for row in expected]}"
                continue
            for row, other in zip(rows, expected, strict=True):
                if wrong := _unlike(row, other):
                    yield f"{step}: {name} differs at step {row['step']}: {wrong}"
                    break


def largest_deviation(store: Path, reference: Path, steps: list[str]) -> float:
    """Of all losses from the undisturbed ones, relative."""
    ours, theirs = results.finished(store, steps), results.finished(reference, steps)
    found = [0.0]
    for step in [each for each in steps if each.startswith("train.") and each in ours]:
        pairs = zip(results.curve(ours[step], "history.jsonl"), results.curve(theirs[step], "history.jsonl"), strict=False)
        found += [abs(row["loss"] - other["loss"]) / max(abs(other["loss"]), 1e-12) for row, other in pairs]
    return max(found)


def _unlike(row: dict[str, Any], other: dict[str, Any]) -> str:
    names = [name for name in other if not any(part in name for part in NOT_OF_THE_MODEL)]
    wrong = [name for name in names if name not in row or not _close(row[name], other[name])]
    return ", ".join(f"{name} {row.get(name)} instead of {other[name]}" for name in wrong)


def _close(a: Any, b: Any) -> bool:
    if not isinstance(a, (int, float)) or not isinstance(b, (int, float)):
        return a == b
    return math.isclose(a, b, rel_tol=TOLERANCE, abs_tol=TOLERANCE * 1e-3)


def figures(store: Path, reference: Path, steps: list[str]) -> Iterator[str]:
    """The scores are those of the undisturbed run, as far as the models are the same."""
    if "score" not in steps:
        return
    ours, theirs = results.scores(_only(store, "score")), results.scores(_only(reference, "score"))
    wrong = sorted(name for name in ours.keys() | theirs.keys() if not _close(ours.get(name), theirs.get(name)))
    if wrong:
        first = f"{wrong[0]}: {ours.get(wrong[0])} instead of {theirs.get(wrong[0])}"
        yield f"score: {len(wrong)} of {len(theirs)} figures differ, first {first}"


def _only(store: Path, step: str) -> Finished:
    return results.finished(store, [step])[step]


def tidy(store: Path, scratch: Path, others: Path, pids: set[int]) -> Iterator[str]:
    """No temporary file in the store, nothing of ours in the temporary folder or in shared memory.

    Args:
        scratch: `TMPDIR` of the run; only Ray's own folder and torch's cache of compiled code may be there.
        others: shared memory, where Blender's scratch folders are; those of `pids` are ours.
    """
    left = [
        path.relative_to(store).as_posix() for path in store.rglob("*") if path.name.startswith(".") or path.suffix in (".tmp", ".part")
    ]
    if left:
        yield f"{len(left)} temporary files were left in the store: {', '.join(sorted(left)[:5])}"
    ours = sorted(path.name for path in scratch.iterdir() if not path.name.startswith(KEPT_ON_PURPOSE))
    ours += sorted(path.name for path in others.glob("mvforge-*") if _owner(path.name) in pids)
    if ours:
        yield f"{len(ours)} temporary folders were left: {', '.join(ours[:5])}"


def _owner(name: str) -> int | None:
    number = name.removeprefix("mvforge-blender-").partition("-")[0]
    return int(number) if number.isdigit() else None
