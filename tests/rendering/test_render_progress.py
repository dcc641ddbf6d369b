from infra.metrics import Meter
from infra.metrics_export import REGISTRY
from infra.progress import Progress
from infra.storage import Location
from rendering.render_progress import BlockProgress, Outcomes


def test_the_bar_moves_inside_blocks_and_counts_nothing_twice(tmp_path, capsys):
    notes = Location(str(tmp_path))
    progress = Progress("render", 20)
    watched = BlockProgress(progress, notes)

    def note(block: int, finished: int) -> None:
        (notes / f"{block:06d}.json").write_json({"finished": {f"o{n}": {} for n in range(finished)}, "begun": None, "count": 0})

    note(0, 3)
    note(1, 1)
    watched._look()
    assert progress.done == 4
    note(0, 8)
    watched.answer({"000000.json"}, 8, 1)
    assert progress.done == 8  # block 1 is added when it is looked at again
    watched._look()
    assert progress.done == 9
    watched._look()
    note(1, 12)
    watched._look()
    assert progress.done == 20
    with watched.watching():
        watched.answer({"000001.json"}, 12, 0)
    assert progress.done == 20
    progress.close()
    assert "failed 1" in capsys.readouterr().err


def test_every_object_is_posted_once_whoever_tells_it_first(tmp_path):
    """A block of three: its note tells of one, then of two, then its actor answers, and is looked at again."""
    label = "posted once"
    outcomes = Outcomes(Meter("render", label), views=10)
    done, failed = {"state": "done", "reason": None}, {"state": "quarantined", "reason": "crash"}
    notes = Location(str(tmp_path))
    watched = BlockProgress(Progress("render", 5), notes, outcomes)
    for finished in ({"a": done}, {"a": done}, {"a": done, "b": failed}):
        (notes / "000000.json").write_json({"finished": finished})
        watched._look()
    for _ in range(2):  # a block that Ray repeats is answered again
        outcomes.tell("000000.json", {"a": done, "b": failed, "c": done}, answered=True)
    watched._look()
    outcomes.tell("000001.json", {"d": done, "e": done}, answered=True)
    counts, _ = REGISTRY.values()
    posted = {(metric.name, *values[2:]): count for (metric, values), count in counts.items() if label in values}
    assert posted == {
        ("mvforge_items_total", "ok", ""): 4,
        ("mvforge_items_total", "failed", "crash"): 1,
        ("mvforge_views_total",): 40,
    }
