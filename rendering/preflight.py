"""Everything that is checked of a 3D file before Blender sees a byte of it, in Python and NumPy alone.

A file comes from a stranger. Blender's importer trusts it: it follows any path, recurses as deep as the nodes go,
allocates what an accessor declares and turns NaN into zeros. So each of these is looked at here first, in an order in which nothing is
read before its bounds are known. What passes is sound as far as declared; it may still fail in Blender, whose process
is watched for that reason (`rendering.blender`).
"""

from pathlib import Path

import numpy as np

from rendering import preflight_graph as graph
from rendering.preflight_files import buffers, open_resources
from rendering.preflight_geometry import (
    Accessor,
    Primitive,
    Values,
    View,
    check_values,
    has_area,
    read_accessors,
    read_primitive,
    read_views,
)
from rendering.preflight_images import check_images
from rendering.preflight_json import Document, entries, listed, parse, read_container, refuse
from rendering.preflight_limits import DEFAULT, PreflightLimits
from rendering.sources.base import FetchError

# What Blender 4.5's importer reads. Anything else that a file requires ends the import.
IMPORTED_EXTENSIONS = frozenset(
    {
        "EXT_mesh_gpu_instancing",
        "EXT_texture_webp",
        "KHR_animation_pointer",
        "KHR_draco_mesh_compression",
        "KHR_lights_punctual",
        "KHR_materials_anisotropy",
        "KHR_materials_clearcoat",
        "KHR_materials_emissive_strength",
        "KHR_materials_ior",
        "KHR_materials_pbrSpecularGlossiness",
        "KHR_materials_sheen",
        "KHR_materials_specular",
        "KHR_materials_transmission",
        "KHR_materials_unlit",
        "KHR_materials_variants",
        "KHR_materials_volume",
        "KHR_mesh_quantization",
        "KHR_texture_transform",
    }
)

_MOST_EXTENSIONS = 1000

__all__ = ["DEFAULT", "IMPORTED_EXTENSIONS", "PreflightLimits", "check", "inspect"]


def check(path: Path, limits: PreflightLimits = DEFAULT) -> Document:
    """The JSON part of a .glb or .gltf file that is safe to hand to Blender.

    Raises FetchError, its `reason` one class and its `detail` the place in the file; docs/rendering.md lists the classes.
    """
    try:
        return inspect(path, limits)
    except FetchError:
        raise
    except Exception as error:  # the boundary: a fault of these checks must cost one object, not the worker
        raise FetchError("preflight_failed", f"{type(error).__name__}: {error}"[:300]) from error


def inspect(path: Path, limits: PreflightLimits = DEFAULT) -> Document:
    """`check` without its net, for tests that look for holes in it."""
    text, body = read_container(path, limits)
    document = parse(text, limits)
    resources = open_resources(document, path, limits)
    _check_extensions(document)
    views = read_views(document, buffers(document, path, body, resources), limits)
    accessors = read_accessors(document, views, limits)
    parents, nodes = graph.check_nodes(document, accessors, limits)
    meshes = _primitives(document, accessors, views, limits)
    _check_amounts(nodes, meshes, accessors, limits)
    graph.check_skins(document, len(nodes), accessors, limits)
    graph.check_animations(document, len(nodes), accessors, limits)
    check_images(document, views, resources, limits)
    _check_shape(document, nodes, parents, meshes, limits)
    return document


def _check_extensions(document: Document) -> None:
    used = listed(document, "extensionsUsed", most=_MOST_EXTENSIONS)
    for name in listed(document, "extensionsRequired", most=_MOST_EXTENSIONS):
        if not isinstance(name, str) or name not in used:
            refuse("bad_json", f"extensionsRequired names {str(name)[:60]!r}, extensionsUsed does not")
        if name not in IMPORTED_EXTENSIONS:
            refuse("unsupported_extension", f"the file requires {name[:60]!r}, which Blender 4.5 does not import")


def _primitives(document: Document, accessors: list[Accessor], views: list[View], limits: PreflightLimits) -> list[list[Primitive]]:
    """Primitives by mesh, their counts bounded."""
    materials = len(listed(document, "materials"))
    meshes: list[list[Primitive]] = []
    total = vertices = values = 0
    referred: set[str] = set()
    reads = 0
    for number, mesh in enumerate(entries(document, "meshes", most=limits.primitives)):
        parts = []
        for place, entry in enumerate(entries(mesh, "primitives", f"meshes[{number}].", limits.primitives)):
            where = f"meshes[{number}].primitives[{place}]"
            if entry.get("material") is not None:
                graph.reference(entry["material"], materials, f"{where}.material", "materials")
            part = read_primitive(entry, where, accessors, views)
            total, vertices, values = total + 1, vertices + part.vertices, values + part.values
            for accessor in (part.position, part.indices, *part.morphs):
                if accessor is not None and accessor.where not in referred:
                    referred.add(accessor.where)
                    reads += accessor.count
            for name, count, most in (
                ("primitives", total, limits.primitives),
                ("vertices", vertices, limits.vertices),
                ("attribute values", max(values, reads), limits.attribute_values),
            ):
                if count > most:
                    refuse("too_complex", f"{count} {name} up to {where}, at most {most} are read")
            parts.append(part)
        if not parts:
            refuse("bad_json", f"meshes[{number}] has no primitives")
        meshes.append(parts)
    return meshes


def _check_amounts(nodes: list[Document], meshes: list[list[Primitive]], accessors: list[Accessor], limits: PreflightLimits) -> None:
    """What all nodes show together is bounded, and some of it is made of triangles."""
    instances = triangles = 0
    for number, node in enumerate(nodes):
        if node.get("mesh") is None:
            continue
        times = graph.copies(node, f"nodes[{number}]", accessors)
        instances += times * len(meshes[node["mesh"]])
        triangles += times * sum(part.triangles for part in meshes[node["mesh"]])
        for name, count, most in (("instances", instances, limits.instances), ("triangles", triangles, limits.triangles)):
            if count > most:
                refuse("too_complex", f"{count} {name} up to nodes[{number}], at most {most} are drawn")
    if not triangles:
        refuse("no_mesh", "no node shows a mesh" if not instances else "the meshes are points and lines only")


def _check_shape(
    document: Document, nodes: list[Document], parents: list[int], meshes: list[list[Primitive]], limits: PreflightLimits
) -> None:
    """The coordinates that will be drawn are finite, of sane size, and span some area."""
    values = Values()
    shown = {node["mesh"] for node in nodes if node.get("mesh") is not None}
    boxes: list[np.ndarray | None] = []
    solid = False
    for number, parts in enumerate(meshes):
        found: list[np.ndarray | None] = []
        for part in parts if number in shown else []:
            if not part.vertices:
                continue
            box = check_values(part, values, limits)
            if part.triangles:
                found.append(box)
            solid = solid or has_area(part, values)
        known = [box for box in found if box is not None]
        boxes.append(None if len(known) < len(found) or not known else np.array([np.min(known, axis=0)[0], np.max(known, axis=0)[1]]))
    skinned = any(node.get("skin") is not None for node in nodes)
    graph.check_extent(nodes, parents, boxes, skinned, limits)
    if not solid:
        refuse("degenerate", "no triangle of the file has an area")
