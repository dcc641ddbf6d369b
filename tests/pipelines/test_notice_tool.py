"""`mvforge notice`: running trainings, and those alone, are asked for a checkpoint, and it is waited for."""

import json
import shlex
import threading
import time
from pathlib import Path

import pytest
import yaml

from infra.storage import Location
from pipelines.__main__ import main, parser
from pipelines.artifact import Building, Store, new_build_id
from pipelines.lease import Lease
from tests.conftest import ROOT
from training.checkpoint_manifest import MANIFEST
from training.notice import NOTHING, SAVE
from training.notice_file import FileNotice


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setenv("MVFORGE_STORE", str(tmp_path / "store"))
    return Store(Location(str(tmp_path / "store")))


def begun(store: Store, step: str) -> Location:
    building = Building(new_build_id(), "print", "build", time.time())
    store.note_building(step, "tiny", building)
    return store.folder(step, "tiny") / building.build_id


def test_running_trainings_save_and_others_are_left_alone(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    out, interrupted, rendering = begun(store, "train.unet1"), begun(store, "train.unet2"), begun(store, "render")
    state = out / "state" / out.name
    (state / "step-00000006-aa" / MANIFEST).write_text("whole")
    heard = []

    def worker() -> None:
        with FileNotice(out).looking() as asked:
            while not heard or heard[-1] == NOTHING:
                heard.append(asked())
                time.sleep(0.1)
            heard.append(asked())
        (state / "step-00000009-aa" / MANIFEST).write_text("whole")

    thread = threading.Thread(target=worker)
    with (
        Lease(store.folder("train.unet1", "tiny") / "lease.json", "training"),
        Lease(store.folder("render", "tiny") / "lease.json", "rendering"),
    ):
        thread.start()
        assert main(["notice", "--wait", "60", "--json"]) == 0
        thread.join()
        assert json.loads(capsys.readouterr().out)["trainings"] == [
            {"training": "train.unet1 under label 'tiny'", "saved": True, "checkpoint": "step-00000009-aa"}
        ]
        assert heard[-2:] == [SAVE, NOTHING], "it is asked for once"
        assert main(["notice", "--wait", "0.1"]) == 1, "no worker is left that could answer"
        assert "no new checkpoint within 0.1 s" in capsys.readouterr().out
    assert not interrupted.exists() and not rendering.exists()
    assert main(["notice"]) == 0 and "no training is running" in capsys.readouterr().out


def test_the_hook_of_training_pods_is_understood() -> None:
    cluster = yaml.safe_load((ROOT / "infra" / "deploy" / "kubernetes" / "raycluster.yaml").read_text())
    (group,) = [each for each in cluster["spec"]["workerGroupSpecs"] if each["groupName"] == "h100-train"]
    pod = group["template"]["spec"]
    shell, flag, line = pod["containers"][0]["lifecycle"]["preStop"]["exec"]["command"]
    assert (shell, flag) == ("/bin/sh", "-c")
    program, *arguments = shlex.split(line.partition(";")[0])
    options = parser().parse_args(arguments)
    assert program == "mvforge" and options.wait + 20 <= pod["terminationGracePeriodSeconds"]
