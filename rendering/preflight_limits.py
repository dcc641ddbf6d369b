"""How much a 3D file may ask for before it is refused unseen. Counts are of what a file declares, not of what it draws."""

from dataclasses import dataclass

MIB = 1 << 20


@dataclass(frozen=True)
class PreflightLimits:
    """Bounds of `rendering.preflight.check`; the defaults are far above what real objects need.

    Attributes:
        file_bytes: size of the .glb or .gltf file itself.
        total_bytes: the file together with everything it refers to.
        json_bytes: size of the JSON part; the largest seen in a real file (76 animations) is 2 MB.
        json_depth: nesting of objects and lists in the JSON part.
        nodes: nodes of all scenes.
        node_depth: longest chain of nodes from a root; Blender's importer walks it by recursion, and Python's ends at 1000.
        scenes: scenes of the file; each becomes one in Blender.
        primitives: primitives of all meshes.
        instances: primitives times the nodes (and GPU instances) that show them.
        vertices: vertices that all primitives use.
        triangles: triangles of all instances, a Draco body's own count included.
        attribute_values: vertices times their attributes (UV sets, colours, joints, ...) and morph targets; and all positions,
            indices and morph targets that are referred to, used or not.
        accessors: accessors, and likewise buffer views.
        materials: materials, and likewise textures, images, skins, cameras, samplers.
        joints: joints of all skins together.
        animations: animations; Blender makes an action of each for every node.
        channels: animation channels of all animations.
        keyframes: keyframes of all channels; one sampler used by several channels counts for each.
        image_side: width and height of a picture, in pixels.
        image_pixels: pixels of all pictures that materials can reach, together.
        extent: longest side of the object in its own units.
        strict_mime: refuse pictures whose declared type is another one than their content's. Off: Blender goes by content,
            and JPEGs labelled as PNG are common.
    """

    file_bytes: int = 1024 * MIB
    total_bytes: int = 2048 * MIB
    json_bytes: int = 32 * MIB
    json_depth: int = 100
    nodes: int = 20_000
    node_depth: int = 400
    scenes: int = 64
    primitives: int = 20_000
    instances: int = 50_000
    vertices: int = 20_000_000
    triangles: int = 20_000_000
    attribute_values: int = 200_000_000
    accessors: int = 200_000
    materials: int = 4096
    joints: int = 20_000
    animations: int = 2000
    channels: int = 200_000
    keyframes: int = 20_000_000
    image_side: int = 8192
    image_pixels: int = 512 * MIB
    extent: float = 1e12
    strict_mime: bool = False


DEFAULT = PreflightLimits()
