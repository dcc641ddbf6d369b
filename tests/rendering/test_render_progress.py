from infra.progress import Progress
from infra.storage import Location
from rendering.render_progress import BlockProgress


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
