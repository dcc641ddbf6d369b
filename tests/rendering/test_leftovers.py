"""What killed processes leave beside the pieces is removed by the next run, and what others may still use is not."""

import os
import socket
import subprocess
import time

from infra.processes import start_time
from infra.storage import Location
from rendering.pieces import remove_abandoned
from rendering.render import _remove_stale_notes, _run_id


def test_only_old_temporary_files_go(tmp_path):
    for name, age_s in ((".old.tmp", 7200), (".new.tmp", 60), ("old.arrow", 7200), ("old.tmp", 7200)):
        (tmp_path / name).write_bytes(b"x")
        os.utime(tmp_path / name, (time.time() - age_s,) * 2)
    remove_abandoned(Location(str(tmp_path)), Location(str(tmp_path / "absent")))
    assert sorted(path.name for path in tmp_path.iterdir()) == [".new.tmp", "old.arrow", "old.tmp"]


def test_only_notes_of_dead_drivers_go(tmp_path):
    with subprocess.Popen(["sleep", "60"]) as other:
        alive = f"a+{socket.gethostname()}+{other.pid}+{start_time(other.pid)}"
        reused = f"b+{socket.gethostname()}+{other.pid}+1"  # the number is taken, by a process that began later
        elsewhere = f"c+another-host+{other.pid}+1"
        names = (_run_id(), alive, elsewhere, reused, f"d+{socket.gethostname()}+0+5", "a-name-of-old", "empty")
        for name in names:
            (tmp_path / name).mkdir()
            if name != "empty":
                (tmp_path / name / "000000.json").write_text("{}")
        week_ago = (time.time() - 8 * 86400,) * 2
        for path in (tmp_path / "a-name-of-old" / "000000.json", tmp_path / "a-name-of-old"):
            os.utime(path, week_ago)
        _remove_stale_notes(Location(str(tmp_path)))
        assert sorted(path.name for path in tmp_path.iterdir()) == sorted([names[0], alive, elsewhere, "empty"])
        other.kill()
        other.wait()
        _remove_stale_notes(Location(str(tmp_path)))
        assert sorted(path.name for path in tmp_path.iterdir()) == sorted([names[0], elsewhere, "empty"])
