"""Objects as the training loop reads them: views (and encoded arrays) by uid, with a bounded memory of decoded ones."""

import threading
from collections import OrderedDict
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from infra.errors import UserError
from infra.storage import Location
from rendering.view_set import ViewSet
from rendering.views import ViewStore
from training.encoded import EncodedStore
from training.methods.base import Encoder, TrainObject

CACHE_BYTES = 1 << 30


@dataclass(frozen=True)
class DataLocations:
    """Where a stage's objects lie: view shards, the kept list, and encoded arrays when the stage trains on them."""

    views: Location
    kept: Location
    arrays: Location | None = None


class TrainData:
    """Objects of one stage by uid, and the uid lists of its splits. Read by row group; any thread may read.

    Args:
        encode: makes the arrays of an object at its first use instead of the encode step, kept as long as memory allows.
        pictures: False leaves the pictures of training objects out (`Stage.pictures`).

    Attributes:
        train, val: sorted uids of the kept objects that have views (and arrays where asked for).

    Raises:
        UserError: no training object is left.
    """

    def __init__(
        self, locations: DataLocations, cache_bytes: int = CACHE_BYTES, encode: Encoder | None = None, pictures: bool = True
    ) -> None:
        self.views = ViewStore(locations.views)
        self.arrays = EncodedStore(locations.arrays) if locations.arrays is not None else None
        self.encode, self.pictures = encode, pictures
        splits = kept_uids(locations.kept)
        self.train = self._available(splits.get("train", []))
        self.val = self._available(splits.get("val", []))
        if not self.train:
            raise UserError("no training objects are left", "render more objects, or loosen the curate step; see its rejected.parquet")
        self._cache: OrderedDict[str, tuple[TrainObject, int]] = OrderedDict()
        self._room = cache_bytes
        self._lock = threading.Lock()
        self._encoding = threading.Lock()

    def _available(self, uids: list[str]) -> list[str]:
        return [uid for uid in sorted(uids) if uid in self.views and (self.arrays is None or uid in self.arrays)]

    def read(self, uid: str) -> TrainObject:
        """The object, from memory when it was read lately. Raises KeyError for an unknown uid."""
        with self._lock:
            if uid in self._cache:
                self._cache.move_to_end(uid)
                return self._cache[uid][0]
        obj = self._load(uid, self.pictures)
        size = obj.views.rgba.nbytes + sum(a.nbytes for a in (obj.arrays or {}).values())
        with self._lock:
            if uid not in self._cache:
                self._cache[uid] = (obj, size)
                self._room -= size
            while self._room < 0 and len(self._cache) > 1:
                _, (_, freed) = self._cache.popitem(last=False)
                self._room += freed
        return obj

    def read_whole(self, uid: str) -> TrainObject:
        """The object with its pictures, whatever the stage trains on; not kept in memory."""
        return self._load(uid, pictures=True)

    def _load(self, uid: str, pictures: bool) -> TrainObject:
        views = self.views.read(uid, pictures=pictures or self.encode is not None)
        if self.encode is not None:
            with self._encoding:  # one network on one device: two threads in it would only take turns and twice the memory
                arrays = self.encode(views)
            return TrainObject(views if pictures else _without_pictures(views), arrays)
        return TrainObject(views, self.arrays.read(uid) if self.arrays is not None else None)


def _without_pictures(views: ViewSet) -> ViewSet:
    return replace(views, rgba=np.zeros((len(views), 0, 0, 4), np.uint8))


def kept_uids(kept: Location) -> dict[str, list[str]]:
    """Split -> uids, from the curate step's `kept.parquet` (the file or its folder)."""
    place = kept if kept.name.endswith(".parquet") else kept / "kept.parquet"
    splits: dict[str, list[str]] = {}
    rows: list[dict[str, Any]] = place.read_table(["uid", "split"]).to_pylist()
    for row in rows:
        splits.setdefault(row["split"], []).append(row["uid"])
    return splits
