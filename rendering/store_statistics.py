"""Figures of a view store, gathered while it is packed: `statistics.json` beside the shards."""

import io
import json
from collections import Counter
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from rendering.view_set import PASSES
from rendering.views import FORMAT_VERSION

PICTURES = ("images", *PASSES)


class Statistics:
    """Sums over one-row view tables; holds no picture."""

    def __init__(self) -> None:
        self.objects = self.views = 0
        self.bytes: Counter[str] = Counter()
        self.licences: Counter[str] = Counter()
        self.resolutions: Counter[int] = Counter()
        self.rigs: Counter[str] = Counter()
        self._coverage = 0.0
        self._covered_views = 0

    def add(self, table: pa.Table, licence: str | None) -> None:
        """Count one object."""
        self.objects += 1
        self.licences[licence or "unknown"] += 1
        self.rigs[table.column("rig")[0].as_py()] += 1
        for name in PICTURES:
            if name in table.column_names and table.column(name)[0].is_valid:
                self.bytes[name] += _bytes(table.column(name)[0].values)
        images = table.column("images")[0].values
        self.views += len(images)
        with Image.open(io.BytesIO(images[0].as_py()), formats=("WEBP", "PNG")) as image:  # the header alone
            self.resolutions[image.width] += 1
        coverage = json.loads(table.column("facts")[0].as_py()).get("coverage", [])
        self._coverage += sum(coverage)
        self._covered_views += len(coverage)

    def summary(self, config: dict[str, Any]) -> dict[str, Any]:
        """JSON-able; `mean_coverage` is the mean alpha over all views, 0..1, None when unknown."""
        resolutions = sorted(self.resolutions)
        return {
            "format": FORMAT_VERSION,
            "objects": self.objects,
            "views": self.views,
            "bytes": sum(self.bytes.values()),
            "bytes_by_column": dict(self.bytes),
            "mean_coverage": round(self._coverage / self._covered_views, 6) if self._covered_views else None,
            "resolution": resolutions[0] if len(resolutions) == 1 else resolutions,
            "rigs": dict(self.rigs),
            "licences": dict(self.licences),
            "config": config,
        }


def _bytes(values: pa.BinaryArray) -> int:
    """Bytes of all pictures in a list, from the offsets alone."""
    offsets = np.frombuffer(values.buffers()[1], np.int32)[values.offset : values.offset + len(values) + 1]
    return int(offsets[-1] - offsets[0])
