"""docs/add-a-method.md shows the toy as it is: every line of code in it stands in the toy's files, in that order."""

import re

from tests.conftest import ROOT


def test_the_example_in_the_docs_is_the_one_that_runs():
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs/add-a-method.md").read_text(), re.DOTALL)
    files = [(ROOT / "tests/e2e" / name).read_text().splitlines() for name in ("toy_method.py", "toy_recipe.py")]
    assert len(blocks) >= 5
    for block in blocks:
        wanted = [line for line in block.splitlines() if line.strip()]
        assert any(_in_order(wanted, lines) for lines in files), f"not in the toy's files:\n{block}"


def _in_order(wanted: list[str], lines: list[str]) -> bool:
    rest = iter(lines)
    return all(any(line == candidate for candidate in rest) for line in wanted)


def test_the_toy_keeps_its_promise():
    lines = [line for line in (ROOT / "tests/e2e/toy_method.py").read_text().splitlines() if line.strip()]
    assert len(lines) <= 60, "a method fits into 60 lines"
