"""Pinned libraries that are picky about NumPy: each is imported and does a piece of real work."""

import importlib.util

import numpy as np
import trimesh


def box() -> tuple[np.ndarray, np.ndarray]:
    mesh = trimesh.creation.box()
    return np.ascontiguousarray(mesh.vertices, np.float64), np.ascontiguousarray(mesh.faces, np.int64)


def test_numpy_is_the_one_blender_needs():
    assert np.__version__.startswith("1.26.")


def test_libigl_winding_number():
    import igl

    vertices, faces = box()
    inside = igl.fast_winding_number(vertices, faces, np.array([[0.0, 0.0, 0.0], [2.0, 0.0, 0.0]]))
    assert np.allclose(inside, [1.0, 0.0], atol=1e-3)


def test_scikit_image_marching_cubes():
    from skimage.measure import marching_cubes

    grid = np.linspace(-1, 1, 24)
    x, y, z = np.meshgrid(grid, grid, grid, indexing="ij")
    vertices, _, _, _ = marching_cubes(np.sqrt(x**2 + y**2 + z**2), 0.5, spacing=(grid[1] - grid[0],) * 3)
    assert np.allclose(np.linalg.norm(vertices - 1.0, axis=1), 0.5, atol=0.01)


def test_xatlas_unwraps():
    import xatlas

    vertices, faces = box()
    _, indices, uvs = xatlas.parametrize(vertices.astype(np.float32), faces.astype(np.uint32))
    assert len(indices) == len(faces) and uvs.min() >= 0 and uvs.max() <= 1


def test_embree_traces_rays():
    from trimesh.ray.ray_pyembree import RayMeshIntersector

    hits = RayMeshIntersector(trimesh.creation.box()).intersects_any([[0, 0, 5], [3, 0, 5]], [[0, 0, -1], [0, 0, -1]])
    assert hits.tolist() == [True, False]


def test_fast_simplification_keeps_the_shape():
    import fast_simplification

    sphere = trimesh.creation.icosphere(subdivisions=4)
    vertices, faces = fast_simplification.simplify(sphere.vertices.astype(np.float32), sphere.faces.astype(np.int32), 0.8)
    assert len(faces) <= 0.25 * len(sphere.faces)
    assert np.allclose(np.linalg.norm(vertices, axis=1), 1.0, atol=0.02)


def test_torchvision_stays_out():
    """Its wheel does not fit the CPU build of torch and breaks whatever imports it."""
    assert importlib.util.find_spec("torchvision") is None
