"""Logs as JSON: what a line holds, and what becomes one; `e2e.test_render_survives` reads those of a real run with failures."""

import json
import logging
import os
import socket
import subprocess
import sys
import threading
import warnings
from datetime import datetime

import pytest

from infra import logs
from pipelines.__main__ import main
from tests.conftest import ROOT


@pytest.fixture
def lines(capsys):
    """What was written to stderr since the last call, as parsed lines; every one must parse."""
    return lambda: [json.loads(line) for line in capsys.readouterr().err.splitlines()]


def test_a_line_says_when_what_where_and_about_what(lines):
    with logs.configured("json"), logs.working_on(step="render", label="tiny", build="20260101T000000-aaaaaa"):
        with logs.about(uid="duck", attempt=2):
            try:
                raise ValueError("no mesh\nin it")
            except ValueError:
                logging.getLogger("rendering.render").exception("cannot render")
        logging.getLogger("rendering.render").info("went on")
    first, second = lines()
    exception = first.pop("exception")
    assert exception.startswith("Traceback") and exception.endswith("ValueError: no mesh\nin it")
    assert datetime.fromisoformat(first.pop("time")).utcoffset().total_seconds() == 0
    shared = {"logger": "rendering.render", "step": "render", "label": "tiny", "build": "20260101T000000-aaaaaa"}
    here = {"node": socket.gethostname(), "pid": os.getpid()}
    assert first == {"level": "error", "message": "cannot render", "uid": "duck", "attempt": 2, **shared, **here}
    assert second["level"] == "info" and "uid" not in second and second["step"] == "render"


def test_whatever_is_printed_becomes_a_line(lines):
    with logs.configured("json"), logs.working_on(step="encode", label="tiny"):
        print("two\nlines", file=sys.stderr)
        print("10%\r20%\r", end="", file=sys.stderr)
        other = threading.Thread(target=lambda: print("from a thread", file=sys.stderr))
        other.start()
        other.join()
        warnings.warn("careful", stacklevel=1)
        print('\x1b[36m(MapBatches(EncodeActor) pid=12, ip=10.0.0.1)\x1b[0m {"message": "of a worker", "uid": "a"}', file=sys.stderr)
        print("(raylet) a worker died", file=sys.stderr)
        print("(not a worker) at all", file=sys.stderr)
    found = lines()
    messages = [line["message"] for line in found]
    for text in ("two", "lines", "10%", "20%", "from a thread", "of a worker", "a worker died", "(not a worker) at all"):
        assert messages.count(text) == 1, text
    assert any("careful" in message for message in messages)
    by_text = {line["message"]: line for line in found}
    assert by_text["of a worker"] == {"message": "of a worker", "uid": "a"}, "a worker's own line passes as it is"
    assert by_text["a worker died"]["source"] == "raylet" and by_text["from a thread"]["step"] == "encode"


NATIVE = """
import ctypes, os, subprocess, sys
from infra import logs
with logs.configured("json"):
    os.write(2, b"[2026-11-22 00:09:20,088 E 14415 15262] core_worker.cc:2465: native\\nno end of line")
    subprocess.run(["sh", "-c", "echo of a child >&2"], check=True)
    ctypes.CDLL(None).perror(b"of the C library")
    print("of Python", file=sys.stderr)
print("plain again", file=sys.stderr)
os.write(2, b"and natively\\n")
"""


def test_lines_of_native_code_and_child_processes_are_caught_too():
    done = subprocess.run([sys.executable, "-c", NATIVE], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    *inside, last, native = done.stderr.splitlines()
    found = {line["message"].split(":")[0]: line["level"] for line in map(json.loads, inside)}
    assert (last, native) == ("plain again", "and natively")
    assert found == {
        "[2026-11-22 00": "error",
        "no end of lineof a child": "info",
        "of the C library": "info",
        "of Python": "info",
    }


def test_people_get_what_they_always_got(capsys):
    with logs.configured(None):
        logs.say("[render] done")
        logs.failed("duck", "no_mesh", "empty")
    assert capsys.readouterr().err == "[render] done\n"


def test_the_environment_decides_where_the_command_says_nothing(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("MVFORGE_LOG_FORMAT", "json")
    arguments = ["status", "tiny", "--store", str(tmp_path), "--set", "no.such=1"]
    assert main(arguments) == 2 and json.loads(capsys.readouterr().err)["level"] == "error"
    assert main([*arguments, "--log-format", "human"]) == 2 and capsys.readouterr().err.splitlines()[-1].startswith("  mend: ")
    monkeypatch.setenv("MVFORGE_LOG_FORMAT", "xml")
    assert main(arguments) == 2 and "MVFORGE_LOG_FORMAT=xml" in capsys.readouterr().err


def test_an_error_in_the_program_is_a_line_too(lines, tmp_path):
    (tmp_path / "render").write_text("a file where a folder belongs")
    assert main(["status", "tiny", "--store", str(tmp_path), "--log-format", "json"]) == 1
    (line,) = lines()
    assert line["level"] == "error" and "Error" in line["exception"] and "status" in line["message"]
