"""`mvforge gc`: what goes, what stays, and that neither a driver at work nor a kill in the middle comes to harm."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pytest

from infra.errors import UserError
from infra.storage import Location
from pipelines import sweep
from pipelines.__main__ import main
from pipelines.artifact import Store
from pipelines.commands.gc_tool import seconds_of
from pipelines.references import Registered
from rendering.render_status import Started
from tests.conftest import ROOT
from tests.pipelines.stores import age, finished, interrupted, orphan, read_by

HOLD = """
import sys, time
from infra.storage import Location
from pipelines.lease import Lease
with Lease(Location(sys.argv[1]), "a test"):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return Store(Location(str(tmp_path / "store")))


def gc(store: Store, capsys, *arguments: str) -> dict:
    status = main(["gc", *arguments, "--store", store.root.uri, "--json"])
    answer = json.loads(capsys.readouterr().out)
    assert status == 0, answer
    return answer


def paths(answer: dict) -> set[str]:
    return {row["path"] for row in answer["items"]}


def files(store: Store) -> dict[str, bytes]:
    root = Path(store.root.uri)
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT)}


def test_a_dry_run_lists_with_bytes_and_changes_nothing(store, capsys):
    finished(store, "catalog", "tiny")
    lost = orphan(store, "catalog", "tiny", files=3)
    age(store.root)
    before = files(store)
    answer = gc(store, capsys)
    assert paths(answer) == {str(lost)} and answer["by_kind"]["build"] == {"items": 1, "files": 3, "bytes": 300}
    assert answer["bytes"] == 300 and not answer["deleted"] and files(store) == before
    assert main(["gc", "--store", store.root.uri]) == 0
    text = capsys.readouterr().out
    assert str(lost) in text and "300 B in 1 items could go" in text and "--delete" in text


def test_delete_takes_what_nothing_refers_to_and_no_more(store, capsys):
    first = finished(store, "catalog", "tiny")
    replaced = orphan(store, "fetch", "tiny")  # read by a current build below, though no record of its own names it
    below = read_by(first)
    finished(store, "render", "tiny", {"meshes": type(below)("fetch", "tiny", replaced.name)})
    goes_on = interrupted(store, "curate", "tiny")
    (goes_on / "kept.parquet").write_bytes(b"half")
    named = orphan(store, "train.unet1", "a")
    finished(store, "train.unet1", "b", config={"weights": f"/elsewhere/train.unet1/a/{named.name}/checkpoint"})
    lost = [orphan(store, "catalog", "tiny"), orphan(store, "render", "other")]
    (store.root / "mlartifacts" / "1" / "20260101T120000-ab12cd" / "x").write_text("MLflow's own")
    (store.root / "catalog" / "tiny" / "notes.txt").write_text("a person's own")
    age(store.root)
    before = files(store)
    answer = gc(store, capsys, "--delete")
    assert paths(answer) == {str(place) for place in lost} and answer["deleted"]
    gone = tuple(str(place).removeprefix(f"{store.root}/") for place in lost)
    assert files(store) == {name: data for name, data in before.items() if not name.startswith(gone)}
    reasons = {row["path"]: row["reason"] for row in answer["kept"]}
    assert reasons == {str(replaced): "read by render under label 'tiny'", str(named): "named in the settings of a current build"}
    assert paths(gc(store, capsys, "--delete")) == set()


def test_age_and_labels_narrow_the_choice(store, capsys):
    lost = {label: orphan(store, "catalog", label) for label in ("tiny", "tiny-3fa2c1", "small")}
    age(store.root, days=3)
    assert paths(gc(store, capsys, "--older-than", "7d")) == set()
    assert paths(gc(store, capsys, "--older-than", "2d")) == {str(place) for place in lost.values()}
    assert paths(gc(store, capsys, "tiny", "--delete")) == {str(lost["tiny"]), str(lost["tiny-3fa2c1"])}
    assert lost["small"].exists() and not lost["tiny"].exists()
    assert main(["gc", "smal", "--store", store.root.uri]) == 2
    assert "did you mean 'small'" in capsys.readouterr().err


@pytest.mark.parametrize("text, seconds", [("7d", 604800), ("90s", 90), ("1.5h", 5400), ("0", 0), ("2w", 1209600)])
def test_ages_are_read(text, seconds):
    assert seconds_of(text) == seconds


