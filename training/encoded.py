"""Arrays per object (latents, image tokens) in Parquet shards: one row and one row group per object, any array read alone."""

import json
from collections.abc import Iterable
from typing import Any

import numpy as np
import pyarrow as pa

from infra.shards import ShardStore, shard_name, uid_note
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


class EncodedStore(ShardStore):
    """Read access by uid to a folder of encoded shards.

    Raises:
        UserError: the folder holds no shard, or one of another format version.
    """

    VERSION = (VERSION_KEY, FORMAT_VERSION)
    HOLDS = ("encoded objects", "encode")

    def read(self, uid: str, names: list[str] | None = None) -> dict[str, np.ndarray]:
        """Arrays of an object, all or only `names`. Raises KeyError for an unknown uid."""
        columns = None if names is None else [c for name in names for c in (name, f"{name}.header")]
        return from_row(self._index.row(uid, columns).to_pylist()[0])


def write_shards(tables: Iterable[pa.Table], out: Location, objects_per_shard: int = 256) -> int:
    """Pack one-row tables into `part-NNNNN.parquet` below `out`, in the order given; returns the number of objects."""
    count = shard = 0
    pending: list[pa.Table] = []

    def flush() -> None:
        nonlocal shard
        # The columns are unique blobs: no dictionary, statistics of the uid alone. An object may lack an array of others.
        table = pa.concat_tables(pending, promote_options="default")
        note = uid_note(table.column("uid").to_pylist())
        (out / shard_name(shard)).write_table(
            table.replace_schema_metadata({**(table.schema.metadata or {}), **note}),
            row_group_size=1,
            compression="zstd",
            use_dictionary=False,
            write_statistics=["uid"],
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
