"""Nodes, scenes, skins and animations of a glTF file: every reference valid, no cycles, bounded depth and counts."""

import numpy as np

from rendering.preflight_geometry import Accessor
from rendering.preflight_json import Document, entries, listed, numbers, reference, refuse, table
from rendering.preflight_limits import PreflightLimits

_INSTANCING = "EXT_mesh_gpu_instancing"
_LIGHTS = "KHR_lights_punctual"
_MAT4 = 16
_FLOAT32_MAX = float(np.finfo(np.float32).max)
_SMALLEST_EXTENT = 1e-9


def check_nodes(document: Document, accessors: list[Accessor], limits: PreflightLimits) -> tuple[list[int], list[Document]]:
    """(parent of every node or -1, the nodes).

    Raises FetchError: `bad_reference`, `bad_graph` (cycles, two parents, repeated roots), `too_deep`, `too_complex`.
    """
    nodes = entries(document, "nodes", most=limits.nodes)
    counts = {key: len(listed(document, f"{key}s" if key != "mesh" else "meshes")) for key in ("mesh", "skin", "camera")}
    lights = len(listed(table(table(document, "extensions"), _LIGHTS, "extensions."), "lights", f"extensions.{_LIGHTS}."))
    parents = [-1] * len(nodes)
    for number, node in enumerate(nodes):
        where = f"nodes[{number}]"
        for key, count in counts.items():
            if node.get(key) is not None:
                reference(node[key], count, f"{where}.{key}", f"{key}s" if key != "mesh" else "meshes")
        light = table(table(node, "extensions", f"{where}."), _LIGHTS, f"{where}.extensions.").get("light")
        if light is not None:
            reference(light, lights, f"{where}.extensions.{_LIGHTS}.light", "lights")
        for child in listed(node, "children", f"{where}."):
            reference(child, len(nodes), f"{where}.children", "nodes")
            if parents[child] != -1:
                refuse("bad_graph", f"nodes[{child}] is a child of nodes[{parents[child]}] and of {where}")
            parents[child] = number
    _check_depth(parents, limits.node_depth)
    _check_scenes(document, parents, limits)
    return parents, nodes


def _check_depth(parents: list[int], deepest: int) -> None:
    depths = [0] * len(parents)  # 0: not yet known
    for start in range(len(parents)):
        chain, node = [], start
        while node != -1 and not depths[node]:
            depths[node] = -1
            chain.append(node)
            node = parents[node]
            if node != -1 and depths[node] == -1:
                refuse("bad_graph", f"nodes[{node}] is below itself")
        depth = depths[node] if node != -1 else 0
        for member in reversed(chain):
            depth += 1
            if depth > deepest:
                refuse("too_deep", f"nodes[{member}] lies {depth} levels deep, at most {deepest} are read")
            depths[member] = depth


def _check_scenes(document: Document, parents: list[int], limits: PreflightLimits) -> None:
    scenes = entries(document, "scenes", most=limits.scenes)
    if document.get("scene") is not None:
        reference(document["scene"], len(scenes), "scene", "scenes")
    for number, scene in enumerate(scenes):
        roots = listed(scene, "nodes", f"scenes[{number}].")
        for root in roots:
            reference(root, len(parents), f"scenes[{number}].nodes", "nodes")
            if parents[root] != -1:
                refuse("bad_graph", f"scenes[{number}] lists nodes[{root}], which is a child of nodes[{parents[root]}]")
        if len(set(roots)) != len(roots):
            refuse("bad_graph", f"scenes[{number}] lists a node twice")


def copies(node: Document, where: str, accessors: list[Accessor]) -> int:
    """How often a node shows its mesh: once, or as often as its GPU instancing says."""
    instancing = table(table(node, "extensions", f"{where}."), _INSTANCING, f"{where}.extensions.")
    counts = set()
    for name, index in table(instancing, "attributes", f"{where}.extensions.{_INSTANCING}.").items():
        counts.add(accessors[reference(index, len(accessors), f"{where}.extensions.{_INSTANCING}.{name}", "accessors")].count)
    if len(counts) > 1:
        refuse("bad_accessor", f"{where}: the attributes of {_INSTANCING} have {sorted(counts)[:4]} elements")
    return max(counts, default=1)


