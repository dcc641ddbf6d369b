"""Rows of Parquet files: a name, one picture or a list of them, and masks where they have no alpha."""

import json
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from evaluation.infer.inputs import TABLE_SUFFIX, Item, conditions, nothing
from evaluation.infer.pictures import Unusable
from infra.errors import UserError
from infra.storage import Entry, Location
from rendering.view_set import ViewSet


@dataclass(frozen=True)
class Columns:
    """Names of the columns; an absent uid column means file name and row number, an absent mask column no masks.

    A picture is binary, or a struct with a binary field `bytes` (as Hugging Face `datasets` writes), or a list of either.
    """

    uid: str = "uid"
    image: str = "image"
    mask: str = "mask"


@dataclass(frozen=True)
class PictureTable:
    """Parquet files below `base` (or `base` itself), one object a row.

    Attributes:
        at_most: so many pictures of an object, the others are left out.
    """

    base: Location
    columns: Columns = Columns()
    at_most: int | None = None
    # The row group read last: neighbouring rows share it.
    _held: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_held": {}}

    def items(self) -> list[Item]:
        single = self.base.name.endswith(TABLE_SUFFIX)
        files = [Entry("", False, *_size_and_time(self.base))] if single else self.base.walk()
        files = [entry for entry in files if single or entry.name.endswith(TABLE_SUFFIX)]
        if not files:
            raise nothing(self.base)
        return [item for entry in files for item in self._rows(entry)]

    def _rows(self, entry: Entry) -> list[Item]:
        source = (self.base / entry.name).shown if entry.name else self.base.shown
        stem = (entry.name or self.base.name).removesuffix(TABLE_SUFFIX)
        stamp = [entry.name, entry.size, entry.mtime, self.columns.image, self.columns.mask]
        items: list[Item] = []
        try:
            with pq.ParquetFile(_path(self.base, entry.name), filesystem=self.base.fs) as table:
                self._check(table.schema_arrow, source)
                named = self.columns.uid in table.schema_arrow.names
                for group in range(table.num_row_groups):
                    count = table.metadata.row_group(group).num_rows
                    uids = table.read_row_group(group, columns=[self.columns.uid]).column(0).to_pylist() if named else [None] * count
                    for row, uid in enumerate(uids):
                        name = f"{stem}-{len(items):06d}" if not named else "" if uid is None else str(uid)
                        place = json.dumps([entry.name, group, row])
                        items.append(Item(name, f"{source}#{len(items)}", place, json.dumps([*stamp, group, row])))
        except (pa.ArrowInvalid, OSError) as error:  # of a thousand files one may be broken
            return [Item(f"{stem}{TABLE_SUFFIX}", source, "", json.dumps(stamp), None, "unreadable", f"no Parquet file: {error}"[:2000])]
        return items

    def _check(self, schema: pa.Schema, source: str) -> None:
        if self.columns.image not in schema.names:
            raise UserError(f"{source} has no column '{self.columns.image}', but {', '.join(schema.names)}", "name it: --image-column NAME")
        for name in (self.columns.image, self.columns.mask):
            if name in schema.names and not _holds_pictures(schema.field(name).type):
                raise UserError(
                    f"column '{name}' of {source} is of type {schema.field(name).type}",
                    "pictures are binary, a struct with a binary field `bytes`, or a list of these",
                )

    def read(self, uid: str, place: str, framing: bool) -> tuple[ViewSet, list[bytes]]:
        name, group, row = json.loads(place)
        values = self._group(name, group)
        pictures = _files(values[self.columns.image][row].as_py())[: self.at_most]
        masks = _files(values[self.columns.mask][row].as_py())[: self.at_most] if self.columns.mask in values else []
        if not pictures or None in pictures:
            raise Unusable("missing_picture", "the row holds no picture", "leave the row out, or store the picture's file in it")
        if masks and len(masks) != len(pictures):
            raise Unusable("mask_count", f"{len(pictures)} pictures and {len(masks)} masks", "give one mask for each picture, or null")
        data = [picture for picture in pictures if picture is not None]
        return conditions(uid, list(zip(data, masks or [None] * len(data), strict=True)), framing), data

    def _group(self, name: str, group: int) -> dict[str, pa.ChunkedArray]:
        if self._held.get("at") != (name, group):
            wanted = {self.columns.image, self.columns.mask}
            with pq.ParquetFile(_path(self.base, name), filesystem=self.base.fs) as table:
                columns = [column for column in table.schema_arrow.names if column in wanted]
                found = table.read_row_group(group, columns=columns)
            self._held.update(at=(name, group), values={column: found.column(column) for column in columns})
        return self._held["values"]


def _holds_pictures(kind: pa.DataType) -> bool:
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return _holds_pictures(kind.value_type)
    if pa.types.is_struct(kind):
        return kind.get_field_index("bytes") >= 0 and _holds_pictures(kind.field("bytes").type)
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def _files(value: Any) -> list[bytes | None]:
    """A cell as a list of files; empty for null, None for a missing one in a list."""
    if value is None:
        return []
    if isinstance(value, list):
        return [file for each in value for file in _files(each) or [None]]
    found = value.get("bytes") if isinstance(value, dict) else value
    return [found] if found else []


def _path(base: Location, name: str) -> str:
    return f"{base.path.rstrip('/')}/{name}" if name else base.path


def _size_and_time(file: Location) -> tuple[int, float]:
    info = file.fs.get_file_info(file.path)
    return info.size or 0, (info.mtime_ns or 0) / 1e9
