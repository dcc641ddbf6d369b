"""A view store as WebDataset shards: tar files that training code streams in order, one sample per object.

A sample's key is its uid (with `%2E` for dots, which WebDataset splits at). Its fields are `NNN.png` (straight alpha),
`NNN.json` (the camera and role of that view), `NNN.depth.png`, `NNN.normal.png` and `NNN.albedo.png` where asked for, and
`json` (the object). The same store gives the same bytes.
"""

import io
import json
import tarfile
from collections.abc import Iterable, Iterator
from typing import Any
from urllib.parse import quote

import numpy as np
from PIL import Image

from infra.errors import UserError
from infra.storage import Location
from rendering.codecs import decode_image, decode_rgb
from rendering.view_set import PASSES
from rendering.views import ViewStore

OBJECTS_PER_SHARD, BYTES_PER_SHARD = 256, 512 << 20
CATALOG = ("split", "category", "licence", "attribution", "title", "author", "source_page", "caption", "sha256")


def export_webdataset(
    store: ViewStore,
    out: Location,
    uids: Iterable[str] | None = None,
    passes: Iterable[str] = (),
    objects_per_shard: int = OBJECTS_PER_SHARD,
    bytes_per_shard: int = BYTES_PER_SHARD,
) -> dict[str, Any]:
    """Write `views-NNNNN.tar` below `out`; returns shards, objects and views.

    A shard ends at the first of both limits and appears when it is complete; memory holds one object. Shards of an
    earlier, longer export are removed at the end.

    Raises:
        UserError: an unknown pass, or no object.
    """
    asked = tuple(passes)
    if unknown := [name for name in asked if name not in PASSES]:
        raise UserError(f"unknown pass '{unknown[0]}'", f"choose from: {', '.join(PASSES)}")
    waiting = iter(sorted(store.uids() if uids is None else uids))
    catalog = _catalog(store.location)
    names: list[str] = []
    objects = views = 0
    uid = next(waiting, None)
    if uid is None:
        raise UserError(f"no objects to export from {store.location.shown}", "render some first, or choose others")
    while uid is not None:
        first, name = objects, f"views-{len(names):05d}.tar"
        with (out / name).writing() as file, tarfile.open(file, "w", format=tarfile.PAX_FORMAT) as tar:
            while uid is not None and objects < first + objects_per_shard and (objects == first or tar.offset < bytes_per_shard):
                for field, data in fields(store.row(uid), asked, catalog.get(uid, {})):
                    views += field.endswith(".png") and field.count(".") == 1
                    _add(tar, f"{key_of(uid)}.{field}", data)
                objects += 1
                uid = next(waiting, None)
        names.append(name)
    for entry in out.children():
        if entry.name.startswith("views-") and entry.name.endswith(".tar") and entry.name not in names:
            (out / entry.name).delete()
    return {"shards": len(names), "objects": objects, "views": views}


def key_of(uid: str) -> str:
    """The sample's key: no dot, at which WebDataset would split, and no slash."""
    return quote(uid, safe="").replace(".", "%2E")


def fields(row: dict[str, Any], passes: Iterable[str], catalog: dict[str, Any]) -> Iterator[tuple[str, bytes]]:
    """Field name and content of everything in a sample, in the order of the tar file."""
    asked = [name for name in passes if row.get(name) is not None]
    yield "json", _json({**{name: row[name] for name in ("uid", "rig", "origin")}, "views": len(row["images"]), **catalog, **_facts(row)})
    for index, image in enumerate(row["images"]):
        rgba = decode_image(image)
        yield f"{index:03d}.png", _png(rgba, "RGBA")
        for name in asked:
            data = row[name][index]
            yield f"{index:03d}.{name}.png", data if name == "depth" else _png(decode_rgb(data), "RGB")
        yield f"{index:03d}.json", _json(_view(row, index, rgba))


def _facts(row: dict[str, Any]) -> dict[str, Any]:
    facts = {"facts": json.loads(row["facts"])}
    return facts if row.get("depth_unit") is None else facts | {"depth_unit": row["depth_unit"]}


def _view(row: dict[str, Any], index: int, rgba: np.ndarray) -> dict[str, Any]:
    """OpenCV camera to world (4x4, row-major), intrinsics in image widths and heights, world Z up."""
    view = {name: row[name][index] for name in ("azimuth_deg", "elevation_deg", "radius", "c2w", "intrinsics")}
    return {**view, "role": row["roles"][index], "width": rgba.shape[1], "height": rgba.shape[0]}


def _catalog(place: Location) -> dict[str, dict[str, Any]]:
    """What the ledger beside the shards says of each object; empty where there is none."""
    if not (place / "ledger.parquet").exists():
        return {}
    table = (place / "ledger.parquet").read_table()
    rows = table.select([name for name in ("uid", *CATALOG) if name in table.column_names]).to_pylist()
    return {row.pop("uid"): row for row in rows}


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    entry = tarfile.TarInfo(name)  # time, owner and mode are constants
    entry.size = len(data)
    tar.addfile(entry, io.BytesIO(data))


def _png(pixels: np.ndarray, mode: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels, mode).save(buffer, "PNG", compress_level=4)
    return buffer.getvalue()


def _json(value: dict[str, Any]) -> bytes:
    return json.dumps(value, sort_keys=True).encode()
