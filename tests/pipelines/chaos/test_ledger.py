"""The ledgers of a chaos run go on after a kill, and only faults of passes that held count."""

from pathlib import Path

import pytest

from infra.errors import UserError
from pipelines.chaos import table
from pipelines.chaos.ledger import INJECTED, MISSED, FaultRow, Ledger, PassRow

SETTINGS = {"seed": 0, "recipe": "smoke"}


def fault(number: int, kind: str = "driver", recovery_s: float = 2.0, state: str = INJECTED) -> FaultRow:
    return FaultRow(number, kind, "render", state, "4711", 1.0, recovery_s, 1, "went on by itself")


def passed(number: int, *broken: str) -> PassRow:
    return PassRow(number, list(broken), 60.0, 2, 1, {"deviation": 0.0})


def test_only_passes_that_held_count(tmp_path: Path):
    ledger = Ledger(tmp_path, SETTINGS)
    for row in (fault(1), fault(1, state=MISSED), passed(1), fault(2), passed(2, "an object is there twice"), fault(3)):
        ledger.add(row)
    assert [row.number for row in ledger.counted()] == [1] and len(ledger.missed()) == 1
    assert ledger.next_number() == 4, "the interrupted pass 3 keeps its number"


def test_a_kill_in_the_middle_of_a_line_loses_that_line_only(tmp_path: Path):
    ledger = Ledger(tmp_path, SETTINGS)
    ledger.add(fault(1))
    with open(tmp_path / "faults.jsonl", "a") as stream:
        stream.write('{"number": 1, "ki')
    again = Ledger(tmp_path, SETTINGS)
    again.add(fault(1, "blender"))
    assert [row.kind for row in again.faults()] == ["driver", "blender"]


def test_other_settings_are_refused(tmp_path: Path):
    Ledger(tmp_path, SETTINGS)
    with pytest.raises(UserError, match="seed: 0 -> 1"):
        Ledger(tmp_path, SETTINGS | {"seed": 1})


def test_the_table_has_the_figures(tmp_path: Path):
    ledger = Ledger(tmp_path, SETTINGS)
    for row in (fault(1, recovery_s=1.0), fault(1, recovery_s=2.0), fault(1, recovery_s=9.0), passed(1)):
        ledger.add(row)
    figures = table.summary(ledger, SETTINGS)
    assert figures["faults"] == 3 and figures["kinds"]["driver"]["recovery_s"] == {"median": 2.0, "max": 9.0}
    text = table.markdown(figures)
    assert "| driver killed | 3 | 2.0 | 9.0 | 1 | 1 | 3 | 0 |" in text
    assert "| Blender child killed | 0 | not run |" in text
