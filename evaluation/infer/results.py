"""What a batch job has finished: shards of views, each with a table of rows, added to and never rewritten.

    views/part-00000.parquet    a view shard, as render and generate write them
    rows/part-00000.parquet     what came of the objects that were packed together, failures too; written after its shards

A later row of an object replaces an earlier one. A shard that no row names was cut short by a kill and is removed; its objects
are still there as pieces.
"""

from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from evaluation.generated_pieces import LEDGER, Pieces
from infra.scratch import scratch_folder
from infra.shards import ShardIndex, shard_name, shard_names
from infra.storage import Location
from rendering.pieces import remove_abandoned
from rendering.views import FORMAT_VERSION, VERSION_KEY, write_shards

VIEWS, SHEETS, ROWS = "views", "sheets", "rows"
# What an actor notes about an object; the columns of its piece.
NOTED = pa.schema(
    [
        *LEDGER,
        ("key", pa.string()),
        ("source", pa.string()),
        ("pictures", pa.int64()),
        ("source_sha256", pa.list_(pa.string())),
        ("views_sha256", pa.string()),
        ("sheet_file", pa.string()),
        ("sheet_sha256", pa.string()),
    ]
)
KEPT = pa.schema([*NOTED, ("views_file", pa.string())])


class Results:
    """Finished objects below `out`."""

    def __init__(self, out: Location) -> None:
        self.out = out
        remove_abandoned(out / VIEWS, out / ROWS)
        self._tables = [(out / ROWS / name).read_table() for name in shard_names(out / ROWS)]
        self._remove_cut_short()

    def _remove_cut_short(self) -> None:
        named = {f for table in self._tables for f in table.column("views_file").unique().to_pylist() if f}
        for name in shard_names(self.out / VIEWS):
            if f"{VIEWS}/{name}" not in named:
                (self.out / VIEWS / name).delete()

    def rows(self) -> pa.Table:
        """The newest row of every object, sorted by uid."""
        table = pa.concat_tables([KEPT.empty_table(), *self._tables])
        newest = {uid: number for number, uid in enumerate(table.column("uid").to_pylist())}
        return table.take(pa.array([newest[uid] for uid in sorted(newest)], pa.int64()))

    def keys(self) -> dict[str, bool]:
        """Key -> whether it succeeded, of the newest rows whose files are still there."""
        rows = self.rows().select(["key", "status", "views_file", "sheet_file"]).to_pylist()
        there = {f"{VIEWS}/{name}" for name in shard_names(self.out / VIEWS)} | {None}
        if any(row["sheet_file"] for row in rows):
            there |= {f"{SHEETS}/{entry.name}" for entry in (self.out / SHEETS).walk()}
        return {row["key"]: row["status"] == "ok" for row in rows if {row["views_file"], row["sheet_file"]} <= there}

    def add(self, pieces: Pieces, keys: Sequence[str], sources: dict[str, str], others: Sequence[dict[str, Any]] = ()) -> None:
        """Pack pieces, and rows of objects that never became pieces; the pieces are then gone. `sources` names inputs by key."""
        if not keys and not others:
            return
        made = pieces.ledger({key: key for key in keys}).to_pylist()
        rows = [*(row | {"source": sources[row["key"]]} for row in sorted(made, key=lambda row: row["uid"])), *others]
        good = {row["uid"]: row["key"] for row in rows if row["status"] == "ok"}
        number = self._next()
        places = self._pack(pieces, good, number) if good else {}
        table = pa.Table.from_pylist([row | {"views_file": places.get(row["uid"])} for row in rows], schema=KEPT)
        (self.out / ROWS / shard_name(number)).write_table(table)
        self._tables.append(table)
        for key in keys:
            pieces.remove(key)

    def _pack(self, pieces: Pieces, good: dict[str, str], number: int) -> dict[str, str]:
        """Write the views as shards from `number` on; uid -> file below `out`."""
        places = {}
        with scratch_folder("shards") as folder:
            packed = Location(str(folder))
            write_shards(pieces.tables(good), packed)
            index = ShardIndex(packed, (VERSION_KEY, FORMAT_VERSION), "views", "generate").places
            final = {name: shard_name(number + ahead) for ahead, name in enumerate(shard_names(packed))}
            for name, target in final.items():
                (self.out / VIEWS / target).upload(folder / name)
            places = {uid: f"{VIEWS}/{final[name]}" for uid, (name, _) in index.items()}
        return places

    def _next(self) -> int:
        """A number that no shard and no table of rows has had."""
        taken = [*shard_names(self.out / VIEWS), *shard_names(self.out / ROWS)]
        return 1 + max((int(name.removeprefix("part-").removesuffix(".parquet")) for name in taken), default=-1)
