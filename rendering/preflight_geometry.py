"""Accessors and primitives of a glTF file: where their bytes lie, how many there are, and whether they make triangles."""

from collections import OrderedDict
from dataclasses import dataclass

import numpy as np

from rendering.preflight_files import Blob
from rendering.preflight_json import Document, entries, integer, numbers, reference, refuse, table
from rendering.preflight_limits import PreflightLimits

_DTYPES = {5120: "<i1", 5121: "<u1", 5122: "<i2", 5123: "<u2", 5125: "<u4", 5126: "<f4"}
_COMPONENTS = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4, "MAT2": 4, "MAT3": 9, "MAT4": 16}
_INDEX_TYPES = (5121, 5123, 5125)
_FLOAT = 5126
_DRACO = "KHR_draco_mesh_compression"
_TRIANGLES, _STRIP, _FAN = 4, 5, 6
_CACHE_BYTES = 256 << 20
_BLOCK = 1 << 16
_LARGEST_STRIDE = 252
_FLAT = 1e-16  # twice a triangle's area over the square of its object's size; flatter than this nothing is seen


@dataclass(frozen=True)
class View:
    """A checked buffer view; `blob` is None when its buffer has no data."""

    blob: Blob | None
    offset: int
    length: int
    stride: int


@dataclass(frozen=True)
class Accessor:
    """A checked accessor. `view` is None for one that starts as zeros, or whose values a Draco body holds."""

    where: str
    component: int
    components: int
    count: int
    view: View | None
    offset: int
    sparse: tuple["Accessor", "Accessor"] | None = None
    low: list[float] | None = None
    high: list[float] | None = None


@dataclass(frozen=True)
class Primitive:
    """What one primitive asks for. `triangles` is 0 for points and lines."""

    where: str
    vertices: int
    triangles: int
    values: int
    position: Accessor | None
    indices: Accessor | None
    mode: int
    is_draco: bool
    morphs: tuple[Accessor, ...] = ()


def read_views(document: Document, buffers: list[Blob | None], limits: PreflightLimits) -> list[View]:
    """Raises FetchError `bad_accessor` for a view that leaves its buffer."""
    views = []
    declared = [entry.get("byteLength") for entry in entries(document, "buffers")]
    for number, entry in enumerate(entries(document, "bufferViews", most=limits.accessors)):
        where = f"bufferViews[{number}]"
        index = reference(entry.get("buffer"), len(buffers), f"{where}.buffer", "buffers")
        offset, length = integer(entry, "byteOffset", where, 0), integer(entry, "byteLength", where, low=1)
        stride = integer(entry, "byteStride", where, 0)
        if stride > _LARGEST_STRIDE:
            refuse("bad_accessor", f"{where}.byteStride is {stride}, at most {_LARGEST_STRIDE}")
        if offset + length > int(declared[index] or 0):
            refuse("bad_accessor", f"{where} ends at byte {offset + length} of buffers[{index}], which has {declared[index]}")
        views.append(View(buffers[index], offset, length, stride))
    return views


def read_accessors(document: Document, views: list[View], limits: PreflightLimits) -> list[Accessor]:
    """Raises FetchError `bad_accessor`, `bad_reference`, `bad_json`, `too_complex`."""
    found = []
    for number, entry in enumerate(entries(document, "accessors", most=limits.accessors)):
        where = f"accessors[{number}]"
        component, kind, count = _layout(entry, where)
        if count > limits.attribute_values:
            refuse("too_complex", f"{where}.count is {count}, at most {limits.attribute_values} are read")
        view = None
        if entry.get("bufferView") is not None:
            view = views[reference(entry["bufferView"], len(views), f"{where}.bufferView", "bufferViews")]
        offset = integer(entry, "byteOffset", where, 0)
        accessor = Accessor(
            where,
            component,
            _COMPONENTS[kind],
            count,
            view,
            offset,
            _sparse(entry, where, views, component, kind, count),
            numbers(entry, "min", where, _COMPONENTS[kind]),
            numbers(entry, "max", where, _COMPONENTS[kind]),
        )
        _check_fits(accessor)
        found.append(accessor)
    return found