@pytest.mark.parametrize("text", ["", "7", "d", "-1d", "1y", "1d2h"])
def test_odd_ages_are_refused(text):
    with pytest.raises(UserError, match="for example 7d"):
        seconds_of(text)


def test_checkpoints_that_no_training_will_use(store, capsys):
    done = finished(store, "train.unet1", "tiny")
    (store.data(done) / "state" / done.build_id / "step-00000010-aa" / "manifest.json").write_text("{}")
    running = interrupted(store, "train.unet2", "tiny")
    state = running / "state" / running.name
    (state / "step-00000010-aa" / "manifest.json").write_text("{}")
    (state / "step-00000020-aa" / "share-00000.json").write_text("{}")
    age(store.root)
    assert paths(gc(store, capsys, "--delete")) == {str(store.data(done) / "state"), str(state / "step-00000020-aa")}
    assert (state / "step-00000010-aa" / "manifest.json").exists() and not (state / "step-00000020-aa").exists()
    assert (store.data(done) / "data-0.bin").exists()


def test_pieces_go_only_where_no_build_can_need_them(store, capsys):
    made = finished(store, "render", "tiny")
    Started("a" * 12, 1, [], 8, 1).write(store.data(made))
    rendered = store.cache("render") / "pieces"
    (rendered / ("a" * 12) / "chair-0011.arrow").write_bytes(b"used")
    (rendered / ("b" * 12) / "chair-0011.arrow").write_bytes(b"of other settings")
    downloads = store.cache("fetch") / "files"
    fetched = finished(store, "fetch", "tiny")
    (store.data(fetched) / "meshes.parquet").write_table(pa.table({"path": [str(downloads / "chair-00112233.glb"), ""]}))
    for name in ("chair-00112233.glb", "table-44556677.glb", ".0123.0.part"):
        (downloads / name).write_bytes(b"glTF")
    finished(store, "score", "tiny")
    scored = store.cache("score") / "pieces"
    for name in ("11.json", "11.bin", "22.bin"):
        (scored / name).write_bytes(b"{}")
    (store.cache("reconstruct") / "pieces" / "33.json").write_bytes(b"{}")  # its labels were all removed by hand
    age(store.root)
    expected = {rendered / ("b" * 12), downloads / "table-44556677.glb", scored / "22.bin", store.cache("reconstruct") / "pieces"}
    assert paths(gc(store, capsys, "--delete")) == {str(place) for place in expected}
    assert (rendered / ("a" * 12) / "chair-0011.arrow").exists() and (downloads / ".0123.0.part").exists()
    assert (scored / "11.bin").exists() and not (scored / "22.bin").exists()


def test_a_rendering_that_names_no_settings_keeps_all_pieces(store, capsys):
    finished(store, "render", "tiny")  # without a start note
    (store.cache("render") / "pieces" / ("b" * 12) / "chair-0011.arrow").write_bytes(b"whose?")
    age(store.root)
    assert paths(gc(store, capsys)) == set()


def test_an_interrupted_fetch_keeps_all_downloads(store, capsys):
    interrupted(store, "fetch", "tiny")
    (store.cache("fetch") / "files" / "chair-00112233.glb").write_bytes(b"glTF")
    age(store.root)
    assert paths(gc(store, capsys)) == set()


def test_temporary_files_of_killed_writers(store, capsys):
    made = finished(store, "catalog", "tiny")
    left = [
        store.data(made) / f".{'0' * 32}.tmp",
        store.cache("catalog") / "pieces" / f".{'1' * 32}.tmp",
        store.root / f".probe-{'2' * 32}",
    ]
    for place in left:
        place.write_bytes(b"half")
    (store.data(made) / ".kept").write_bytes(b"not ours")
    age(store.root)
    fresh = store.data(made) / f".{'3' * 32}.tmp"
    fresh.write_bytes(b"of a writer at work")
    assert paths(gc(store, capsys, "--delete", "--older-than", "0")) == {str(place) for place in left}
    assert fresh.exists() and (store.data(made) / ".kept").exists() and not any(place.exists() for place in left)


