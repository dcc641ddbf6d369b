"""The store of views: one object as a row of bytes, and many of them in a folder.

A store is a folder of Parquet shards, one row and one row group per object, so any object is read alone.
Images are lossless WebP of straight-alpha sRGB with RGB zeroed where alpha is 0; the passes beside them (depth,
normal, albedo) are null where they were not rendered, and decoded on demand. Their bytes: rendering/codecs.py.
"""

import io
import json
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from infra.shards import ShardStore, shard_name, uid_note
from infra.storage import Location
from rendering.cameras import Camera
from rendering.codecs import (
    decode_depth,
    decode_image,
    decode_normal,
    decode_rgb,
    depth_unit,
    encode_depth,
    encode_image,
    encode_normal,
    encode_rgb,
)
from rendering.view_set import PASSES, Mesh, ViewSet

FORMAT_VERSION = 2
VERSION_KEY = b"mvforge_views_version"

# The columns of each pass; `images` is always there.
PASS_COLUMNS = {"depth": ("depth", "depth_unit"), "normal": ("normal",), "albedo": ("albedo",)}

# What a reader without this package needs to know; stands in the metadata of every shard.
COLUMNS = {
    "uid": "name of the object",
    "rig": "name of the camera rig",
    "origin": "who made the pictures: blender, or a model",
    "images": "one lossless WebP a view: RGBA, sRGB, straight alpha, RGB zero under alpha 0",
    "roles": "target or condition, one a view",
    "azimuth_deg": "camera azimuth, 0 = on -Y, 90 = on +X",
    "elevation_deg": "camera elevation above the XY plane",
    "radius": "camera distance from the origin in world units",
    "c2w": "camera to world, 4x4 row-major, OpenCV axes (x right, y down, z forward), world Z up",
    "intrinsics": "fx, fy, cx, cy in image widths and heights",
    "mesh": "npz with vertices float32 [N,3] and faces int32 [F,3] in the frame of the cameras, or null",
    "facts": "JSON",
    "depth": "one 16-bit grey PNG a view: planar z-depth / depth_unit, 0 = nothing; null = not rendered",
    "depth_unit": "world units a level",
    "normal": "one lossless WebP a view: camera-space normal (OpenCV axes) as (n+1)/2*255, 0,0,0 = nothing; null = not rendered",
    "albedo": "one lossless WebP a view: RGB, sRGB, 0,0,0 = nothing; null = not rendered",
}

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
        ("depth", pa.list_(pa.binary())),
        ("depth_unit", pa.float64()),
        ("normal", pa.list_(pa.binary())),
        ("albedo", pa.list_(pa.binary())),
    ],
    metadata={VERSION_KEY: str(FORMAT_VERSION), b"mvforge_views_columns": json.dumps(COLUMNS)},
)

# Only these are worth statistics and compression: pictures are compressed already, and all different.
SUMMARISED = ["uid", "rig", "origin", "depth_unit"]
COMPRESSION = {name: "zstd" for name in ("facts", "c2w.list.element.list.element", "mesh")}
OBJECTS_PER_SHARD, BYTES_PER_SHARD = 256, 512 << 20
RGBA_COLUMNS = [name for name in SCHEMA.names if not any(name in columns for columns in PASS_COLUMNS.values())]


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
        **_encoded_passes(views),
    }
    return pa.Table.from_pylist([row], schema=SCHEMA)


def _encoded_passes(views: ViewSet) -> dict[str, Any]:
    columns: dict[str, Any] = {}
    if views.depth is not None:
        unit = columns["depth_unit"] = depth_unit(views.depth)
        columns["depth"] = [encode_depth(depth, unit) for depth in views.depth]
    if views.normal is not None:
        columns["normal"] = [encode_normal(normal) for normal in views.normal]
    if views.albedo is not None:
        columns["albedo"] = [encode_rgb(albedo) for albedo in views.albedo]
    return columns


