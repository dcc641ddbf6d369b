"""Objects that end their Blender every time: tried so often, recorded, and of no harm to those beside them."""

import os
import signal

import numpy as np
import pyarrow as pa
import pytest

from infra.storage import Location
from rendering.blender import BlenderLimits, BlenderWorker, Rendered, RenderFailure, RenderRequest
from rendering.pieces import list_pieces, read_outcome, read_piece
from rendering.render_actor import RenderActor, RenderTask
from rendering.render_config import RenderConfig
from rendering.views import from_row
from tests.rendering import glbs

pytestmark = pytest.mark.blender
CONFIG = RenderConfig(rig="syncdreamer16", resolution=16, samples=1, denoise="none", passes=(), mesh="none", max_attempts=3)
SIGNALS = {"killer": signal.SIGKILL, "hanger": signal.SIGSTOP}


class PoisonedWorker(BlenderWorker):
    """A real worker, but for objects named in `SIGNALS` its child is killed, or stopped so that the deadline passes."""

    def _attempt(self, request: RenderRequest, deadline_s: float) -> Rendered | RenderFailure:
        if request.uid in SIGNALS:
            os.kill(self._running_child().process.pid, SIGNALS[request.uid])
            deadline_s = 0.3
        return super()._attempt(request, deadline_s)


def rows(folder, *uids: str, counted: bool = False) -> pa.Table:
    """A block for an actor; `counted` tries objects again that failed before."""
    mesh = glbs.toy(folder / "toy.glb", 1)
    pieces = list_pieces(Location(str(folder / "pieces"))) if counted else {}
    return pa.Table.from_pylist(
        [
            {"block": 0, "name": uid, "uid": uid, "path": str(mesh), "with_mesh": False, "previous": None, "counted": counted}
            | ({"previous": pieces[uid].name} if counted else {})
            for uid in uids
        ]
    )


def test_poison_is_tried_so_often_and_harms_nobody(tmp_path):
    place = Location(str(tmp_path / "pieces"))
    task = RenderTask(CONFIG, place, "one", BlenderLimits(attempts=2), PoisonedWorker)
    answers = RenderActor(task)(rows(tmp_path, "before", "killer", "between", "hanger", "after")).to_pylist()
    assert [(row["name"], row["state"], row["reason"]) for row in answers] == [
        ("before", "done", None),
        ("killer", "failed", "crash:SIGKILL"),
        ("between", "done", None),
        ("hanger", "failed", "timeout"),
        ("after", "done", None),
    ]
    found = list_pieces(place)
    assert {name: read_outcome(place / piece.name)["attempts"] for name, piece in found.items()} == {
        "before": 1,
        "killer": 2,
        "between": 1,
        "hanger": 2,
        "after": 1,
    }
    pictures = []
    for name in ("before", "between", "after"):
        _, table = read_piece(place / found[name].name)
        assert table is not None
        pictures.append(from_row(table.to_pylist()[0]).rgba)
    assert pictures[0].shape == (16, 16, 16, 4) and pictures[0][..., 3].any((1, 2)).all()
    for picture in pictures[1:]:  # the same object under the same cameras, in other processes
        np.testing.assert_array_equal(picture, pictures[0])
    # Another run tries the poison again: four tries are more than the three allowed, so that is the end of it.
    again = RenderTask(CONFIG, place, "two", BlenderLimits(attempts=2), PoisonedWorker)
    assert [row["state"] for row in RenderActor(again)(rows(tmp_path, "killer", counted=True)).to_pylist()] == ["quarantined"]
    piece = list_pieces(place)["killer"]
    assert (piece.state, piece.reason, read_outcome(place / piece.name)["attempts"]) == ("quarantined", "crash:SIGKILL", 4)
    assert sum("killer" in entry.name for entry in place.children()) == 1
