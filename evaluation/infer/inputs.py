"""What batch inference is given, whatever holds it: a list of objects, and each object's pictures when they are wanted.

Listing looks at names, sizes and times (of Parquet files also at the uids), so that a million objects are listed in the time of
a listing; pictures are opened by the worker that generates from them.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Protocol
from urllib.parse import quote

import numpy as np
from PIL import Image

from evaluation.infer.pictures import Unusable, opened, prepared
from infra.errors import UserError
from infra.storage import Location
from rendering.view_set import ViewSet
from training.photo import given_views

PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
TABLE_SUFFIX = ".parquet"
LONGEST_UID = 200


@dataclass(frozen=True)
class Item:
    """One object of the input.

    Attributes:
        uid: its name; that of the result.
        source: where it comes from, for people; keys inside a URL are hidden.
        place: JSON text for `Inputs.read`.
        stamp: changes when the object's pictures do: names, sizes and modification times.
        pictures: how many there are, where the listing tells.
        reason, detail: why nothing can be generated from it, where the listing tells.
    """

    uid: str
    source: str
    place: str
    stamp: str
    pictures: int | None = None
    reason: str = ""
    detail: str = ""


class Inputs(Protocol):
    """A kind of input. Pickles, so that each worker reads for itself."""

    def items(self) -> list[Item]:
        """All objects in a fixed order; names may repeat. Raises UserError where there is nothing to list."""
        ...

    def read(self, uid: str, place: str, framing: bool) -> tuple[ViewSet, list[bytes]]:
        """Condition views of one object, and the files they come from.

        Raises:
            Unusable: a picture that is none, or has no object in it.
        """
        ...


def listed(inputs: Inputs, out_is_url: bool = False) -> list[Item]:
    """The objects with names that are different from each other and safe as file names; others are marked as failed.

    Args:
        out_is_url: names must be able to stand in a URL as they are.
    """
    items: list[Item] = []
    taken: dict[str, int] = {}
    for item in inputs.items():
        wrong = _wrong_name(item.uid, out_is_url)
        if wrong:
            safe = quote(item.uid, safe="")[:LONGEST_UID].replace(".", "%2E")
            item = replace(item, uid=f"({safe})", reason="bad_uid", detail=f"the name {item.uid[:LONGEST_UID]!r} {wrong}")
        count = taken[item.uid] = taken.get(item.uid, 0) + 1
        if count > 1:
            detail = f"another object of this input is called {item.uid!r}"
            item = replace(item, uid=f"{item.uid}#{count}", reason=item.reason or "duplicate_uid", detail=item.detail or detail)
        items.append(item)
    return items


def _wrong_name(uid: str, in_url: bool) -> str:
    """Why a name cannot be that of a file below the output folder; empty when it can."""
    if not uid or len(uid) > LONGEST_UID:
        return f"has {len(uid)} characters, not 1 to {LONGEST_UID}"
    if re.search(r"[\x00-\x1f\x7f\\]", uid):
        return "has a backslash or a control character"
    if any(part in ("", ".", "..") for part in uid.split("/")):
        return "is no plain relative path"
    if in_url and not re.fullmatch(r"[A-Za-z0-9._~/-]*", uid):
        return "has characters that cannot stand in a URL, as the output is one: letters, digits, and - . _ ~ / can"
    return ""


def conditions(uid: str, files: list[tuple[bytes, bytes | None]], framing: bool) -> ViewSet:
    """Picture files, each with its mask file or None, as condition views; the first is the reference. Raises Unusable."""
    frames = []
    for number, (picture, mask) in enumerate(files):
        try:
            frames.append(prepared(opened(picture), None if mask is None else _mask(mask), framing))
        except Unusable as error:
            where = f"picture {number + 1} of {len(files)}: " if len(files) > 1 else ""
            raise Unusable(error.reason, where + error.message, error.mend) from error
    return given_views(uid, np.stack(frames))


def _mask(data: bytes) -> Image.Image:
    try:
        return opened(data)
    except Unusable as error:
        raise Unusable(error.reason, f"the mask: {error.message}", error.mend) from error


def natural(name: str) -> list[tuple[int, int, str]]:
    """Sorting key by which view2 comes before view10."""
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in re.split(r"(\d+)", name) if part]


def shown(base: Location, names: Iterable[str]) -> str:
    """Place of a source for people: the file, or the folder of several."""
    found = list(names)
    name = found[0] if len(found) == 1 else found[0].rpartition("/")[0]
    return (base / name).shown if name else base.shown


def nothing(base: Location) -> UserError:
    return UserError(
        f"no pictures in {base.shown}",
        f"give a folder of pictures ({', '.join(PICTURE_SUFFIXES)}), Parquet files with a column of them, or a view store",
    )
