"""Views of one object, and the store of many: what the renderer writes and what a model generates.

A store is a folder of Parquet shards, one row and one row group per object, so any object is read alone.
Images are lossless WebP of straight-alpha sRGB with RGB zeroed where alpha is 0.
"""

import io
import json
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from infra.errors import UserError
from infra.storage import Location
from rendering.cameras import Camera, turn_about_z

FORMAT_VERSION = 1
TARGET, CONDITION = "target", "condition"

SCHEMA = pa.schema(
    [
        ("uid", pa.string()),
        ("rig", pa.string()),
        ("origin", pa.string()),
        ("images", pa.list_(pa.binary())),
        ("roles", pa.list_(pa.string())),
        ("azimuth_deg", pa.list_(pa.float64())),
        ("elevation_deg", pa.list_(pa.float64())),
        ("radius", pa.list_(pa.float64())),
        ("c2w", pa.list_(pa.list_(pa.float64(), 16))),
        ("intrinsics", pa.list_(pa.list_(pa.float64(), 4))),
        ("mesh", pa.binary()),
        ("facts", pa.string()),
    ],
    metadata={"mvforge_views_version": str(FORMAT_VERSION)},
)


@dataclass(frozen=True)
class Mesh:
    """Triangles in the frame of the views: `vertices` float32 `[N, 3]`, `faces` int32 `[F, 3]`."""

    vertices: np.ndarray
    faces: np.ndarray


@dataclass(frozen=True)
class ViewSet:
    """Rendered or generated views of one object.

    Attributes:
        rgba: uint8 `[V, H, W, 4]`, sRGB, straight alpha.
        camera: `[V]` cameras.
        roles: `TARGET` or `CONDITION` per view.
        azimuth_deg, elevation_deg, radius: float64 `[V]`, the spherical form of the camera positions.
        rig: name of the rig the cameras come from.
        origin: who made the pictures, for example `blender` or `models:/mvforge/3`.
        mesh: the object itself in the same frame, where it is known.
        facts: JSON-able extras (normalisation, sampler, reference azimuth, ...).
    """

    uid: str
    rgba: np.ndarray
    camera: Camera
    roles: tuple[str, ...]
    azimuth_deg: np.ndarray
    elevation_deg: np.ndarray
    radius: np.ndarray
    rig: str
    origin: str
    mesh: Mesh | None = None
    facts: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.rgba)

    def select(self, indices: Iterable[int]) -> "ViewSet":
        """The views at `indices`, in that order."""
        rows = np.asarray(list(indices), dtype=int)
        return replace(
            self,
            rgba=self.rgba[rows],
            camera=self.camera[rows],
            roles=tuple(self.roles[i] for i in rows),
            azimuth_deg=self.azimuth_deg[rows],
            elevation_deg=self.elevation_deg[rows],
            radius=self.radius[rows],
        )

    def with_role(self, role: str) -> "ViewSet":
        """Only the targets, or only the condition views."""
        return self.select(i for i, r in enumerate(self.roles) if r == role)

    def turned(self, azimuth_deg: float) -> "ViewSet":
        """The same pictures in a world turned about +Z: every azimuth grows by `azimuth_deg`, the mesh turns along."""
        mesh = self.mesh
        if mesh is not None:
            rotation = turn_about_z(azimuth_deg)[:3, :3]
            mesh = Mesh((mesh.vertices @ rotation.T).astype(np.float32), mesh.faces)
        azimuth = np.mod(self.azimuth_deg + azimuth_deg, 360.0)
        return replace(self, camera=self.camera.turned(azimuth_deg), azimuth_deg=azimuth, mesh=mesh)


def on_white(rgba: np.ndarray) -> np.ndarray:
    """Straight-alpha uint8 `[..., 4]` composited on white -> float32 RGB `[..., 3]` in [0, 1]."""
    values = rgba.astype(np.float32) / 255.0
    alpha = values[..., 3:]
    return values[..., :3] * alpha + (1.0 - alpha)


def encode_image(rgba: np.ndarray) -> bytes:
    """uint8 `[H, W, 4]` -> lossless WebP; RGB under alpha 0 is zeroed first, everything else is kept exactly."""
    clean = np.where(rgba[..., 3:] == 0, 0, rgba).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(clean, "RGBA").save(buffer, "WEBP", lossless=True, exact=True, method=2, quality=50)
    return buffer.getvalue()


def decode_image(data: bytes) -> np.ndarray:
    """Encoded picture (WebP or PNG) -> uint8 `[H, W, 4]`."""
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGBA"))


