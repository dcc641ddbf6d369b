"""Made-up results to try the tools on: a procedural object as truth, and the same object bent a little as what a method might give."""

from pathlib import Path

import numpy as np
import trimesh
from PIL import Image
from trimesh.ray.ray_pyembree import RayMeshIntersector

from evaluation.mesh_io import glb_bytes, load_mesh, world_from_gltf
from rendering.cameras import Camera, orbit
from rendering.sources import procedural
from rendering.view_set import Mesh

SAMPLES = 3


def example_mesh(folder: Path, index: int = 0, seed: int = 0) -> Mesh:
    """The procedural object of that index in our world, box centred, longest side 1; its file goes to `folder`."""
    reference = procedural.list_objects(index + 1, seed)[index]
    path = folder / f"{reference.uid}.glb"
    path.write_bytes(procedural.make_glb(reference.uri))
    mesh = world_from_gltf(load_mesh(path))
    low, high = mesh.vertices.min(0), mesh.vertices.max(0)
    return Mesh((mesh.vertices - (low + high) / 2) / float((high - low).max()), mesh.faces)


def bent(mesh: Mesh, by: float = 0.03) -> Mesh:
    """The mesh with every vertex moved sideways by a sine of its height, at most `by`: wrong by about two thirds of it."""
    vertices = np.array(mesh.vertices, np.float64)
    vertices[:, 0] += by * np.sin(4 * np.pi * vertices[:, 2])
    return Mesh(vertices, mesh.faces)


def pictures_of(mesh: Mesh, camera: Camera, size_px: int) -> np.ndarray:
    """uint8 `[V, size_px, size_px, 4]`, antialiased straight alpha, coloured by the surface's normals."""
    body = trimesh.Trimesh(mesh.vertices, mesh.faces, process=False)
    rays, colours, fine = RayMeshIntersector(body), (np.asarray(body.face_normals) + 1) * 127.5, size_px * SAMPLES
    pictures = []
    for i in range(len(camera)):
        origins, directions = (values.reshape(-1, 3) for values in camera[i].rays(fine, fine))
        face = rays.intersects_first(origins, directions)
        hit = (face >= 0)[:, None].astype(np.float64)
        cells = np.concatenate([colours[face] * hit, hit], -1).reshape(size_px, SAMPLES, size_px, SAMPLES, 4).sum((1, 3))
        colour = cells[..., :3] / np.maximum(cells[..., 3:], 1)
        pictures.append(np.concatenate([colour, cells[..., 3:] * 255 / SAMPLES**2], -1).round().astype(np.uint8))
    return np.stack(pictures)


def write_example(folder: Path, index: int = 4, size_px: int = 128, views: int = 8) -> dict[str, str]:
    """`truth.glb`, `generated.glb`, and pictures of both under `truth/` and `generated/`; the first is a copy, as of an input view."""
    folder.mkdir(parents=True, exist_ok=True)
    truth = example_mesh(folder, index)
    made = bent(truth)
    for name, mesh in (("truth", truth), ("generated", made)):
        (folder / f"{name}.glb").write_bytes(glb_bytes(mesh))
        camera = orbit(np.arange(views) * 360.0 / views, np.full(views, 20.0), np.full(views, 1.5), np.full(views, 60.0))
        pictures = pictures_of(mesh, camera, size_px)
        if name == "generated":  # what a method was given it gives back
            pictures[0] = pictures_of(truth, camera[:1], size_px)[0]
        (folder / name).mkdir(exist_ok=True)
        for number, picture in enumerate(pictures):
            Image.fromarray(picture).save(folder / name / f"{number:03d}.png")
    return {name: str(folder / name) for name in ("truth.glb", "generated.glb", "truth", "generated")}