def check_skins(document: Document, nodes: int, accessors: list[Accessor], limits: PreflightLimits) -> None:
    """Raises FetchError: `bad_reference`, `bad_accessor`, `too_complex`."""
    joints = 0
    for number, skin in enumerate(entries(document, "skins", most=limits.materials)):
        where = f"skins[{number}]"
        names = listed(skin, "joints", f"{where}.")
        joints += len(names)
        if not names:
            refuse("bad_json", f"{where} has no joints")
        if joints > limits.joints:
            refuse("too_complex", f"{where}: more than {limits.joints} joints")
        for joint in names:
            reference(joint, nodes, f"{where}.joints", "nodes")
        if skin.get("skeleton") is not None:
            reference(skin["skeleton"], nodes, f"{where}.skeleton", "nodes")
        if skin.get("inverseBindMatrices") is not None:
            binds = accessors[reference(skin["inverseBindMatrices"], len(accessors), f"{where}.inverseBindMatrices", "accessors")]
            if binds.components != _MAT4 or binds.count < len(names):
                refuse("bad_accessor", f"{binds.where} does not hold the {len(names)} bind matrices of {where}")


def check_animations(document: Document, nodes: int, accessors: list[Accessor], limits: PreflightLimits) -> None:
    """Raises FetchError: `bad_reference`, `too_complex`."""
    channels = keyframes = 0
    for number, animation in enumerate(entries(document, "animations", most=limits.animations)):
        where = f"animations[{number}]"
        samplers = []
        for place, sampler in enumerate(entries(animation, "samplers", f"{where}.")):
            for key in ("input", "output"):
                reference(sampler.get(key), len(accessors), f"{where}.samplers[{place}].{key}", "accessors")
            samplers.append(max(accessors[sampler["input"]].count, accessors[sampler["output"]].count))
        for place, channel in enumerate(entries(animation, "channels", f"{where}.")):
            keyframes += samplers[reference(channel.get("sampler"), len(samplers), f"{where}.channels[{place}].sampler", "samplers")]
            target = table(channel, "target", f"{where}.channels[{place}].")
            if target.get("node") is not None:
                reference(target["node"], nodes, f"{where}.channels[{place}].target.node", "nodes")
            channels += 1
        if channels > limits.channels or keyframes > limits.keyframes:
            refuse("too_complex", f"{where}: {channels} channels, {keyframes} keyframes; limits {limits.channels}, {limits.keyframes}")


def check_extent(nodes: list[Document], parents: list[int], boxes: list[np.ndarray | None], skinned: bool, limits: PreflightLimits) -> None:
    """The box of all nodes in the world can be computed and is of a sane size.

    `boxes` are `[2, 3]` per mesh, None where unknown. Raises FetchError: `non_finite`, `absurd_extent`, `zero_extent`.
    """
    matrices: dict[int, np.ndarray] = {-1: np.eye(4)}
    low, high = np.full(3, np.inf), np.full(3, -np.inf)
    known = not skinned
    with np.errstate(all="ignore"):
        for number, node in enumerate(nodes):
            chain = []
            while number not in matrices:
                chain.append(number)
                number = parents[number]
            for member in reversed(chain):
                matrices[member] = matrices[parents[member]] @ local_matrix(nodes[member], f"nodes[{member}]")
            if node.get("mesh") is None or node.get("skin") is not None:
                continue
            box = boxes[node["mesh"]]
            if box is None:
                known = False
                continue
            place = chain[0] if chain else number
            corners = np.stack(np.meshgrid(*box.T), -1).reshape(-1, 3) @ matrices[place][:3, :3].T + matrices[place][:3, 3]
            if not (np.abs(corners) < _FLOAT32_MAX).all():
                refuse("non_finite", f"nodes[{place}] moves its mesh beyond what 32-bit numbers can say")
            low, high = np.minimum(low, corners.min(0)), np.maximum(high, corners.max(0))
        longest = float((high - low).max())
    if longest > limits.extent:
        refuse("absurd_extent", f"the longest side of the object is {longest:g}, at most {limits.extent:g} is drawn")
    if known and 0 <= longest < _SMALLEST_EXTENT:
        refuse("zero_extent", f"the longest side of the object is {longest:g}")


def local_matrix(node: Document, where: str) -> np.ndarray:
    """The `[4, 4]` transform of a node: `matrix`, or translation, rotation (quaternion x, y, z, w) and scale."""
    matrix = numbers(node, "matrix", where, 16)
    if matrix is not None:
        return np.reshape(matrix, (4, 4)).T
    x, y, z, w = numbers(node, "rotation", where, 4) or (0.0, 0.0, 0.0, 1.0)
    norm = (x * x + y * y + z * z + w * w) ** 0.5
    x, y, z, w = (value / norm for value in (x, y, z, w)) if norm > 0 else (0.0, 0.0, 0.0, 1.0)
    rotation = np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )
    result = np.eye(4)
    result[:3, :3] = rotation * np.array(numbers(node, "scale", where, 3) or (1.0, 1.0, 1.0))
    result[:3, 3] = numbers(node, "translation", where, 3) or (0.0, 0.0, 0.0)
    return result
