"""Condition views of a view store: rendered objects, as `mvforge render` or a render step left them."""

import json
from dataclasses import dataclass
from functools import cached_property

from evaluation.infer.inputs import Item
from evaluation.infer.pictures import Unusable
from infra.shards import ShardIndex
from infra.storage import Location
from rendering.view_set import CONDITION, ViewSet
from rendering.views import FORMAT_VERSION, RGBA_COLUMNS, VERSION_KEY, from_row


@dataclass(frozen=True)
class StoredViews:
    """Objects of the store at `base`; their pictures are renders and taken as they are.

    Attributes:
        at_most: so many condition views of an object, the others are left out.
    """

    base: Location
    at_most: int | None = None

    def __getstate__(self) -> dict[str, object]:
        return {"base": self.base, "at_most": self.at_most}

    @cached_property
    def _index(self) -> ShardIndex:
        return ShardIndex(self.base, (VERSION_KEY, FORMAT_VERSION), "views", "render")

    def items(self) -> list[Item]:
        stamps = {entry.name: [entry.name, entry.size, entry.mtime] for entry in self.base.children()}
        places = {uid: self._index.places[uid][0] for uid in self._index.uids()}
        return [Item(uid, f"{(self.base / shard).shown}#{uid}", "", json.dumps(stamps[shard])) for uid, shard in places.items()]

    def read(self, uid: str, place: str, framing: bool) -> tuple[ViewSet, list[bytes]]:
        row = self._index.row(uid, RGBA_COLUMNS).to_pylist()[0]
        chosen = [number for number, role in enumerate(row["roles"]) if role == CONDITION][: self.at_most]
        if not chosen:
            raise Unusable("missing_views", "the object has no condition views", "render with --conditions 1 or more")
        return from_row(row).select(chosen), [row["images"][number] for number in chosen]
