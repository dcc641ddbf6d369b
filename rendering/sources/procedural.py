"""The embedded source: seeded toy objects, each a valid GLB under CC0, no network and no files needed.

Object `index` of seed `seed` is always the same, however many objects a catalog asks for.
"""

from collections.abc import Sequence
from difflib import get_close_matches

from infra.errors import UserError
from infra.seeds import rng_for
from rendering.sources.base import PROCEDURAL, FetchError, ObjectRef
from rendering.sources.shapes.draw import COLOURS, CONTRASTING, Draw
from rendering.sources.shapes.families import FAMILIES
from rendering.sources.shapes.glb import LICENCE, write_glb
from rendering.sources.shapes.parts import Part

VERSION = 1
"""Raise it when the same parameters give another file: it is part of every group, uid and uri."""


def check_families(families: Sequence[str]) -> tuple[str, ...]:
    """The families to draw from; all of them when none is named. Raises UserError for an unknown one."""
    for family in families:
        if family not in FAMILIES:
            near = get_close_matches(family, FAMILIES, n=1)
            hint = f"did you mean '{near[0]}'? " if near else ""
            raise UserError(f"unknown procedural family '{family}'", f"{hint}known: {', '.join(FAMILIES)}")
    return tuple(families) or tuple(FAMILIES)


def check_colours(colours: str) -> str:
    """Raises UserError for an unknown way to choose colours."""
    if colours not in COLOURS:
        raise UserError(f"unknown procedural colours '{colours}'", f"known: {', '.join(COLOURS)}")
    return colours


def _design(family: str, seed: int, index: int, colours: str = CONTRASTING) -> tuple[Draw, list[Part]]:
    draw = Draw(rng_for("procedural", VERSION, family, seed, index), colours)
    return draw, FAMILIES[family](draw)


def list_objects(count: int, seed: int, families: Sequence[str] = (), colours: str = CONTRASTING) -> list[ObjectRef]:
    """The first `count` objects of a seed; families take turns. Colours: see `Draw.palette`; shapes do not depend on them."""
    names = check_families(families)
    check_colours(colours)
    return [_reference(names[index % len(names)], seed, index, colours) for index in range(count)]


def _reference(family: str, seed: int, index: int, colours: str) -> ObjectRef:
    draw, _ = _design(family, seed, index, colours)
    digest = draw.digest()
    return ObjectRef(
        uid=f"{family}-{index:05d}-{digest[:8]}",
        source=PROCEDURAL,
        uri=f"procedural://{VERSION}/{family}/{seed}/{index}" + ("" if colours == CONTRASTING else f"/{colours}"),
        group=f"procedural-{VERSION}-{family}-{digest[:32]}",
        category=family,
        licence=LICENCE,
        attribution="mvforge procedural generator",
        caption=f"a toy {family}",
        title=f"toy {family} {index}",
        author="mvforge procedural generator",
    )


def make_glb(uri: str) -> bytes:
    """The file of `procedural://version/family/seed/index[/colours]`. Raises FetchError when this version cannot make it."""
    version, family, seed, index, *rest = uri.removeprefix("procedural://").split("/")
    colours = rest[0] if rest else CONTRASTING
    if int(version) != VERSION or family not in FAMILIES or colours not in COLOURS:
        raise FetchError("unknown_generator", f"{uri} needs generator version {version}, this is {VERSION}: build the catalog again")
    return write_glb(_design(family, int(seed), int(index), colours)[1], f"{family}-{int(index):05d}")