def to_table(views: ViewSet) -> pa.Table:
    """One object as a one-row table of `SCHEMA`."""
    mesh = None
    if views.mesh is not None:
        buffer = io.BytesIO()
        np.savez_compressed(buffer, vertices=views.mesh.vertices.astype(np.float32), faces=views.mesh.faces.astype(np.int32))
        mesh = buffer.getvalue()
    row = {
        "uid": views.uid,
        "rig": views.rig,
        "origin": views.origin,
        "images": [encode_image(image) for image in views.rgba],
        "roles": list(views.roles),
        "azimuth_deg": views.azimuth_deg.tolist(),
        "elevation_deg": views.elevation_deg.tolist(),
        "radius": views.radius.tolist(),
        "c2w": views.camera.c2w.reshape(-1, 16).tolist(),
        "intrinsics": views.camera.intrinsics.tolist(),
        "mesh": mesh,
        "facts": json.dumps(views.facts, sort_keys=True),
    }
    return pa.Table.from_pylist([row], schema=SCHEMA)


def from_row(row: dict[str, Any]) -> ViewSet:
    """The inverse of `to_table` for one row as a dictionary. Raises ValueError when pictures differ in size."""
    mesh = None
    if row.get("mesh") is not None:
        with np.load(io.BytesIO(row["mesh"]), allow_pickle=False) as arrays:
            mesh = Mesh(arrays["vertices"], arrays["faces"])
    return ViewSet(
        uid=row["uid"],
        rgba=np.stack([decode_image(image) for image in row["images"]]),
        camera=Camera(np.asarray(row["c2w"], float).reshape(-1, 4, 4), np.asarray(row["intrinsics"], float).reshape(-1, 4)),
        roles=tuple(row["roles"]),
        azimuth_deg=np.asarray(row["azimuth_deg"], float),
        elevation_deg=np.asarray(row["elevation_deg"], float),
        radius=np.asarray(row["radius"], float),
        rig=row["rig"],
        origin=row["origin"],
        mesh=mesh,
        facts=json.loads(row["facts"]),
    )


class ViewStore:
    """Read access by uid to a folder of view shards.

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
                version = (shard.schema_arrow.metadata or {}).get(b"mvforge_views_version")
                if version != str(FORMAT_VERSION).encode():
                    place = self.location / entry.name
                    raise UserError(f"{place} is not a view shard of format {FORMAT_VERSION}", "render again with this version")
                for group, uid in enumerate(shard.read(columns=["uid"]).column("uid").to_pylist()):
                    index[uid] = (entry.name, group)
        if not index:
            raise UserError(f"no views in {self.location}", "run the render step first, or check the path")
        return index

    def uids(self) -> list[str]:
        return sorted(self._index)

    def __contains__(self, uid: str) -> bool:
        return uid in self._index

    def row(self, uid: str, columns: list[str] | None = None) -> dict[str, Any]:
        """The raw row of an object; pictures stay encoded. Raises KeyError for an unknown uid."""
        name, group = self._index[uid]
        with pq.ParquetFile((self.location / name).path, filesystem=self.location.fs) as shard:
            return shard.read_row_group(group, columns=columns).to_pylist()[0]

    def read(self, uid: str) -> ViewSet:
        """All views of an object. Raises KeyError for an unknown uid."""
        return from_row(self.row(uid))

    def __iter__(self) -> Iterator[ViewSet]:
        return (self.read(uid) for uid in self.uids())


def write_shards(tables: Iterable[pa.Table], out: Location, objects_per_shard: int = 256) -> int:
    """Pack one-row tables of `SCHEMA` into `part-NNNNN.parquet` shards below `out`; returns the number of objects.

    Each shard is complete when it appears under its name. Memory holds one object at a time.
    """
    count = 0
    iterator = iter(tables)
    shard = 0
    with tempfile.TemporaryDirectory(prefix="mvforge-pack-") as folder:
        while True:
            local = Path(folder) / "shard.parquet"
            in_shard = 0
            with pq.ParquetWriter(local, SCHEMA, compression="zstd") as writer:
                for table in iterator:
                    writer.write_table(table.select(SCHEMA.names).cast(SCHEMA))
                    in_shard += 1
                    if in_shard == objects_per_shard:
                        break
            if in_shard == 0:
                return count
            (out / f"part-{shard:05d}.parquet").upload(local)
            count, shard = count + in_shard, shard + 1