def from_row(row: dict[str, Any], passes: Iterable[str] = ()) -> ViewSet:
    """The inverse of `to_table` for one row as a dictionary, with those of the asked `passes` that it holds; `rgba` is
    `[V, 0, 0, 4]` without the column `images`.

    Raises ValueError when pictures differ in size, and for a pass that is not in `PASSES`.
    """
    mesh = None
    if row.get("mesh") is not None:
        with np.load(io.BytesIO(row["mesh"]), allow_pickle=False) as arrays:
            mesh = Mesh(arrays["vertices"], arrays["faces"])
    return ViewSet(
        uid=row["uid"],
        rgba=np.stack([decode_image(image) for image in row["images"]]) if "images" in row else _no_pictures(len(row["roles"])),
        camera=Camera(np.asarray(row["c2w"], float).reshape(-1, 4, 4), np.asarray(row["intrinsics"], float).reshape(-1, 4)),
        roles=tuple(row["roles"]),
        azimuth_deg=np.asarray(row["azimuth_deg"], float),
        elevation_deg=np.asarray(row["elevation_deg"], float),
        radius=np.asarray(row["radius"], float),
        rig=row["rig"],
        origin=row["origin"],
        mesh=mesh,
        facts=json.loads(row["facts"]),
        **{name: _decoded_pass(row, name) for name in passes},
    )


def _no_pictures(views: int) -> np.ndarray:
    return np.zeros((views, 0, 0, 4), np.uint8)


def _decoded_pass(row: dict[str, Any], name: str) -> np.ndarray | None:
    if name not in PASSES:
        raise ValueError(f"'{name}' is no pass; they are {', '.join(PASSES)}")
    files = row.get(name)
    if files is None:
        return None
    if name == "depth":
        return np.stack([decode_depth(data, row["depth_unit"]) for data in files])
    return np.stack([decode_normal(data) if name == "normal" else decode_rgb(data) for data in files])


class ViewStore(ShardStore):
    """Read access by uid to a folder of view shards.

    Raises:
        UserError: the folder holds no shard, or one of another format version.
    """

    VERSION = (VERSION_KEY, FORMAT_VERSION)
    HOLDS = ("views", "render")

    def row(self, uid: str, columns: list[str] | None = None) -> dict[str, Any]:
        """The raw row of an object; pictures stay encoded. Raises KeyError for an unknown uid."""
        return self._index.row(uid, columns).to_pylist()[0]

    def read(self, uid: str, passes: Iterable[str] = (), pictures: bool = True) -> ViewSet:
        """All views of an object; of depth, normal and albedo only the asked `passes` are read, None where absent.

        Without `pictures` only what is known about the views is read: `rgba` is `[V, 0, 0, 4]`. Raises KeyError for an unknown uid.
        """
        asked = tuple(passes)
        columns = [*RGBA_COLUMNS, *(column for name in asked for column in PASS_COLUMNS.get(name, ()))]
        if not pictures:
            columns.remove("images")
        return from_row(self.row(uid, columns), asked)

    def __iter__(self) -> Iterator[ViewSet]:
        return (self.read(uid) for uid in self.uids())


def write_shards(
    tables: Iterable[pa.Table], out: Location, objects_per_shard: int = OBJECTS_PER_SHARD, bytes_per_shard: int = BYTES_PER_SHARD
) -> int:
    """Pack one-row tables of `SCHEMA` into `part-NNNNN.parquet` shards below `out`; returns the number of objects.

    A shard ends at the first of both limits. Each is complete when it appears under its name. Memory holds one object
    at a time.
    """
    count = shard = 0
    waiting = iter(tables)
    table = next(waiting, None)
    while table is not None:
        uids: list[str] = []
        with (
            (out / shard_name(shard)).writing() as file,
            pq.ParquetWriter(
                file, SCHEMA, compression=COMPRESSION, use_dictionary=False, write_statistics=SUMMARISED, write_page_checksum=True
            ) as writer,
        ):
            while table is not None and len(uids) < objects_per_shard and (not uids or file.stat().st_size < bytes_per_shard):
                writer.write_table(conformed(table))
                uids.append(table.column("uid")[0].as_py())
                table = next(waiting, None)
            writer.add_key_value_metadata(uid_note(uids))
        count, shard = count + len(uids), shard + 1
    return count


def conformed(table: pa.Table) -> pa.Table:
    """A table with exactly the columns of `SCHEMA`: others are dropped, absent ones are null."""
    if table.schema.equals(SCHEMA):
        return table
    absent = [name for name in SCHEMA.names if name not in table.column_names]
    for name in absent:
        table = table.append_column(name, pa.nulls(len(table), SCHEMA.field(name).type))
    return table.select(SCHEMA.names).cast(SCHEMA)