def test_what_the_model_registry_needs_stays(store):
    by_source, by_build, lost = (orphan(store, "register", label) for label in ("a", "b", "c"))
    age(store.root)
    asked = []

    def ask() -> list[Registered]:
        asked.append(1)
        return [Registered("models:/m/1", f"file://{by_source}/model", ""), Registered("models:/m/2", "/elsewhere", by_build.name)]

    done = sweep.sweep(store, sweep.Choice(older_than_s=0), ask, print)
    assert [item.place for item in done.deleted] == [lost] and asked
    assert {kept.reason for kept in done.kept} == {"registered as models:/m/1", "registered as models:/m/2"}
    assert by_source.exists() and by_build.exists()


def test_a_registry_that_does_not_answer_stops_it(store, capsys, monkeypatch):
    lost = orphan(store, "register", "a")
    age(store.root)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    assert main(["gc", "--delete", "--store", store.root.uri]) == 2
    assert "127.0.0.1:9" in capsys.readouterr().err and lost.exists()


@pytest.mark.parametrize("content", ['{"schema": 2, "step": "catalog"}', "{", "[]"])
def test_an_unreadable_record_stops_it(store, capsys, content):
    lost = orphan(store, "catalog", "tiny")
    (store.folder("fetch", "tiny") / "record.json").write_text(content)
    age(store.root)
    assert main(["gc", "--delete", "--store", store.root.uri]) == 2
    assert "record.json" in capsys.readouterr().err and lost.exists()


def test_a_living_process_keeps_what_it_holds_and_may_read(store, capsys):
    finished(store, "catalog", "tiny")
    lost = orphan(store, "catalog", "tiny")
    held = interrupted(store, "score", "tiny")
    half = held / f".{'0' * 32}.tmp"
    half.write_bytes(b"being written")
    (store.cache("score") / "pieces" / "22.bin").write_bytes(b"its row follows")
    age(store.root)
    lease = store.folder("score", "tiny") / "lease.json"
    with subprocess.Popen([sys.executable, "-c", HOLD, str(lease)], stdout=subprocess.PIPE, env=environment(), text=True) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        before = files(store)
        answer = gc(store, capsys, "--delete", "--older-than", "0")
        after = files(store)
        holder.kill()
    del before["score/tiny/lease.json"], after["score/tiny/lease.json"]  # its heartbeat
    assert answer["items"] == [] and after == before
    assert {row["path"] for row in answer["kept"]} == {str(lost), str(half), str(store.cache("score") / "pieces" / "22.bin")}
    assert all(f"process {holder.pid} on" in row["reason"] for row in answer["kept"])
    # The holder is dead now, its lease file is still there.
    assert lease.exists()
    assert paths(gc(store, capsys, "--delete", "--older-than", "0")) == {row["path"] for row in answer["kept"]}


def test_killed_in_the_middle_nothing_is_harmed_and_the_next_one_ends_it(store, capsys):
    kept = finished(store, "catalog", "tiny", files=3)
    finished(store, "fetch", "tiny", {"catalog": read_by(kept)})
    for label in ("tiny", "other"):
        orphan(store, "catalog", label, files=1500)
    age(store.root)
    root = Path(store.root.uri)
    whole = {
        name: data for name, data in files(store).items() if kept.build_id in name or name.startswith("fetch") or "record.json" in name
    }
    arguments = ["gc", "--delete", "--older-than", "0", "--store", store.root.uri]
    process = subprocess.Popen([sys.executable, "-m", "pipelines", *arguments], env=environment(), stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not any(root.glob("catalog/*/.*.tmp")) and time.monotonic() < deadline:
        assert process.poll() is None, "it was over before it could be killed"
    process.kill()
    assert process.wait() == -signal.SIGKILL, "it was over before it could be killed"
    now = files(store)
    assert {name: now.get(name) for name in whole} == whole and len(now) > len(whole) + 1
    assert store.record("catalog", "tiny") == kept
    gc(store, capsys, "--delete", "--older-than", "0")
    assert files(store) == whole
    assert gc(store, capsys, "--older-than", "0")["items"] == []


def test_what_cannot_be_deleted_is_named_and_the_rest_goes(store, capsys):
    lost = orphan(store, "catalog", "a")
    link = Path(orphan(store, "catalog", "b").uri)
    target = link.rename(link.parent / "elsewhere")
    link.symlink_to(target)
    age(store.root)
    status = main(["gc", "--delete", "--older-than", "0", "--store", store.root.uri, "--json"])
    answer = json.loads(capsys.readouterr().out)
    assert not lost.exists() and (target / "data-0.bin").exists()
    assert status == 1 and [row["path"] for row in answer["failed"]] == [str(link)]
