"""docs/conventions.md against the code."""

import importlib.util
from pathlib import Path

from rendering.lights import NAMES
from rendering.rigs import RIGS

DOCS = Path(__file__).parents[2] / "docs"


def test_the_page_names_every_rig_and_light():
    page = (DOCS / "conventions.md").read_text()
    assert all(f"| `{name}` |" in page for name in (*RIGS, *NAMES))


def test_the_diagram_is_what_its_script_draws():
    spec = importlib.util.spec_from_file_location("draw_conventions", DOCS / "images" / "draw_conventions.py")
    assert spec is not None and spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    assert script.drawing() == (DOCS / "images" / "conventions.svg").read_text()
