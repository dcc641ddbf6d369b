"""Curation of painted view sets whose likeness is known because they were painted so."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image, ImageDraw

from infra.errors import UserError
from infra.job import Job, Summary
from infra.storage import Location
from rendering.curate import CurateConfig, run
from rendering.fingerprint import fingerprint, likeness, ring_views
from rendering.rigs import RIGS, RigConfig
from rendering.views import ViewSet, to_table, write_shards

SIZE = 32


def painted(uid: str, look: int, hue: tuple[int, int, int] = (200, 60, 30), blank: bool = False, clipped: bool = False) -> ViewSet:
    """Views that differ by azimuth and elevation; objects with equal `look` have equal shapes."""
    rig = RIGS["mvdiffusionpp"](uid, RigConfig(num_conditions=1))
    pictures = []
    for azimuth, elevation in zip(rig.azimuth_deg, rig.elevation_deg, strict=True):
        picture = Image.new("RGBA", (SIZE, SIZE), (0, 0, 0, 0))
        rng = np.random.default_rng([look, int(azimuth), int(elevation) + 100])
        draw = ImageDraw.Draw(picture)
        for _ in range(0 if blank else 6):
            x, y = rng.integers(4, 20, 2)
            shade = rng.uniform(0.3, 1.0)
            draw.rectangle((x, y, x + rng.integers(2, 9), y + rng.integers(2, 9)), tuple(int(shade * c) for c in hue) + (255,))
        if clipped:
            draw.rectangle((0, 10, SIZE, 20), (*hue, 255))
        pictures.append(np.asarray(picture))
    return ViewSet(uid, np.stack(pictures), rig.camera, rig.roles, rig.azimuth_deg, rig.elevation_deg, rig.radius, rig.name, "painted")


def rolled(views: ViewSet, uid: str, steps: int) -> ViewSet:
    """The same object standing turned by `steps` x 45 deg."""
    order = [8 * (index // 8) + (index % 8 - steps) % 8 for index in range(32)] + [32]
    return replace(views, uid=uid, rgba=views.rgba[order])


def noisy(views: ViewSet, uid: str) -> ViewSet:
    """The same object rendered with a little noise."""
    noise = np.random.default_rng(0).integers(-4, 5, views.rgba.shape)
    noise[..., 3] = 0
    return replace(views, uid=uid, rgba=np.clip(views.rgba.astype(int) + noise, 0, 255).astype(np.uint8))


def curated(folder: Path, objects: list[tuple[ViewSet, str]], **config) -> tuple[dict[str, str], dict[str, tuple[str, str]], Summary]:
    """Run the step on these objects and splits: kept uid -> split, rejected uid -> (reason, detail), summary."""
    views, out = Location(str(folder / "views")), Location(str(folder / "out"))
    write_shards((to_table(one) for one, _ in objects), views)
    rows = [{"uid": one.uid, "split": split, "status": "ok"} for one, split in objects]
    rows.append({"uid": "x", "split": "train", "status": "failed"})
    (views / "ledger.parquet").write_table(pa.Table.from_pylist(rows))
    summary = run(CurateConfig(**config), views=views, out=out, job=Job())
    kept = {row["uid"]: row["split"] for row in (out / "kept.parquet").read_table().to_pylist()}
    rejected = {row["uid"]: (row["reason"], row["detail"]) for row in (out / "rejected.parquet").read_table().to_pylist()}
    assert summary.completed == len(kept) and summary.rejected == len(rejected)
    return kept, rejected, summary


def test_training_loses_what_looks_like_a_held_out_object_and_keeps_the_rest(tmp_path):
    test, val = painted("test", 1), painted("val", 2)
    objects = [
        (test, "test"),
        (val, "val"),
        (noisy(test, "copy"), "train"),
        (rolled(val, "turned-copy", 3), "train"),
        (painted("other-colour", 1, hue=(30, 60, 200)), "train"),
        (painted("other-shape", 3), "train"),
        (noisy(painted("twin", 3), "train-twin"), "train"),
        (rolled(test, "heldout-twin", 2), "val"),
    ]
    kept, rejected, summary = curated(tmp_path, objects)
    assert set(rejected) == {"copy", "turned-copy"} and {reason for reason, _ in rejected.values()} == {"heldout_duplicate"}
    assert "val" in rejected["turned-copy"][1]
    assert {uid for uid, split in kept.items() if split == "train"} == {"other-colour", "other-shape", "train-twin"}
    assert {uid for uid, split in kept.items() if split != "train"} == {"heldout-twin", "test", "val"}
    assert summary.facts["training_objects_like_heldout"] == 2 and summary.facts["kept"] == {"train": 3, "val": 2, "test": 1}


def test_blank_and_clipped_objects_leave_every_split(tmp_path):
    faulty = [(painted("b", 2, blank=True), "test"), (painted("c", 3, clipped=True), "val")]
    objects = [(painted("a", 1), "train"), (painted("d", 4), "test"), *faulty]
    kept, rejected, _ = curated(tmp_path, objects)
    assert set(kept) == {"a", "d"} and {uid: reason for uid, (reason, _) in rejected.items()} == {"b": "blank", "c": "clipped"}


def test_thresholds_are_obeyed(tmp_path):
    objects = [(painted("a", 1), "train"), (painted("c", 3, clipped=True), "train"), (noisy(painted("a2", 1), "a2"), "test")]
    kept, rejected, _ = curated(tmp_path, objects, max_clipped=1.0, max_colour_distance=0.0)
    assert set(kept) == {"a", "a2", "c"} and not rejected


def test_an_empty_training_set_is_an_error(tmp_path):
    with pytest.raises(UserError, match="nothing to train on.*blank 1"):
        curated(tmp_path, [(painted("a", 1, blank=True), "train"), (painted("b", 2), "test")])


def test_likeness_sees_through_a_turn_and_ranks_pairs():
    one = painted("a", 1)
    same, turned = likeness(fingerprint(one), fingerprint(one)), likeness(fingerprint(one), fingerprint(rolled(one, "b", 5)))
    assert same.bits == turned.bits == 0.0 and same.colour == turned.colour == 0.0
    far = likeness(fingerprint(one), fingerprint(painted("c", 9)))
    assert far.colour > 0.1


def test_the_ring_is_the_level_nearest_to_fifteen_degrees():
    views = painted("a", 1)
    ring = ring_views(views)
    assert [views.elevation_deg[index] for index in ring] == [0.0] * 8
    assert [views.azimuth_deg[index] for index in ring] == [45.0 * step for step in range(8)]
