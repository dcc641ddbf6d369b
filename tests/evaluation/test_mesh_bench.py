"""The mesh bench: its objects, its cases, its resuming, and (long) the goals on real renders."""

import json

import numpy as np
import pytest
import trimesh

from evaluation import mesh_bench
from evaluation.mesh_bench import BAD_VIEW, bench, bench_rig, bench_views, jittered, measure, variants
from evaluation.mesh_bench_objects import OBJECTS
from evaluation.meshing.settings import STAGES, ReconstructConfig
from infra.errors import UserError
from tests.evaluation.shapes import photograph


@pytest.mark.parametrize("name", ["cube", "bowl", "knot"])
def test_objects_are_closed_painted_solids(name, tmp_path):
    mesh, colors = OBJECTS[name](tmp_path)
    body = trimesh.Trimesh(mesh.vertices, mesh.faces)  # merges the cube's squares
    assert body.is_watertight and body.volume > 0
    assert colors.shape == mesh.vertices.shape and colors.dtype == np.uint8 and np.ptp(colors, axis=0).min() > 50
    if name == "bowl":  # half a shell between radii 1 and 0.8, and half a torus (a ring of half discs) on the rim
        assert body.volume == pytest.approx(2 / 3 * np.pi * (1 - 0.8**3) + 0.5 * np.pi * 0.1**2 * 2 * np.pi * 0.9, rel=0.01)
    if name == "knot":
        t = np.linspace(0, 2 * np.pi, 20_001)
        line = np.stack([(2 + np.cos(3 * t)) * np.cos(2 * t), (2 + np.cos(3 * t)) * np.sin(2 * t), np.sin(3 * t)], -1)
        length = np.linalg.norm(np.diff(line, axis=0), axis=1).sum()
        assert body.volume == pytest.approx(length * np.pi * 0.45**2, rel=0.02)


def test_jitter_moves_every_view_and_one_far():
    ball = trimesh.creation.icosphere(subdivisions=3, radius=0.3)
    camera = bench_rig().camera[:32]
    views = photograph(ball, camera, 64, samples=2)

    def centres(rgba: np.ndarray) -> np.ndarray:
        rows, columns = np.mgrid[:64, :64]
        alpha = rgba[..., 3].astype(float)
        return np.stack([(alpha * grid).sum((1, 2)) / alpha.sum((1, 2)) for grid in (rows, columns)], -1)

    shift = np.linalg.norm(centres(jittered(views)) - centres(views), axis=1)
    assert shift[BAD_VIEW] == pytest.approx(9.0, abs=0.1)
    others = np.delete(shift, BAD_VIEW)
    assert others.max() < 7 and np.sqrt((others**2).mean() / 2) == pytest.approx(1.5, abs=0.4)
    assert np.array_equal(jittered(views), jittered(views)) and not np.array_equal(jittered(views), jittered(views, seed=1))


def test_rows_are_kept_and_not_measured_again(tmp_path, monkeypatch):
    """The renders come from the cache and the row from the file: nothing is left to compute."""
    config = ReconstructConfig(stages=STAGES)
    row = {"object": "cube", "case": "clean", "eikonal": None, "steps": config.refine_steps, "cells": 64, "chamfer": 0.5}
    (tmp_path / "rows.json").write_text(json.dumps([row]))
    monkeypatch.setattr(mesh_bench, "OBJECTS", {"cube": OBJECTS["cube"]})
    said: list[dict] = []
    assert bench(["cube"], ["clean"], [config], tmp_path, tmp_path / "rows.json", said.append) == [row] == said
    assert [(c.eikonal, c.refine_steps, c.refine_resolution) for c in variants(config, [None, 0.1], [5], [32, 64])] == [
        (None, 5, 32),
        (None, 5, 64),
        (0.1, 5, 32),
        (0.1, 5, 64),
    ]
    for objects, cases, words in ((["teapot"], ["clean"], "no bench object 'teapot'"), (["cube"], ["fog"], "no bench case 'fog'")):
        with pytest.raises(UserError, match=words):
            bench(objects, cases, [config], tmp_path, None, said.append)


@pytest.mark.long
@pytest.mark.blender
@pytest.mark.parametrize(
    ("name", "case", "chamfer", "iou", "texture_db"),
    [("suzanne", "clean", 0.0036, 0.97, 26.0), ("suzanne", "jitter", 0.009, 0.89, 0.0), ("bowl", "clean", 0.010, 0.85, 26.0)],
)
def test_goals_on_real_renders(name, case, chamfer, iou, texture_db, tmp_path_factory):
    views = bench_views(name, tmp_path_factory.getbasetemp() / "mesh-bench")
    row = measure(views, case, ReconstructConfig(stages=STAGES))
    assert row["chamfer"] <= chamfer and row["volume_iou"] >= iou, row
    assert row["texture_db"] >= texture_db and row["guard"].startswith("refined accepted") and not row["fallbacks"]
