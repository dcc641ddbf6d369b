"""What a chaos run has done so far: append-only lines of JSON, so that a second call goes on where the first one ended.

`faults.jsonl` has a row for every planned fault, injected or not; `passes.jsonl` one for every pass that was run to its end and
checked. Faults count when their pass held.
"""

import json
import os
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from infra.errors import UserError

INJECTED, MISSED = "injected", "not injected"
SETTINGS = "chaos.json"


@dataclass(frozen=True)
class FaultRow:
    """One planned fault.

    Attributes:
        number: of its pass; `kind`, `step`: what and in which step of the run.
        state: `INJECTED`, or `MISSED` with the reason in `outcome`.
        hit: which process or file it was.
        at: epoch seconds of the injection; None when missed.
        recovery_s: from the fault to the next progress of the work; None when missed.
        repeated: finished pieces of work (objects, updates, checkpoints, steps) that were made again until then.
        outcome: how the run took it, in a word or two.
    """

    number: int
    kind: str
    step: str
    state: str
    hit: str = ""
    at: float | None = None
    recovery_s: float | None = None
    repeated: int = 0
    outcome: str = ""


@dataclass(frozen=True)
class PassRow:
    """One pass: whether all invariants held (`broken` lists those that did not), and what it took."""

    number: int
    broken: list[str]
    seconds: float
    starts: int
    injected: int
    facts: dict[str, Any]


class Ledger:
    """The files below one folder.

    Raises:
        UserError: the folder was begun with other settings.
    """

    def __init__(self, folder: Path, settings: dict[str, Any]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        place = folder / SETTINGS
        if place.exists():
            known = json.loads(place.read_text())
            if known != settings:
                other = ", ".join(f"{key}: {known.get(key)} -> {value}" for key, value in settings.items() if known.get(key) != value)
                raise UserError(f"{folder} was begun with other settings ({other})", "use another --out, or the same settings to go on")
        else:
            _write_whole(place, json.dumps(settings, indent=2) + "\n")
        for name in ("faults.jsonl", "passes.jsonl"):
            _cut_torn_line(folder / name)

    def faults(self) -> list[FaultRow]:
        return [FaultRow(**row) for row in _rows(self.folder / "faults.jsonl")]

    def passes(self) -> list[PassRow]:
        return [PassRow(**row) for row in _rows(self.folder / "passes.jsonl")]

    def add(self, row: FaultRow | PassRow) -> None:
        name = "faults.jsonl" if isinstance(row, FaultRow) else "passes.jsonl"
        with open(self.folder / name, "a") as stream:
            stream.write(json.dumps(asdict(row)) + "\n")
            stream.flush()
            os.fsync(stream.fileno())

    def counted(self) -> list[FaultRow]:
        """Injected faults of the passes that held."""
        held = {row.number for row in self.passes() if not row.broken}
        return [row for row in self.faults() if row.state == INJECTED and row.number in held]

    def missed(self) -> list[FaultRow]:
        """Planned faults of the passes that held for which there was nothing to hit."""
        held = {row.number for row in self.passes() if not row.broken}
        return [row for row in self.faults() if row.state == MISSED and row.number in held]

    def by_kind(self) -> Counter[str]:
        return Counter(row.kind for row in self.counted())

    def next_number(self) -> int:
        """Of the next pass; one that was interrupted keeps its number, and its faults do not count."""
        numbers = [row.number for row in self.faults()] + [row.number for row in self.passes()]
        return max(numbers, default=0) + 1


def _rows(place: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in place.read_text().splitlines()] if place.exists() else []


def _cut_torn_line(place: Path) -> None:
    """A kill in the middle of a write leaves a last line without its end."""
    if place.exists() and not (text := place.read_text()).endswith("\n"):
        _write_whole(place, text[: text.rfind("\n") + 1])


def _write_whole(place: Path, text: str) -> None:
    temporary = place.with_name(f".{place.name}.tmp")
    temporary.write_text(text)
    os.replace(temporary, place)
