"""Arrays per object (latents, image tokens) in Parquet shards: one row and one row group per object, any array read alone."""

import json
from collections.abc import Iterable
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from infra.errors import UserError
from infra.storage import Location

FORMAT_VERSION = 1
VERSION_KEY = b"mvforge_encoded_version"


def to_table(uid: str, arrays: dict[str, np.ndarray]) -> pa.Table:
    """One object as a one-row table: `uid` and one binary column per array, dtype and shape in `<name>.header`.

    Raises:
        ValueError: an array of Python objects, or a name that would clash with the other columns.
    """
    columns: dict[str, Any] = {"uid": [uid]}
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        if array.dtype.hasobject:
            raise ValueError(f"array '{name}' of {uid} holds Python objects")
        if name == "uid" or name.endswith(".header"):
            raise ValueError(f"an array may not be called '{name}'")
        columns[name] = pa.array([array.tobytes()], pa.binary())
        columns[f"{name}.header"] = [json.dumps({"dtype": array.dtype.str, "shape": list(np.shape(arrays[name]))})]
    table = pa.table(columns)
    return table.replace_schema_metadata({VERSION_KEY: str(FORMAT_VERSION).encode()})


def from_row(row: dict[str, Any]) -> dict[str, np.ndarray]:
    """The inverse of `to_table` for one row as a dictionary; the arrays are writable copies."""
    arrays = {}
    for name, data in row.items():
        header = row.get(f"{name}.header")
        if header is not None:
            layout = json.loads(header)
            arrays[name] = np.frombuffer(data, dtype=layout["dtype"]).reshape(layout["shape"]).copy()
    return arrays


class EncodedStore:
    """Read access by uid to a folder of encoded shards.

    Raises:
        UserError: the folder holds no shard, or one of another format version.
    """

    def __init__(self, location: Location) -> None:
        self.location = location

    def __getstate__(self) -> dict[str, Any]:
        return {"location": self.location}

    @cached_property
    def _index(self) -> dict[str, tuple[str, int]]:
        """uid -> (shard name, row group)."""
        index: dict[str, tuple[str, int]] = {}
        for entry in self.location.children():
            if not (entry.name.startswith("part-") and entry.name.endswith(".parquet")):
                continue
            with pq.ParquetFile((self.location / entry.name).path, filesystem=self.location.fs) as shard:
                if (shard.schema_arrow.metadata or {}).get(VERSION_KEY) != str(FORMAT_VERSION).encode():
                    raise UserError(
                        f"{self.location / entry.name} is not an encoded shard of format {FORMAT_VERSION}", "run the encode step again"
                    )
                for group, uid in enumerate(shard.read(columns=["uid"]).column("uid").to_pylist()):
                    index[uid] = (entry.name, group)
        if not index:
            raise UserError(f"no encoded objects in {self.location}", "run the encode step first, or check the path")
        return index

    def uids(self) -> list[str]:
        return sorted(self._index)

    def __contains__(self, uid: str) -> bool:
        return uid in self._index

    def read(self, uid: str, names: list[str] | None = None) -> dict[str, np.ndarray]:
        """Arrays of an object, all or only `names`. Raises KeyError for an unknown uid."""
        part, group = self._index[uid]
        columns = None if names is None else [c for name in names for c in (name, f"{name}.header")]
        with pq.ParquetFile((self.location / part).path, filesystem=self.location.fs) as shard:
            return from_row(shard.read_row_group(group, columns=columns).to_pylist()[0])


def write_shards(tables: Iterable[pa.Table], out: Location, objects_per_shard: int = 256) -> int:
    """Pack one-row tables into `part-NNNNN.parquet` below `out`, in the order given; returns the number of objects."""
    count = shard = 0
    pending: list[pa.Table] = []

    def flush() -> None:
        nonlocal shard
        # No dictionary pages and no statistics: the columns are unique binary blobs. An object may lack an array of others.
        (out / f"part-{shard:05d}.parquet").write_table(
            pa.concat_tables(pending, promote_options="default"),
            row_group_size=1,
            compression="zstd",
            use_dictionary=False,
            write_statistics=False,
        )
        shard += 1
        pending.clear()

    for table in tables:
        pending.append(table)
        count += 1
        if len(pending) == objects_per_shard:
            flush()
    if pending:
        flush()
    return count
