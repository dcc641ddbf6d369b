"""Curation of painted view sets whose likeness is known because they were painted so."""

import base64
import io
import itertools
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from unittest.mock import ANY

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image, ImageDraw

from infra.errors import UserError
from infra.job import Job, Summary
from infra.storage import Location
from rendering import duplicates
from rendering.curate import CurateConfig, run
from rendering.duplicates import alike_pairs
from rendering.fingerprint import fingerprint, likeness, ring_views
from rendering.rigs import RIGS, RigConfig
from rendering.view_set import ViewSet
from rendering.views import to_table, write_shards

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


class Page(HTMLParser):
    """Headings and pictures of a page, and the tags that were left open."""

    def __init__(self) -> None:
        super().__init__()
        self.headings: list[str] = []
        self.images: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "img":
            self.images.append(dict(attrs)["src"] or "")
        if tag not in ("img", "meta", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "h2":
            self.headings.append(data)


def alike_objects() -> list[tuple[ViewSet, str]]:
    test, val = painted("test", 1), painted("val", 2)
    return [
        (test, "test"),
        (val, "val"),
        (noisy(test, "copy"), "train"),
        (rolled(val, "turned-copy", 3), "train"),
        (painted("other-colour", 1, hue=(30, 60, 200)), "train"),
        (painted("other-shape", 3), "train"),
        (noisy(painted("twin", 3), "train-twin"), "train"),
        (noisy(rolled(painted("twin", 3), "t", 5), "train-triplet"), "train"),
        (rolled(test, "test-twin", 2), "val"),
    ]


def test_of_objects_that_look_the_same_one_is_kept_and_held_out_ones_first(tmp_path):
    kept, rejected, summary = curated(tmp_path, alike_objects())
    assert {uid: reason for uid, (reason, _) in rejected.items()} == {
        "copy": "heldout_duplicate",
        "turned-copy": "heldout_duplicate",
        "train-triplet": "duplicate",
        "train-twin": "duplicate",
        "test-twin": "duplicate",
    }
    assert "val" in rejected["turned-copy"][1] and "other-shape" in rejected["train-twin"][1]
    assert kept == {"test": "test", "val": "val", "other-colour": "train", "other-shape": "train"}
    assert summary.facts["training_objects_like_heldout"] == 2 and summary.facts["kept"] == {"train": 2, "val": 1, "test": 1}


def test_only_leaks_or_nothing_may_be_dropped(tmp_path):
    _, rejected, _ = curated(tmp_path / "a", alike_objects(), duplicates="heldout")
    assert set(rejected) == {"copy", "turned-copy"} and {reason for reason, _ in rejected.values()} == {"heldout_duplicate"}
    _, rejected, _ = curated(tmp_path / "b", alike_objects(), duplicates="none")
    assert not rejected
    with pytest.raises(UserError, match="curate.duplicates"):
        CurateConfig(duplicates="some")


@pytest.mark.parametrize(("leaf", "at_once"), [(512, 16_384), (5, 7), (1, 2)])
def test_the_search_finds_exactly_the_pairs_that_comparing_all_would(leaf, at_once, monkeypatch):
    """One leaf and many against every pair, at limits so wide that many pairs pass."""
    monkeypatch.setattr(duplicates, "LEAF", leaf)
    monkeypatch.setattr(duplicates, "AT_ONCE", at_once)
    sets = [painted(f"o{number}", number % 13, hue=(40 + 15 * (number % 5), 90, 200 - 9 * number)) for number in range(36)]
    prints = [fingerprint(rolled(one, one.uid, number % 8)) for number, one in enumerate(sets)]
    for colour in (0.03, 0.12, 0.3):
        slow = {
            (i, j)
            for (i, one), (j, other) in itertools.combinations(enumerate(prints), 2)
            if (alike := likeness(one, other)).colour <= colour and alike.bits <= 20
        }
        found = [(i, j) for i, j, _ in alike_pairs(prints, 20, colour)]
        assert set(found) == slow and len(found) == len(slow)
        assert colour < 0.1 or len(slow) > 5


def test_a_pair_right_at_the_limit_is_found():
    """Nothing is lost to the bounds before the comparison, or to rounding: each pair's own difference as the limit."""
    sets = [painted(f"o{number}", number % 4, hue=(40 + 30 * (number % 3), 90, 200 - 20 * number)) for number in range(8)]
    prints = [fingerprint(rolled(noisy(one, one.uid), one.uid, number)) for number, one in enumerate(sets)]
    for one, other in itertools.combinations(prints, 2):
        alike = likeness(one, other)
        assert list(alike_pairs([one, other], alike.bits, alike.colour)) == [(0, 1, alike)]
        assert not list(alike_pairs([one, other], alike.bits, alike.colour * 0.999))


def test_rings_of_other_length_and_single_views_are_not_compared():
    one = painted("a", 1)
    short = fingerprint(one.select(range(8)))
    few = fingerprint(one.select([8, 9, 10]))
    assert list(alike_pairs([few, few, None, short, short], 6, 0.05)) == [(3, 4, ANY)]
    assert list(alike_pairs([few, short], 6, 0.05)) == []


def test_rejections_are_joined_into_the_ledger_and_shown(tmp_path):
    objects = [*alike_objects(), (painted("<b>", 2, blank=True), "train")]
    curated(tmp_path, objects)
    book = {row["uid"]: row for row in (Location(str(tmp_path)) / "out" / "ledger.parquet").read_table().to_pylist()}
    assert (book["test"]["gate"], book["test"]["gate_reason"]) == ("kept", None) and book["x"]["gate"] is None
    assert (book["copy"]["gate"], book["copy"]["gate_reason"]) == ("rejected", "heldout_duplicate")
    assert book["<b>"]["gate_reason"] == "blank" and book["<b>"]["fullest"] == 0 and book["test"]["fullest"] > 0.01
    page = (tmp_path / "out" / "rejected.html").read_text()
    parser = Page()
    parser.feed(page)
    assert parser.headings == ["duplicate (3)", "heldout_duplicate (2)", "blank (1)"]
    assert "<b>" not in page and "http" not in page and not parser.open
    sources = parser.images
    assert len(sources) == 2 * 5 + 1  # a duplicate is shown beside what it repeats
    for source in sources:
        with Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2]))) as image:
            assert image.width == 4 * image.height


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
