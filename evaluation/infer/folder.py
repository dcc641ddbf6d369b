"""Pictures in folders, on a disk or an object store: one picture an object, or one folder of pictures an object."""

import json
from dataclasses import dataclass
from typing import Literal

from evaluation.infer.inputs import PICTURE_SUFFIXES, Item, conditions, natural, nothing, shown
from evaluation.infer.pictures import Unusable
from infra.errors import UserError
from infra.storage import Entry, Location
from rendering.view_set import ViewSet

Layout = Literal["folders", "pictures"]
MASK_ENDINGS = ("_mask", ".mask")


@dataclass(frozen=True)
class PictureFolder:
    """Pictures below `base`, each with alpha or with a mask.

    A mask is `<name>_mask.png` or `<name>.mask.png` beside its picture (any suffix), or `<same path>.*` below `masks`.

    Attributes:
        base: the folder.
        masks: a folder of masks.
        layout: `folders`: pictures directly in `base` are an object each, pictures of one sub-folder are one object together, the
            first by name leads. `pictures`: every picture is an object, however deep.
        at_most: so many pictures of an object, the others are left out.
        only: the name of a single picture in `base` that counts alone.
    """

    base: Location
    masks: Location | None = None
    layout: Layout = "folders"
    at_most: int | None = None
    only: str | None = None

    def items(self) -> list[Item]:
        pictures, masks = self._files()
        if self.only is not None:
            pictures = [entry for entry in pictures if entry.name == self.only]
        if not pictures:
            raise nothing(self.base)
        groups: dict[str, list[Entry]] = {}
        singles: list[tuple[str, list[Entry]]] = []
        for entry in sorted(pictures, key=lambda one: natural(one.name)):
            folder = entry.name.rpartition("/")[0]
            if self.layout == "pictures" or not folder:
                singles.append((_stem(entry.name), [entry]))
            else:
                groups.setdefault(folder, []).append(entry)
        return [self._item(uid, found[: self.at_most], masks) for uid, found in [*singles, *groups.items()]]

    def _item(self, uid: str, found: list[Entry], masks: dict[str, Entry]) -> Item:
        own = [masks.get(_stem(entry.name)) for entry in found]
        stamp = [[e.name, e.size, e.mtime] for pair in zip(found, own, strict=True) for e in pair if e is not None]
        place = [[entry.name, mask.name if mask else None] for entry, mask in zip(found, own, strict=True)]
        return Item(uid, shown(self.base, [e.name for e in found]), json.dumps(place), json.dumps(stamp), len(found))

    def _files(self) -> tuple[list[Entry], dict[str, Entry]]:
        """Pictures, and masks by the path of their picture without suffix."""
        inside = _path_inside(self.base, self.masks)
        found = [e for e in self.base.walk() if _is_picture(e.name) and not (inside and e.name.startswith(inside + "/"))]
        if self.masks is not None:
            masks = {_stem(entry.name): entry for entry in self.masks.walk() if _is_picture(entry.name)}
            if not masks:
                raise UserError(f"no pictures in the folder of masks {self.masks.shown}", "check --masks")
            return found, masks
        stems = {_stem(entry.name) for entry in found}
        masks = {of: entry for entry in found if (of := _mask_of(_stem(entry.name))) in stems}
        taken = {entry.name for entry in masks.values()}
        return [entry for entry in found if entry.name not in taken], masks

    def read(self, uid: str, place: str, framing: bool) -> tuple[ViewSet, list[bytes]]:
        files = [
            (_bytes(self.base, name), None if mask is None else _bytes(self.masks or self.base, mask)) for name, mask in json.loads(place)
        ]
        data = [picture for picture, _ in files]
        return conditions(uid, files, framing), data


def _bytes(base: Location, name: str) -> bytes:
    # Not by joining URLs: a name on an object store may hold a question mark.
    path = f"{base.path.rstrip('/')}/{name}"
    try:
        with base.fs.open_input_file(path) as stream:
            return stream.read()
    except FileNotFoundError as error:
        raise Unusable("missing_file", f"{name} is not there (any more)", "check that every node sees the input") from error
    except OSError as error:
        raise Unusable("unreadable", f"{name} cannot be read: {error}") from error


def _is_picture(name: str) -> bool:
    return name.lower().endswith(PICTURE_SUFFIXES) and not any(part.startswith(".") for part in name.split("/"))


def _stem(name: str) -> str:
    return name.rpartition(".")[0]


def _mask_of(stem: str) -> str:
    """The stem of the picture that a file called so would be the mask of; else something that no file is called."""
    return next((stem.removesuffix(ending) for ending in MASK_ENDINGS if stem.endswith(ending)), "\0")


def _path_inside(base: Location, masks: Location | None) -> str:
    """Path of `masks` relative to `base`; empty when it lies elsewhere."""
    if masks is None or masks.is_local != base.is_local:
        return ""
    root = base.path.rstrip("/") + "/"
    return masks.path.removeprefix(root).rstrip("/") if masks.path.startswith(root) else ""
