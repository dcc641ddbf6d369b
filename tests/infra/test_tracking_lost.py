"""A tracking server that is killed, stands still, or loses answers while work goes on: everything arrives, once."""

import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from infra import tracking
from infra.errors import UserError
from infra.storage import Location
from infra.tracking import patience
from infra.tracking.journal import Call, Journal, read_journal
from pipelines import buffered
from pipelines.artifact import Store
from pipelines.runner import Plan
from pipelines.runner import run as run_steps
from pipelines.track import PipelineTracking
from tests.conftest import ROOT
from tests.infra.mlflow_server import Line, Server
from tests.infra.test_tracking import register
from tests.pipelines.test_runner import graph

SENT_S = 120.0
DRIVER = """
import sys, time
from pathlib import Path
from infra import tracking
uri, root = sys.argv[1:]
with tracking.sending(uri, Path(root), lambda text: print(text, flush=True)) as box:
    run = tracking.open_run(uri, "drivers", "killed driver")
    assert box.flush(60)
    print("opened", run.run_id, flush=True)
    sys.stdin.readline()
    for step in range(5):
        run.metrics({"loss": 1 / (step + 1)}, step)
    child = tracking.open_run(uri, "drivers", "child", parent_run_id=run.run_id)
    child.params({"a": {"b": 1}})
    child.artifact("notes/last.txt", b"written before the end")
    print("noted", flush=True)
    time.sleep(600)
"""


@pytest.fixture(scope="module")
def server(empty_tracking_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("server")
    shutil.copy(empty_tracking_store, folder / "mlflow.db")
    server = Server(folder)
    server.start()
    yield server
    server.kill()


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")


@pytest.fixture
def line(server: Server) -> Iterator[Line]:
    line = Line(server)
    yield line
    line.close()


@pytest.fixture
def generator(tmp_path: Path) -> Path:
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "model.txt").write_text("numbers")
    return tmp_path / "weights"


def history(uri: str, run_id: str, metric: str = "loss") -> list[tuple[int, float]]:
    return sorted((m.step, m.value) for m in tracking.client_of(uri).get_metric_history(run_id, metric))


def runs_named(uri: str, experiment: str, name: str) -> list:
    client = tracking.client_of(uri)
    found = client.get_experiment_by_name(experiment)
    return [run for run in client.search_runs([found.experiment_id]) if run.info.run_name == name]


def text_of(uri: str, run_id: str, name: str) -> bytes | None:
    return tracking.read_artifact(uri, run_id, name)