def _layout(entry: Document, where: str) -> tuple[int, str, int]:
    component, kind = integer(entry, "componentType", where), entry.get("type")
    if component not in _DTYPES:
        refuse("bad_accessor", f"{where}.componentType is {component}, which glTF does not know")
    if not isinstance(kind, str) or kind not in _COMPONENTS:
        refuse("bad_accessor", f"{where}.type is {str(kind)[:40]!r}, which glTF does not know")
    return component, kind, integer(entry, "count", where)  # some exporters write empty primitives


def _sparse(entry: Document, where: str, views: list[View], component: int, kind: str, count: int) -> tuple[Accessor, Accessor] | None:
    if entry.get("sparse") is None:
        return None
    sparse = table(entry, "sparse", f"{where}.")
    changed = integer(sparse, "count", f"{where}.sparse", low=1)
    if changed > count:
        refuse("bad_accessor", f"{where}.sparse.count is {changed}, the accessor has {count}")
    parts = []
    for name in ("indices", "values"):
        part, place = table(sparse, name, f"{where}.sparse."), f"{where}.sparse.{name}"
        view = views[reference(part.get("bufferView"), len(views), f"{place}.bufferView", "bufferViews")]
        part_component = integer(part, "componentType", place) if name == "indices" else component
        if name == "indices" and part_component not in _INDEX_TYPES:
            refuse("bad_accessor", f"{place}.componentType is {part_component}, not an unsigned integer")
        components = 1 if name == "indices" else _COMPONENTS[kind]
        parts.append(Accessor(place, part_component, components, changed, view, integer(part, "byteOffset", place, 0)))
        _check_fits(parts[-1])
    return parts[0], parts[1]


def _element_bytes(accessor: Accessor) -> int:
    return np.dtype(_DTYPES[accessor.component]).itemsize * accessor.components


def _check_fits(accessor: Accessor) -> None:
    """Every element lies in the buffer view, at a multiple of its component's size."""
    if accessor.view is None or not accessor.count:
        return
    element, component = _element_bytes(accessor), np.dtype(_DTYPES[accessor.component]).itemsize
    stride = accessor.view.stride or element
    if stride < element or stride % component:
        refuse("bad_accessor", f"{accessor.where}: elements of {element} bytes do not fit a stride of {stride}")
    end = accessor.offset + stride * (accessor.count - 1) + element
    if end > accessor.view.length:
        refuse("bad_accessor", f"{accessor.where} ends at byte {end} of a buffer view of {accessor.view.length}")


class Values:
    """Reads accessors as arrays; the last ones read are kept, for primitives that share them."""

    def __init__(self) -> None:
        self._kept: OrderedDict[str, np.ndarray] = OrderedDict()
        self._bytes = 0
        self._largest: dict[str, int] = {}
        self._boxes: dict[str, np.ndarray] = {}

    def array(self, accessor: Accessor) -> np.ndarray:
        """The values, `[count, components]`, sparse ones put in. Raises FetchError `bad_buffer`, `index_out_of_range`."""
        if accessor.where in self._kept:
            self._kept.move_to_end(accessor.where)
            return self._kept[accessor.where]
        values = _dense(accessor)
        if accessor.sparse is not None:
            places, changed = (_dense(part) for part in accessor.sparse)
            if places.max() >= accessor.count:
                refuse("index_out_of_range", f"{accessor.sparse[0].where} holds {places.max()}, the accessor has {accessor.count}")
            values = values.copy()
            values[places[:, 0]] = changed
        self._kept[accessor.where] = values
        self._bytes += values.nbytes
        while self._bytes > _CACHE_BYTES and len(self._kept) > 2:
            self._bytes -= self._kept.popitem(last=False)[1].nbytes
        return values

    def box(self, accessor: Accessor) -> np.ndarray:
        """Least and greatest coordinates `[2, 3]`, NaN where one is."""
        if accessor.where not in self._boxes:
            self._boxes[accessor.where] = _box(self.array(accessor))
        return self._boxes[accessor.where]

    def largest(self, accessor: Accessor) -> int:
        """The greatest value of an index accessor."""
        if accessor.where not in self._largest:
            self._largest[accessor.where] = int(self.array(accessor).max())
        return self._largest[accessor.where]


