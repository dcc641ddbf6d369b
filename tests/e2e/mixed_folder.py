"""A folder as strangers fill it: whole files, files that are wrong in many ways, and names that mean harm to a shell."""

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from rendering.sources import procedural
from tests.rendering import whole_glb
from tests.rendering.broken_glb import BROKEN
from tests.rendering.test_preflight import FAULTS, picture, require

WHOLE = "whole"
EVIL_NAMES = (
    "plain",
    "two words",
    "; $(touch canary) `touch canary` &",
    'it\'s "quoted"',
    "na\u00efve \u6a21\u578b",
    "-rf",
    "%s{}%n",
    "a" * 180,
)


def _rotten_png() -> bytes:
    """A header that promises four pixels, and rubbish behind it: only a decoder can tell."""
    data = bytearray(whole_glb.png(4, 4))
    data[41:60] = b"\xff" * 19
    return bytes(data)


def _edited(edit: Callable[[dict, bytearray], None]) -> bytes:
    document, body = whole_glb.whole()
    changed = bytearray(body)
    edit(document, changed)
    return whole_glb.put_together(document, bytes(changed))


def _faulty(name: str) -> tuple[bytes, str]:
    edit, reason, _ = FAULTS[name]
    return _edited(edit), reason


# File name -> (content, reason). The first ones are the most unlike each other.
WRONG: dict[str, Callable[[], tuple[bytes, str]]] = {
    "cut short.glb": lambda: BROKEN["cut.glb"],
    "rotten picture.glb": lambda: (
        _edited(picture(_rotten_png())),
        "missing_image",
    ),  # Blender's own finding; the others are refused unseen
    "climbs out.gltf": lambda: BROKEN["escape.gltf"],
    "NaN.glb": lambda: _faulty("NaN position"),
    "own ancestor.glb": lambda: _faulty("node below itself"),
    "empty.glb": lambda: BROKEN["empty.glb"],
    "a page of text.GLB": lambda: BROKEN["text.glb"],
    "bad json.glb": lambda: BROKEN["bad_json.glb"],
    "10^15 vertices.glb": lambda: _faulty("accessor of 10^15"),
    "needs ktx2.glb": lambda: (_edited(require("KHR_texture_basisu")), "unsupported_extension"),
    "a point.glb": lambda: _faulty("everything in one point"),
    "points and lines.glb": lambda: _faulty("points and lines"),
    "its picture is elsewhere.gltf": lambda: BROKEN["lonely.gltf"],
    "giant picture.glb": lambda: _faulty("picture of 100,000 x 100,000"),
    "old.glb": lambda: BROKEN["old.glb"],
    "loads of json.glb": lambda: BROKEN["deep.glb"],
    "draco bomb.glb": lambda: _faulty("Draco bomb"),
}


def fill(folder: Path, whole: int, wrong: int, real: Sequence[Path] = ()) -> dict[Path, str]:
    """Write `whole` generated files, `wrong` broken ones and copies of the `real` ones; path -> `WHOLE` or its reason.

    Real files are taken as whole, except for one that Blender is known not to read.
    """
    found: dict[Path, str] = {}
    folder.mkdir(parents=True)
    for number, reference in enumerate(procedural.list_objects(whole, seed=11)):
        name = EVIL_NAMES[number] if number < len(EVIL_NAMES) else f"toy {number}"
        path = folder / ("" if number % 4 else "a folder; with $HOME") / f"{name}.glb"
        path.parent.mkdir(exist_ok=True)
        # The last is the same file under another name: an object of its own.
        again = next(iter(found)) if number == whole - 1 else None
        path.write_bytes(again.read_bytes() if again else procedural.make_glb(reference.uri))
        found[path] = WHOLE
    for name, make in list(WRONG.items())[:wrong]:
        content, found[folder / name] = make()
        (folder / name).write_bytes(content)
    for source in real:
        target = folder / "real" / source.parent.name / source.name
        shutil.copytree(source.parent, target.parent) if source.parent.name.endswith("_external") else _copy(source, target)
        found[target] = "unsupported_extension" if "ktx2" in source.name else WHOLE
    return found


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
