"""Growth with the number of objects, at small sizes: every object counted once, metadata and memory in proportion."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from infra.errors import UserError
from infra.job import Job
from infra.storage import Location
from pipelines.__main__ import main
from pipelines.scale import probes
from pipelines.scale.growth import growth
from pipelines.scale.point import Point, measure
from pipelines.scale.show import lines, write_plot
from rendering import dry_run, render
from rendering.pieces import list_pieces


def point(tmp_path: Path, probe: str, size: int) -> Point:
    folder = tmp_path / f"{probe}-{size}"
    folder.mkdir()
    return measure(probe, size, folder)


def test_catalog_rows_are_counted_and_their_tables_grow_with_them(tmp_path):
    small, large = (point(tmp_path, "catalog", size) for size in (1000, 4000))
    assert large.counts == {"objects": 3600, "rows": 3600, "excluded": 400}
    assert small.files == large.files, "no file an object"
    assert 2.5 < large.bytes["tables"] / small.bytes["tables"] < 4.4
    assert large.bytes["records"] < small.bytes["records"] + 100, "a record holds counts, not objects"
    assert large.driver_mb < 100


def test_twins_are_found_among_thousands(tmp_path):
    assert point(tmp_path, "duplicates", 3000).counts == {"pairs": 30, "wrong": 0}


@pytest.mark.ray
def test_rendering_leaves_a_piece_for_each_object_and_holds_none_of_them(ray_cluster, tmp_path):
    small, large = (point(tmp_path, "render", size) for size in (200, 800))
    failed = len(range(0, 800, dry_run.FAILS_EVERY))
    assert large.counts == {"completed": 800 - failed, "failed": failed, "ledger": 800, "uids": 800}
    assert (small.files["pieces"], large.files["pieces"]) == (200, 800)
    assert 3.5 < large.bytes["pieces"] / small.bytes["pieces"] < 4.5
    assert large.bytes["views and ledger"] < 4.5 * small.bytes["views and ledger"] and large.files["views and ledger"] < 15
    assert large.driver_mb < 250


def test_what_is_left_to_render_is_what_has_no_piece(tmp_path):
    """Against a set difference of names, after two pieces more were lost."""
    made = probes.render_left_probe(3000, tmp_path)
    pieces = Location(str(tmp_path / "pieces"))
    for piece in sorted(list_pieces(pieces).values(), key=lambda one: one.name)[5:7]:
        (tmp_path / "pieces" / piece.name).unlink()
    made.run()
    assert made.count() != made.expected, "a point with a wrong count is no point"
    table = Location(str(tmp_path / "meshes.parquet")).read_table()
    there = set(list_pieces(pieces))
    wanted = {row["uid"] for row in table.to_pylist() if render.piece_of(dry_run.CONFIG, row) not in there}
    _, rows = render.left_to_do(dry_run.CONFIG, table, pieces, Job())
    assert set(rows.column("uid").to_pylist()) == wanted and len(rows) == len(wanted) == 3 + 2


def test_what_is_left_to_generate_is_what_asking_for_each_says(tmp_path):
    from evaluation.generated_pieces import Pieces

    made = probes.generate_left_probe(3000, tmp_path)
    made.run()
    assert made.count() == made.expected == {"left": 3}
    tasks = [{"uid": str(number), "key": f"{number:032x}"} for number in range(3000)]
    newest = max(path.stat().st_mtime for path in (tmp_path / "pieces").iterdir())
    for since in (None, newest - 0.01, newest + 1):
        pieces = Pieces(Location(str(tmp_path / "pieces")), fresh_since=since)
        assert pieces.missing(tasks) == [task for task in tasks if not pieces.done(task["key"])]


def made_up(size: int, seconds: float, mb: float = 100.0) -> Point:
    return Point("p", size, seconds, seconds, mb, 0.0, 0.0, {"pieces": size}, {"pieces": 100 * size}, {}, [[0.0, 1.0], [1.0, 2.0]])


def test_exponents_by_hand():
    steps = growth([made_up(10_000, 200.0, 150.0), made_up(1_000, 2.0), made_up(100_000, 200 * 10**1.1, 160.0)])
    found = {(step.what, step.large[0]): step for step in steps}
    assert found["seconds", 10_000].exponent == pytest.approx(2.0) and found["seconds", 10_000].faster
    assert found["seconds", 100_000].exponent == pytest.approx(1.1) and not found["seconds", 100_000].faster
    assert found["driver MB", 10_000].exponent == pytest.approx(math.log10(1.5)) and found["GCS MB", 10_000].exponent is None
    assert found["pieces files", 10_000].exponent == pytest.approx(1.0)
    short = growth([made_up(10, 0.01), made_up(100, 1.0)])
    assert not any(step.faster for step in short), "ten milliseconds tell nothing"


def test_the_verb_goes_on_from_kept_points(tmp_path, capsys):
    for size, seconds in ((1_000, 2.0), (10_000, 200.0)):
        (tmp_path / f"catalog-{size}.json").write_text(json.dumps(replace(made_up(size, seconds), probe="catalog").__dict__))
    plot = tmp_path / "growth.svg"
    words = ["bench", "scale", "--out", str(tmp_path), "--only", "catalog", "--largest", "10000", "--plot", str(plot), "--json"]
    assert main(words) == 0
    result = json.loads(capsys.readouterr().out)
    assert [one["size"] for one in result["points"]] == [1_000, 10_000]
    assert {one["figure"] for one in result["faster_than_linear"]} == {"seconds", "driver CPU"}
    assert "</svg>" in plot.read_text()
    first = plot.read_text()
    main(words)
    assert plot.read_text() == first, "the same figures give the same picture"
    assert main(["bench", "scale", "--out", str(tmp_path), "--only", "catalogue"]) == 2
    (tmp_path / "catalog-1000.json").write_text("{}")
    assert main(words) == 2


def test_what_grows_too_quickly_is_told(tmp_path):
    points = [made_up(1_000, 2.0), made_up(10_000, 200.0)]
    text = "\n".join(lines(points))
    assert "p: seconds grew as size^2.00 from 1,000 to 10,000" in text and "200 (2.00)" in text
    with pytest.raises(UserError, match="svg or .png"):
        write_plot(points, tmp_path / "plot.pdf")