def test_work_goes_on_while_the_server_is_dead_and_all_of_it_arrives_once(server: Server, tmp_path: Path) -> None:
    """Two drivers track; the server is killed, one driver too; steps go on, are recorded, and a restart brings everything."""
    uri, root, said = server.uri, tmp_path / "store" / "_tracking", []
    driver = subprocess.Popen(
        [sys.executable, "-c", DRIVER, uri, str(root)], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert driver.stdin is not None and driver.stdout is not None
    store = Store(Location(str(tmp_path / "store")))
    opened = driver.stdout.readline().split()
    assert opened[0] == "opened"

    with tracking.sending(uri, root, said.append) as box:
        assert box is not None
        run = tracking.open_run(uri, "here", "a run")
        for step in range(3):
            run.metrics({"loss": float(step)}, step)
        assert box.flush(SENT_S) and history(uri, run.run_id) == [(0, 0.0), (1, 1.0), (2, 2.0)]

        server.kill()
        driver.stdin.write("go on\n")
        driver.stdin.flush()
        heard = iter(driver.stdout.readline, "")
        assert any("noted" in each for each in heard)
        driver.kill()
        driver.wait()

        for step in range(3, 6):
            run.metrics({"loss": float(step)}, step)
        tracker = PipelineTracking(uri, "buffered pipeline", {"recipe": "toy"}, {"mvforge.label": "x"})
        outcome = run_steps(graph(), "x", store, Plan(), tracker)
        tracker.end("FINISHED")
        assert outcome.ran == ["items", "total"] and run.buffered > 5
        own = [outcome.records[name].run_id for name in ("items", "total")]
        assert all(each and each.startswith("own-") for each in own)
        assert any("is lost" in each and "work goes on" in each for each in said)
        text = buffered.waiting_text(store.root, uri)
        assert text is None or "calls wait" in text  # None in the first seconds
        assert tracking.waiting(tracking.folder_of(uri, root)).calls > 15  # those of the dead driver too

        server.start()
        assert box.flush(SENT_S)
        assert any("is back" in each for each in said)
        assert history(uri, run.run_id) == [(step, float(step)) for step in range(6)]
        named = buffered.name_runs(store, uri, outcome.records)
    with tracking.sending(uri, root, said.append) as box:  # the next run sends what the killed driver noted
        assert box is not None and box.flush(SENT_S)
    assert any("of an earlier run" in each for each in said)

    # The pipeline that ran without a server: one parent, its steps below it, all closed; the records name the server's runs.
    (parent,) = runs_named(uri, "mvforge", "buffered pipeline")
    assert parent.info.status == "FINISHED" and parent.data.params["recipe"] == "toy"
    for name in ("items", "total"):
        (step,) = runs_named(uri, "mvforge", name)
        assert step.info.status == "FINISHED" and step.data.tags["mlflow.parentRunId"] == parent.info.run_id
        assert named[name].run_id == step.info.run_id == store.record(name, "x").run_id  # type: ignore[union-attr]
    # The driver that was killed.
    assert history(uri, opened[1]) == [(step, 1 / (step + 1)) for step in range(5)]
    (child,) = runs_named(uri, "drivers", "child")
    assert child.data.tags["mlflow.parentRunId"] == opened[1] and child.data.params == {"a.b": "1"}
    assert text_of(uri, child.info.run_id, "notes/last.txt") == b"written before the end"
    assert list(tracking.folder_of(uri, root).iterdir()) == [], "nothing waits any more"


def test_answers_that_are_lost_double_nothing(line: Line, tmp_path: Path) -> None:
    uri = line.uri
    line.lose = [b"runs/create", b"runs/log-batch", b"runs/log-inputs", b"runs/update", b"mlflow-artifacts/artifacts"]
    with tracking.sending(uri, tmp_path, lambda text: None) as box:
        assert box is not None
        run = tracking.open_run(uri, "lossy", "a run")
        run.metrics({"loss": 0.5, "other": 2.0}, 7)
        run.dataset("objects", "d" * 40, context="training", source="/data")
        run.artifact("plots/loss.png", b"picture")
        run.end()
        while not box.flush(SENT_S):
            assert box.waiting
    assert line.lost == 5, line.lose
    (only,) = runs_named(uri, "lossy", "a run")
    assert only.info.run_id == run.run_id or run.run_id.startswith("own-")
    assert history(uri, only.info.run_id) == [(7, 0.5)] and history(uri, only.info.run_id, "other") == [(7, 2.0)]
    assert len(only.inputs.dataset_inputs) == 1 and only.info.status == "FINISHED"
    assert text_of(uri, only.info.run_id, "plots/loss.png") == b"picture"


def test_a_server_that_stands_still_holds_no_one_up(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SIGSTOP: connections are taken and never answered; what was asked meanwhile is done twice by the server when it goes on."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    uri = server.uri
    with tracking.sending(uri, tmp_path, lambda text: None) as box:
        assert box is not None
        run = tracking.open_run(uri, "still", "before")
        run.metrics({"loss": 1.0}, 0)
        assert box.flush(SENT_S)
        server.send(signal.SIGSTOP)
        try:
            run.metrics({"loss": 2.0}, 1)
            late = tracking.open_run(uri, "still", "meanwhile")
            late.metrics({"loss": 3.0}, 0)
            with pytest.raises(UserError, match="cannot be reached"):
                tracking.check(uri)
        finally:
            server.send(signal.SIGCONT)
        while not box.flush(SENT_S):
            assert box.waiting
        assert history(uri, run.run_id) == [(0, 1.0), (1, 2.0)]
        assert history(uri, late.run_id) == [(0, 3.0)]
    assert len(runs_named(uri, "still", "meanwhile")) == 1


def versions_of(uri: str, name: str) -> list[str]:
    return [facts.tags[tracking.BUILD_TAG] for facts in tracking.versions(uri, name)]


def test_a_training_is_registered_once_whatever_answer_is_lost(
    line: Line, tmp_path: Path, generator: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patience, "LONGEST_PAUSE_S", 1.0)
    uri, said = line.uri, []
    with tracking.sending(uri, tmp_path, said.append) as box:
        assert box is not None
        run = tracking.open_run(uri, "registering", "register")
        assert box.flush(SENT_S)
        line.cut = True
        line.lose = [b"logged-models HTTP", b"registered-models/create", b"model-versions/create", b"MLmodel"]
        threading.Timer(1.0, lambda: setattr(line, "cut", False)).start()
        version = register(run, generator, "build-1", name="once")
        assert register(run, generator, "build-1", name="once") == version
    assert line.lost == 4, line.lose
    assert any("waits up to" in each for each in said) and any("answers again" in each for each in said)
    assert versions_of(uri, "once") == ["build-1"]
    experiment = tracking.client_of(uri).get_experiment_by_name("registering").experiment_id
    models = tracking.client_of(uri).search_logged_models([experiment])
    assert len(models) == 1 and str(models[0].status).endswith("READY")
    assert tracking.version_tags(uri, version)["recipe"] == "tiny"
    assert tracking.read_model_file(uri, version, "model.txt") == b"numbers"


def test_a_registration_that_waited_long_enough_says_so_and_goes_on_later(
    line: Line, tmp_path: Path, generator: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = line.uri
    monkeypatch.setenv("MVFORGE_TRACKING_PATIENCE_S", "1")
    with tracking.sending(uri, tmp_path, lambda text: None) as box:
        assert box is not None
        run = tracking.open_run(uri, "registering", "register")
        assert box.flush(SENT_S)
        line.cut = True
        with pytest.raises(UserError, match="has not answered for") as caught:
            register(run, generator, "build-2", name="later")
        assert "run the same command again" in caught.value.mend
        line.cut = False
        register(run, generator, "build-2", name="later")
    assert versions_of(uri, "later") == ["build-2"]


def test_two_versions_of_one_build_become_one(server: Server, tmp_path: Path, generator: Path) -> None:
    """What a server leaves that does a request which was given up, after the one that replaced it."""
    uri = server.uri
    run = tracking.open_run(uri, "registering", "register")
    first = register(run, generator, "build-3", name="overtaken")
    client = tracking.client_of(uri)
    model = tracking.version_facts(uri, first).model_id
    client.create_model_version("overtaken", source=f"models:/{model}", model_id=model, tags={tracking.BUILD_TAG: "build-3"})
    assert len(versions_of(uri, "overtaken")) == 2
    assert register(run, generator, "build-3", name="overtaken") == first
    assert versions_of(uri, "overtaken") == ["build-3"]


def test_a_journal_passes_over_what_was_not_written_to_its_end(tmp_path: Path) -> None:
    journal = Journal.new(tmp_path)
    for number in range(3):
        journal.add(Call(number, 1.0, "metrics", "r", {"rows": [["loss", 0.5, 1, number]]}))
    journal.done(Call(0, 1.0, "metrics", "r", {}), remaining=2)
    with pytest.raises(BlockingIOError):
        Journal(journal.path)  # its owner lives
    journal.close()
    with open(journal.path, "ab") as stream:
        stream.write(b'{"call": {"number": 3, "at": 1.0, "ki')
    assert [call.number for call in read_journal(journal.path)[0]] == [1, 2]
    taken_over = Journal(journal.path)
    taken_over.add(Call(4, 1.0, "artifact", "r", {"name": "x"}), b"bytes")
    taken_over.close()
    calls, _ = read_journal(journal.path)
    assert [call.number for call in calls] == [1, 2, 4]
    assert calls[-1].file is not None and (taken_over.files / calls[-1].file).read_bytes() == b"bytes"


def test_calls_that_can_never_succeed_hold_nothing_up(server: Server, tmp_path: Path) -> None:
    with tracking.sending(server.uri, tmp_path, lambda text: None) as box:
        assert box is not None
        gone = tracking.TrackedRun(server.uri, "0" * 32)
        gone.metrics({"loss": 1.0}, 0)
        run = tracking.open_run(server.uri, "refused", "a run")
        run.metrics({"loss": 2.0}, 0)
        assert box.flush(SENT_S)
        assert history(server.uri, run.run_id) == [(0, 2.0)]
    assert tracking.waiting(tracking.folder_of(server.uri, tmp_path)).refused == 1


def test_nothing_is_begun_with_a_server_that_does_not_answer(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    from pipelines.__main__ import main

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
        patch.setenv("MVFORGE_HOME", str(tmp_path))
        assert main(["run", "smoke"]) == 2
    said = capfd.readouterr().err
    assert "http://127.0.0.1:9 cannot be reached" in said and "mend: start it" in said
    assert list(tmp_path.rglob("*")) == []


def test_the_verb_sends_what_waits(server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from pipelines.__main__ import main

    root = tmp_path / "store" / "_tracking"
    journal = Journal.new(tracking.folder_of(server.uri, root))
    run = tracking.open_run(server.uri, "verb", "a run")
    journal.add(Call(0, 1.0, "metrics", run.run_id, {"rows": [["loss", 0.5, 1000, 3]]}))
    journal.close()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", server.uri)
        assert main(["tracking", "--store", str(tmp_path / "store")]) == 0
        assert "1 calls wait" in capsys.readouterr().out
        assert main(["tracking", "--store", str(tmp_path / "store"), "--send"]) == 0
    assert "nothing waits" in capsys.readouterr().out
    assert history(server.uri, run.run_id) == [(3, 0.5)]
