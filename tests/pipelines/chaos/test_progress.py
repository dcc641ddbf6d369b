"""Progress is what was never there before; what is made again is work repeated."""

import os
import time
from pathlib import Path

from pipelines.chaos.progress import Progress, found_in


def write(path: Path, at: float) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("{}")
    os.utime(path, (at, at))


def test_marks_are_finished_work_only(tmp_path: Path):
    build = tmp_path / "train.unet1" / "smoke" / "b1"
    for name in (
        "render/_cache/pieces/abc/chair.arrow",
        "render/_cache/pieces/abc/.half.tmp",
        "render/_cache/pieces/abc/runs/x/000000.json",
        "generate/_cache/pieces/k.attempts.json",
        "fetch/_cache/files/chair.glb",
        "render/smoke/record.json",
        "render/smoke/building.json",
    ):
        write(tmp_path / name, 1.0)
    write(build / "live" / "train-0000000007.json", 1.0)
    write(build / "live" / "validation-0000000000.json", 1.0)
    write(build / "state" / "b1" / "step-00000004-ab" / "manifest.json", 1.0)
    write(build / "state" / "b1" / "step-00000008-ab" / "share-00000.json", 1.0)
    assert sorted(mark for mark, _ in found_in(tmp_path)) == [
        "fetch/chair.glb",
        "render finished",
        "render/chair.arrow",
        "train.unet1 checkpoint 00000004",
        "train.unet1 update 7",
    ]


def test_an_update_that_is_made_again_is_no_progress(tmp_path: Path):
    progress = Progress(tmp_path)
    progress.close()
    live, now = tmp_path / "train.mvae" / "smoke" / "b1" / "live", time.time()
    for step in (1, 2, 3):
        write(live / f"train-{step:010d}.json", now + step)
        progress.look()
        (live / f"train-{step:010d}.json").unlink()
    fault = now + 3.5
    for offset, step in ((10, 2), (11, 3)):
        write(live / f"train-{step:010d}.json", now + offset)
        progress.look()
        (live / f"train-{step:010d}.json").unlink()
    assert progress.next_after(fault) is None and progress.repeated_after(fault) == 2
    write(live / "train-0000000004.json", now + 12)
    progress.look()
    progress.look()
    assert abs((progress.next_after(fault) or 0.0) - (now + 12)) < 1e-3 and progress.repeated_after(fault) == 2
