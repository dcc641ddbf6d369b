"""The commands of docs/operations.md do what the page says, on a synthetic store; those that a test cannot run are marked there."""

import re
import shlex
import time
from pathlib import Path

import pytest

from infra.storage import Location
from pipelines.__main__ import main, parser
from pipelines.artifact import Building, Store, new_build_id
from rendering.render_status import Started
from tests.conftest import ROOT
from tests.pipelines.stores import age, finished, orphan

PAGE = ROOT / "docs" / "operations.md"


def commands() -> list[str]:
    """The lines of all shell blocks, with their comments."""
    blocks = re.findall(r"```sh\n(.*?)```", PAGE.read_text(), re.DOTALL)
    return [line for block in blocks for line in block.splitlines() if line.strip()]


def tried(line: str) -> bool:
    return "# untried" not in line


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setenv("MVFORGE_STORE", str(tmp_path / "store"))
    monkeypatch.setenv("MVFORGE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    store = Store(Location(str(tmp_path / "store")))
    finished(store, "catalog", "tiny")
    orphan(store, "catalog", "tiny")
    age(store.root)
    rendering = Building(new_build_id(), "print", "build", time.time())
    store.note_building("render", "tiny", rendering)
    Started("a" * 12, 10, [], 8, 1).write(store.folder("render", "tiny") / rendering.build_id)
    return store


@pytest.mark.parametrize("line", [line for line in commands() if tried(line)])
def test_command(line, store, capsys):
    program, *arguments = shlex.split(line, comments=True)
    assert program == "mvforge"
    if "--watch" in arguments:
        arguments += ["--refreshes", "1"]  # else it goes on until Ctrl-C
    assert main(arguments) == 0
    assert capsys.readouterr().out


@pytest.mark.parametrize("line", [line for line in commands() if not tried(line)])
def test_untried_commands_are_at_least_understood(line):
    program, *arguments = shlex.split(line, comments=True)
    assert program == "mvforge" and parser().parse_args(arguments).run


def test_only_what_starts_ray_is_untried():
    verbs = {shlex.split(line)[1] for line in commands() if not tried(line)}
    assert len([line for line in commands() if tried(line)]) >= 13 and verbs == {"run", "up"}


def test_the_page_quotes_what_the_code_says():
    """Messages in quotation marks stand so in the code, where they have no figure or name in them."""
    code = "\n".join(
        path.read_text() for folder in ("pipelines", "training", "infra", "rendering") for path in (ROOT / folder).rglob("*.py")
    )
    for words in (
        "more than the allowed share",
        "run again to go on",
        "was taken over while this process was suspended",
        "is refused, the one before it is used instead",
        "with other settings",
        "was written by a newer mvforge",
        "has generator format",
        "is not visible on",
        "cannot be reached",
        "does not fit this environment",
        "ended at once",
        "is being built by",
        "is damaged",
        "is not a shard of",
    ):
        assert words in code, words
        assert words.split(" while ")[0] in PAGE.read_text(), words