def _dense(accessor: Accessor) -> np.ndarray:
    dtype = np.dtype(_DTYPES[accessor.component])
    if accessor.view is None or not accessor.count:
        return np.zeros((accessor.count, accessor.components), dtype)
    if accessor.view.blob is None:
        refuse("bad_buffer", f"{accessor.where} lies in a buffer that has no data")
    element = _element_bytes(accessor)
    stride = accessor.view.stride or element
    data = accessor.view.blob.read(accessor.view.offset + accessor.offset, stride * (accessor.count - 1) + element)
    return np.ndarray((accessor.count, accessor.components), dtype, data, strides=(stride, dtype.itemsize))


def read_primitive(entry: Document, where: str, accessors: list[Accessor], views: list[View]) -> Primitive:
    """Attributes, indices, Draco body and morph targets of a primitive. Raises FetchError."""
    mode = integer(entry, "mode", where, _TRIANGLES)
    if mode > _FAN:
        refuse("bad_json", f"{where}.mode is {mode}, which glTF does not know")
    attributes = _attributes(table(entry, "attributes", f"{where}."), f"{where}.attributes", accessors)
    position = attributes.get("POSITION")
    if position is None:
        return Primitive(where, 0, 0, 0, None, None, mode, False)  # Blender skips it
    if position.components != 3:
        refuse("bad_accessor", f"{position.where} is a POSITION of {position.components} components")
    indices = None
    if entry.get("indices") is not None:
        indices = accessors[reference(entry["indices"], len(accessors), f"{where}.indices", "accessors")]
        if indices.components != 1 or indices.component not in _INDEX_TYPES:
            refuse("bad_accessor", f"{indices.where} is used as indices and holds no unsigned integers")
    count = indices.count if indices is not None else position.count
    draco = table(entry, "extensions", f"{where}.").get(_DRACO)
    triangles = {_TRIANGLES: count // 3, _STRIP: max(count - 2, 0), _FAN: max(count - 2, 0)}.get(mode, 0)
    vertices = min(count, position.count)  # Blender takes over those that are used
    if count and not position.count:
        refuse("index_out_of_range", f"{where} has {count} indices and no positions")
    if draco is not None:
        drawn, coded = _draco_counts(draco, f"{where}.extensions.{_DRACO}", attributes, indices, views)
        triangles, vertices = max(triangles, drawn), max(vertices, coded)
    elif mode == _TRIANGLES and count % 3:
        refuse("bad_accessor", f"{where} draws triangles from {count} indices, which is no multiple of three")
    morphs = []
    for number, target in enumerate(entries(entry, "targets", f"{where}.")):
        morphs.append(_attributes(target, f"{where}.targets[{number}]", accessors))
    for accessor in [*attributes.values(), *(accessor for morph in morphs for accessor in morph.values())]:
        if accessor.count != position.count:
            refuse("bad_accessor", f"{accessor.where} has {accessor.count} elements, the positions of {where} are {position.count}")
    values = vertices * len(attributes) + position.count * sum(map(len, morphs)) + 3 * triangles
    moved = tuple(morph["POSITION"] for morph in morphs if "POSITION" in morph)
    return Primitive(where, vertices, triangles, values, position, indices, mode, draco is not None, moved)


def _attributes(names: Document, where: str, accessors: list[Accessor]) -> dict[str, Accessor]:
    return {name: accessors[reference(index, len(accessors), f"{where}.{name}", "accessors")] for name, index in names.items()}


def _draco_counts(
    draco: object, where: str, attributes: dict[str, Accessor], indices: Accessor | None, views: list[View]
) -> tuple[int, int]:
    """(triangles, vertices) that a Draco body declares in its own header; the decoder believes it, not the accessors."""
    if not isinstance(draco, dict) or not isinstance(draco.get("attributes"), dict):
        refuse("bad_json", f"{where} has no 'attributes'")
    if indices is None:
        refuse("bad_accessor", f"{where}: a Draco primitive needs an index accessor")
    for name, number in draco["attributes"].items():
        if name not in attributes or type(number) is not int or not 0 <= number < 1 << 32:
            refuse("bad_reference", f"{where}.attributes.{name[:40]} is not an attribute of the primitive")
    view = views[reference(draco.get("bufferView"), len(views), f"{where}.bufferView", "bufferViews")]
    if view.blob is None:
        refuse("bad_buffer", f"{where}: the Draco body lies in a buffer that has no data")
    head = view.blob.read(view.offset, min(view.length, 64))
    if head[:5] != b"DRACO" or len(head) < 11:
        refuse("bad_draco", f"{where}: the body starts with {head[:5]!r}, not b'DRACO'")
    major, minor, kind, method = head[5:9]
    if (major, minor) < (2, 2) or head[10] & 0x80:
        return 0, 0  # Other layouts, or metadata first: the limits of the process hold for these.
    if kind != 1 or method > 1:
        refuse("bad_draco", f"{where}: the body holds geometry of kind {kind}, method {method}; a mesh is 1")
    first, at = _varint(head, 12 if method else 11, where)
    second, _ = _varint(head, at, where)
    return (second, first) if method else (first, second)


def _varint(data: bytes, at: int, where: str) -> tuple[int, int]:
    value = 0
    for shift in range(0, 35, 7):
        if at >= len(data):
            break
        byte, at = data[at], at + 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    refuse("bad_draco", f"{where}: the body's header is damaged")


def check_values(primitive: Primitive, values: Values, limits: PreflightLimits) -> np.ndarray | None:
    """Box `[2, 3]` of a primitive's own coordinates, None when only Blender can tell.

    Raises FetchError: `index_out_of_range`, `non_finite`.
    """
    position, indices = primitive.position, primitive.indices
    if position is None or primitive.is_draco:
        low, high = (position.low, position.high) if position is not None else (None, None)
        return np.array([low, high]) if low is not None and high is not None else None
    if indices is not None and values.largest(indices) >= position.count:
        refuse("index_out_of_range", f"{indices.where} holds {values.largest(indices)}, {position.where} has {position.count} elements")
    for morph in primitive.morphs:
        if not np.isfinite(values.box(morph)).all():
            refuse("non_finite", f"{morph.where}, a morph target of {primitive.where}, holds NaN or infinity")
    box = values.box(position)
    if indices is not None and not (np.isfinite(box).all() and np.ptp(box, axis=0).max() < limits.extent):
        box = _box(values.array(position)[np.unique(values.array(indices))])  # what no triangle uses, nobody sees
    if not np.isfinite(box).all():
        refuse("non_finite", f"{position.where}, the positions of {primitive.where}, holds NaN or infinity")
    return box


def _box(points: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore"):  # NaN is looked for afterwards
        return np.stack([points.min(0), points.max(0)]).astype(np.float64)


def has_area(primitive: Primitive, values: Values) -> bool:
    """Whether some triangle of the primitive has an area; looks no further than the first block that has one."""
    if primitive.is_draco:
        return True
    if primitive.position is None or not primitive.triangles:
        return False
    points = values.array(primitive.position)
    order = values.array(primitive.indices)[:, 0] if primitive.indices is not None else np.arange(len(points))
    for start in range(0, primitive.triangles, _BLOCK):
        corners = points[_corners(order, primitive.mode, start, min(start + _BLOCK, primitive.triangles))].astype(np.float64)
        scale = np.square(np.ptp(corners, axis=(0, 1)).max())
        with np.errstate(all="ignore"):
            normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
            if (np.linalg.norm(normals, axis=-1) > _FLAT * scale).any():
                return True
    return False


def _corners(order: np.ndarray, mode: int, start: int, stop: int) -> np.ndarray:
    """Vertex numbers `[T, 3]` of triangles start..stop of a list, a strip or a fan (winding does not matter here)."""
    if mode == _TRIANGLES:
        return order[3 * start : 3 * stop].reshape(-1, 3)
    at = np.arange(start, stop)
    first = np.zeros_like(at) if mode == _FAN else at
    return order[np.stack([first, at + 1, at + 2], axis=-1)]
