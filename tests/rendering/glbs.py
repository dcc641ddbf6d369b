"""Small GLB files with known content, built by trimesh and edited as JSON."""

import json
import struct
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import trimesh
from PIL import Image
from trimesh.visual.material import PBRMaterial


def coloured(mesh: trimesh.Trimesh, colour: Sequence[float]) -> trimesh.Trimesh:
    """The mesh with a rough, non-metallic material of that linear base colour."""
    mesh = mesh.copy()
    material = PBRMaterial(baseColorFactor=[*colour, 1.0], metallicFactor=0.0, roughnessFactor=1.0)
    mesh.visual = trimesh.visual.TextureVisuals(material=material)
    return mesh


def textured_box(image: Image.Image) -> trimesh.Trimesh:
    """A box whose every face shows the image."""
    mesh = trimesh.creation.box((1.0, 0.7, 0.4))
    mesh.unmerge_vertices()
    uv = np.tile([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0]], (len(mesh.vertices) // 3, 1))
    material = PBRMaterial(baseColorTexture=image, metallicFactor=0.0, roughnessFactor=1.0)
    mesh.visual = trimesh.visual.TextureVisuals(uv=uv, material=material)
    return mesh


def write(path: Path, *meshes: trimesh.Trimesh, edit: Callable[[dict], None] | None = None) -> Path:
    """Write the meshes as one GLB; coordinates are glTF's (Y up). `edit` may change the JSON in place."""
    scene = trimesh.Scene()
    for number, mesh in enumerate(meshes):
        scene.add_geometry(mesh, node_name=f"part{number}", geom_name=f"part{number}")
    data = scene.export(file_type="glb")
    path.write_bytes(edited(data, edit) if edit else data)
    return path


def edited(data: bytes, edit: Callable[[dict], None]) -> bytes:
    """The GLB with its JSON chunk changed in place by `edit`."""
    length = struct.unpack("<I", data[12:16])[0]
    description = json.loads(data[20 : 20 + length])
    edit(description)
    text = json.dumps(description).encode()
    text += b" " * (-len(text) % 4)
    rest = data[20 + length :]
    return b"glTF" + struct.pack("<II", 2, 20 + len(text) + len(rest)) + struct.pack("<I", len(text)) + b"JSON" + text + rest


def each_material(**extensions: dict) -> Callable[[dict], None]:
    """An edit that gives every material these extensions."""

    def edit(description: dict) -> None:
        for material in description["materials"]:
            material["extensions"] = extensions
        description["extensionsUsed"] = sorted(extensions)

    return edit


def toy(path: Path, number: int) -> Path:
    """One of many objects that look different: two boxes whose sizes and colours depend on `number`."""
    rng = np.random.default_rng(number)
    body = trimesh.creation.box(rng.uniform(0.3, 1.0, 3))
    top = trimesh.creation.box(rng.uniform(0.1, 0.4, 3), trimesh.transformations.translation_matrix(rng.uniform(-0.5, 0.5, 3)))
    return write(path, coloured(body, rng.uniform(0, 1, 3)), coloured(top, rng.uniform(0, 1, 3)))
