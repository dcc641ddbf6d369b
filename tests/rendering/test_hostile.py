"""Files and child processes that mean harm: nothing outside is seen, nobody hangs, every object ends with views or a reason."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest
import trimesh
from PIL import Image

from rendering import blender, blender_child, staging
from rendering.blender import BlenderLimits, BlenderWorker, Rendered, RenderFailure, RenderRequest
from rendering.cameras import orbit
from rendering.preflight import inspect
from rendering.rigs import RigViews
from rendering.sources.base import FetchError
from rendering.view_set import TARGET
from tests.rendering import glbs, mutants
from tests.rendering.broken_glb import TRIANGLE, triangle_at
from tests.rendering.test_preflight_fuzz import SMALL, seeds

pytestmark = pytest.mark.blender
ROOT = Path(__file__).resolve().parents[2]
CANARY = (40, 255, 10)  # magenta would be what Blender shows for a missing picture
UNLIT = glbs.each_material(KHR_materials_unlit={})


def request(mesh: Path, views: int = 2) -> RenderRequest:
    angles = np.arange(views) * 100.0, np.full(views, 15.0), np.full(views, 1.5)
    rig = RigViews("test", orbit(*angles, 60.0), (TARGET,) * views, *angles)
    return RenderRequest(mesh.stem, mesh, rig, resolution=32, samples=1, denoise="none")


def shows_canary(result: Rendered | RenderFailure) -> bool:
    if isinstance(result, RenderFailure):
        return False
    near = np.abs(result.views.rgba[..., :3].astype(int) - CANARY).max(-1) < 30
    return bool((near & (result.views.rgba[..., 3] > 128)).any())


# How a file may try to name a picture outside its folder `asset/`; {root} is the absolute path of the folder above.
PATHS = {
    "inside": "inside.png",  # the control: this one may be seen
    "absolute": "{root}/canary.png",
    "up": "../canary.png",
    "up from a folder": "sub/../../canary.png",
    "encoded": "%2e%2e/canary.png",
    "encoded slash": "..%2fcanary.png",
    "encoded absolute": "%2f{root}/canary.png",
    "backslashes": "..\\canary.png",
    "data without base64": "data:/../../canary.png",
    "data with a path": "data:../../asset/../canary.png",
    "link": "link.png",
    "link to a folder": "door/canary.png",
    "proc": "/proc/self/root{root}/canary.png",
    "proc of the parent": "/proc/{parent}/root{root}/canary.png",
    "file": "file://{root}/canary.png",
}


@pytest.fixture
def asset(tmp_path) -> Callable[[str], Path]:
    """Writes a textured box whose picture is at one of `PATHS`."""
    folder = tmp_path / "asset"
    (folder / "sub").mkdir(parents=True)
    Image.new("RGB", (16, 16), CANARY).save(tmp_path / "canary.png")
    shutil.copy(tmp_path / "canary.png", folder / "inside.png")
    (folder / "link.png").symlink_to(tmp_path / "canary.png")
    (folder / "door").symlink_to(tmp_path)

    def write(name: str) -> Path:
        def edit(document: dict) -> None:
            UNLIT(document)
            document["images"] = [{"uri": PATHS[name].format(root=tmp_path, parent=os.getpid())}]

        return glbs.write(folder / f"{name.replace(' ', '_')}.glb", glbs.textured_box(Image.new("RGB", (4, 4))), edit=edit)

    return write


def bare_copy(mesh: Path, folder: Path, *_: object) -> Path:
    """Instead of `stage`: the file alone, unchecked."""
    return Path(shutil.copy(mesh, folder / "x.glb"))


def in_place(mesh: Path, folder: Path, *_: object) -> Path:
    """Instead of `stage`: no copy and no check, the child is given the stranger's own folder."""
    return mesh


def test_a_canary_outside_the_folder_is_never_seen(asset, monkeypatch):
    files = {name: asset(name) for name in PATHS}
    outside = [name for name in PATHS if name != "inside"]
    with BlenderWorker() as worker:
        assert shows_canary(worker.render(request(files["inside"])))
        results = {name: worker.render(request(files[name])) for name in outside}
        assert {name for name, result in results.items() if not isinstance(result, RenderFailure)} == set()
        assert {result.reason for result in results.values()} == {"unsafe_uri", "bad_data_uri"}
        confined = worker.sandbox.startswith("landlock on")
        # Were preflight to miss it: the copy has no neighbours, and Landlock lets nothing else be read.
        monkeypatch.setattr(blender, "stage", bare_copy)
        unchecked = {name for name in outside if shows_canary(worker.render(request(files[name])))}
        assert unchecked - ({"absolute", "proc", "proc of the parent", "encoded absolute"} if not confined else set()) == set()
        monkeypatch.setattr(blender, "stage", in_place)
        assert not confined or not {name for name in PATHS if shows_canary(worker.render(request(files[name])))}


def test_without_any_of_this_the_canary_is_seen(asset, monkeypatch):
    """Else the test above would show nothing."""
    monkeypatch.setattr(blender, "stage", in_place)
    with BlenderWorker(BlenderLimits(sandbox="off")) as worker:
        names = ("absolute", "up", "up from a folder", "encoded", "encoded slash", "backslashes", "link", "link to a folder", "proc")
        assert {name for name in names if not shows_canary(worker.render(request(asset(name))))} == set()


def whole_calls(trace: str) -> Iterator[tuple[str, str]]:
    """(thread, call) of a trace, calls that other threads interrupted put together again."""
    begun: dict[str, str] = {}
    for line in trace.splitlines():
        pid, call = line.split(None, 1)
        if call.endswith(" <unfinished ...>"):
            begun[pid] = call.removesuffix(" <unfinished ...>")
        elif rest := re.match(r"<\.\.\. \w+ resumed>(.*)", call):
            yield pid, begun.pop(pid, "") + rest[1]
        else:
            yield pid, call


def test_no_open_outside_succeeds_under_a_tracer(asset, tmp_path):
    """The files are given to the child unchecked and in place; every path that it then manages to open is looked at."""
    strace = shutil.which("strace")
    if strace is None or subprocess.run([strace, "-o", os.devnull, "true"], capture_output=True).returncode:
        pytest.skip("there is no strace, or this system forbids it")
    files = [str(asset(name)) for name in ("inside", "absolute", "up", "link", "proc")]
    script = (
        "import sys; from pathlib import Path; from rendering import blender; from tests.rendering.test_hostile import *\n"
        "with BlenderWorker() as worker:\n"
        "    for blender.stage in (in_place, bare_copy):\n"
        f"        for file in {files!r}: worker.render(request(Path(file)))\n"
        "    print(worker.sandbox, worker._scratch.root, sep='|')\n"
    )
    calls = "trace=open,openat,openat2,execve,clone,landlock_restrict_self,connect,socket"
    traced = subprocess.run(
        [strace, "-f", "-qq", "-y", "-s", "200", "-e", calls, "-o", str(tmp_path / "calls"), sys.executable, "-c", script],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=120,
    )
    assert traced.returncode == 0, traced.stderr
    sandbox, scratch = traced.stdout.strip().splitlines()[-1].split("|")
    if not sandbox.startswith("landlock on"):
        pytest.skip(f"this system forbids it: {sandbox}")
    confined, opened, refused = set(), set(), set()
    for pid, call in whole_calls((tmp_path / "calls").read_text()):
        if call.startswith("landlock_restrict_self(") and call.endswith("= 0"):
            confined.add(pid)
        elif pid in confined and (thread := re.match(r"clone\(.*= (\d+)", call)):
            confined.add(thread[1])
        elif pid in confined and (done := re.match(r"open\w*\(.*?\"([^\"]*)\".* = (\d+<(.*)>|-1 E\w+)", call)):
            opened.add(done[3]) if done[3] else refused.add(done[1])
        assert pid not in confined or not re.match(r"(execve|connect|socket)\(.*= \d", call), call
    roots = (scratch, sys.prefix, sys.base_prefix, "/lib", "/usr/lib", "/usr/local/lib", "/etc/", "/proc/", "/sys/", "/dev/", "/usr/share/")
    roots += (str(blender_child.SCRIPT), str(blender_child.DEVELOP))
    assert len(confined) > 1 and len(opened) > 50
    assert {path for path in opened if not path.startswith(roots)} == set()
    assert {path for path in opened if (process := re.match(r"/proc/(\d+)/", path)) and process[1] not in confined} == set()
    assert {files[0], str(tmp_path / "canary.png")} <= refused  # it was tried


def test_the_child_knows_no_secret(tmp_path, monkeypatch):
    for name in ("AWS_SECRET_ACCESS_KEY", "HF_TOKEN", "MLFLOW_TRACKING_URI", "LD_PRELOAD_EXTRA", "PATHS", "MY_PATH"):
        monkeypatch.setenv(name, "canary-secret")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    with BlenderWorker() as worker:
        assert isinstance(worker.render(request(glbs.toy(tmp_path / "toy.glb", 1))), Rendered)
        environment = Path(f"/proc/{worker.pid}/environ").read_bytes().split(b"\0")
    assert not any(b"canary-secret" in entry for entry in environment)
    assert b"CUDA_VISIBLE_DEVICES=0" in environment and f"HOME={worker._scratch.home}".encode() in environment


def test_what_was_checked_is_what_is_rendered(tmp_path, monkeypatch):
    """The stranger's file is exchanged in the moment after its check."""
    mesh = glbs.toy(tmp_path / "toy.glb", 1)
    with BlenderWorker() as worker:
        before = worker.render(request(mesh))

        def exchanged(*arguments):
            copy = staging.stage(*arguments)
            mesh.write_bytes(b"something else")
            return copy

        monkeypatch.setattr(blender, "stage", exchanged)
        after = worker.render(request(mesh))
        assert isinstance(before, Rendered) and isinstance(after, Rendered)
        np.testing.assert_array_equal(before.views.rgba, after.views.rgba)
        assert worker.render(request(mesh)).reason == "bad_header"


NAMES = ("$(touch canary)", "`touch canary`; touch canary", "a' \"b\n\t", "-P x.py", "{}%s%n", "\udcff", "\u202e")


def test_names_of_files_are_never_code(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    toy = glbs.toy(tmp_path / "toy.glb", 1)
    with BlenderWorker() as worker:
        for name in NAMES:
            folder = tmp_path / name
            folder.mkdir()
            (folder / f"{name}.gltf").write_text(json.dumps(triangle_at(quote("part " + name, errors="surrogateescape"))))
            (folder / f"part {name}").write_bytes(TRIANGLE)
            result = worker.render(request(folder / f"{name}.gltf"))
            if any(ord(letter) < 32 or letter in '"\udcff' for letter in name):
                assert isinstance(result, RenderFailure) and result.reason in ("unsafe_uri", "missing_resource")
            else:
                assert isinstance(result, Rendered), result
            shutil.copy(toy, folder / f"{name}.glb")
            assert isinstance(worker.render(request(folder / f"{name}.glb")), Rendered)
    assert not list(tmp_path.rglob("canary"))


def test_the_limits_of_the_process_are_set_and_grow_with_its_objects(tmp_path):
    toy = glbs.toy(tmp_path / "toy.glb", 1)
    with BlenderWorker(BlenderLimits(deadline_s=100, cpu_per_deadline=2, output_mb=64, address_space_mb=8192)) as worker:
        soft = []
        for _ in range(2):
            assert isinstance(worker.render(request(toy)), Rendered)
            limits = dict(re.findall(r"^Max ([a-z ]+?)  +(\S+)", Path(f"/proc/{worker.pid}/limits").read_text(), re.MULTILINE))
            soft.append(int(limits["cpu time"]))
            assert (limits["core file size"], limits["open files"]) == ("0", "1024")
            assert (int(limits["file size"]), int(limits["address space"])) == (64 << 20, 8192 << 20)
        assert 200 < soft[0] <= soft[1] < 300


def test_resources_are_copied_with_their_folders_and_nothing_else(assets, tmp_path):
    copy = staging.stage(assets / "milk_truck_external/CesiumMilkTruck.gltf", tmp_path)
    names = sorted(path.name for path in tmp_path.rglob("*"))
    assert names == sorted([copy.name, "CesiumMilkTruck.png", "CesiumMilkTruck0.bin"])
    with BlenderWorker() as worker:
        result = worker.render(request(assets / "milk_truck_external/CesiumMilkTruck.gltf"))
        packed = worker.render(request(assets / "milk_truck.glb"))
        assert not list(worker._scratch.inputs.iterdir()) and not list(worker._scratch.outputs.iterdir())
    assert isinstance(result, Rendered) and isinstance(packed, Rendered)
    assert np.abs(result.views.rgba.astype(int) - packed.views.rgba).mean() < 1


def test_deep_nodes_within_the_limit_render(tmp_path):
    def edit(document: dict) -> None:
        first, roots = len(document["nodes"]), list(document["scenes"][0]["nodes"])
        document["nodes"] += [{"children": [first + number + 1]} for number in range(380)] + [{"children": roots}]
        document["scenes"][0]["nodes"] = [first]

    with BlenderWorker() as worker:
        assert isinstance(worker.render(request(glbs.write(tmp_path / "x.glb", trimesh.creation.box(), edit=edit))), Rendered)


def test_a_damaged_draco_body_is_no_object_with_a_part_missing(assets, tmp_path):
    document, body = mutants.taken_apart((assets / "carbon60_draco.glb").read_bytes())
    start = document["bufferViews"][1].get("byteOffset", 0) + 40
    (tmp_path / "x.glb").write_bytes(mutants.put_together(document, body[:start] + bytes(4000) + body[start + 4000 :]))
    with BlenderWorker() as worker:
        assert worker.render(request(tmp_path / "x.glb")).reason == "bad_draco"
        assert isinstance(worker.render(request(assets / "carbon60_draco.glb")), Rendered)


# Children that have been taken over: what they do once they are asked. `say` writes a line, `ok` is a sound reply.
TAKEN_OVER = {
    "two answers": ("say(ok); say(ok)", "protocol"),
    "an answer to another request": ("say(ok | {'number': 99})", "protocol"),
    "no JSON": ("os.write(reply, b'\\xff\\xfe\\n')", "protocol"),
    "a list": ("say([1])", "protocol"),
    "deep JSON": ("os.write(reply, b'[' * 60000 + b'\\n')", "protocol"),
    "another status": ("say(ok | {'status': 'great'})", "protocol"),
    "no phases": ("say(ok | {'phases': None})", "protocol"),
    "NaN seconds": ("say(ok | {'phases': {'render': float('nan')}})", "protocol"),
    "memory as text": ("say(ok | {'rss_mb': 'little'})", "protocol"),
    "a reason of two lines": ("say(ok | {'status': 'failed', 'reason': 'a\\nb', 'detail': ''})", "protocol"),
    "no detail": ("say(ok | {'status': 'failed', 'reason': 'a'})", "protocol"),
    "no pictures": ("say(ok)", "protocol"),
    "broken pictures": ("open(folder + '/000.png', 'w').write('x'); say(ok)", "protocol"),
    "an endless answer": ("\nwhile True: os.write(reply, b'x' * 65536)", "protocol"),
    "a link for a picture": ("os.symlink('/etc/hostname', folder + '/000.png'); say(ok)", "protocol"),
    "a pipe for a picture": ("os.mkfifo(folder + '/000.png'); say(ok)", "protocol"),
    "much output": ("[open(f'{folder}/{n}', 'wb').write(bytes(1 << 20)) for n in range(20)]; say(ok)", "output_too_large"),
    "much output, no answer": (
        "[open(f'{folder}/{n}', 'wb').write(bytes(1 << 20)) for n in range(20)]; time.sleep(600)",
        "output_too_large",
    ),
    "much memory": ("hoard = bytearray(os.urandom(1 << 20) * 300); time.sleep(600)", "out_of_memory"),
    "no answer": ("time.sleep(600)", "timeout"),
    "a closed pipe": ("os.close(reply); time.sleep(600)", "protocol"),
    "an exit": ("os._exit(7)", "crash:exit-7"),
    "a crash": ("os.abort()", "crash:SIGABRT"),
    "all its CPU seconds": ("resource.setrlimit(resource.RLIMIT_CPU, (1, 60))\nwhile True: pass", "cpu_limit"),
}
CHILD = """
import json, os, resource, sys, time
requests, reply, parent = map(int, sys.argv[1:])
def say(message): os.write(reply, json.dumps(message).encode() + b"\\n")
say({"status": "ready"})
for line in os.fdopen(requests):
    request = json.loads(line)
    folder = request["folder"]
    ok = {"status": "ok", "number": request["number"], "rss_mb": 1.0, "peak_rss_mb": 1.0, "phases": {}, "facts": {}}
    ACTION
"""


@pytest.fixture
def taken_over(tmp_path, monkeypatch) -> Iterator[Callable[..., RenderFailure]]:
    """Renders once with a child that does the given thing; without a sandbox, since that would stop some of them."""
    mesh = glbs.toy(tmp_path / "toy.glb", 1)

    def render(action: str, deadline_s: float = 60.0) -> RenderFailure:
        script = tmp_path / "child.py"
        script.write_text(CHILD.replace("ACTION", action.replace("\n", "\n    ")))
        monkeypatch.setattr(blender_child, "SCRIPT", script)
        monkeypatch.setattr(blender_child, "DYING_S", 1.0)
        limits = BlenderLimits(deadline_s=deadline_s, attempts=1, sandbox="off", output_mb=8, object_rss_mb=200)
        with BlenderWorker(limits) as worker:
            result = worker.render(request(mesh))
            assert worker.pid is None
        assert isinstance(result, RenderFailure)
        return result

    yield render


@pytest.mark.parametrize("name", TAKEN_OVER)
def test_a_child_that_was_taken_over_is_not_believed(taken_over, name):
    action, reason = TAKEN_OVER[name]
    result = taken_over(action, 1.0 if reason == "timeout" else 60.0)
    assert result.reason == reason, result


def test_a_child_that_does_not_read_cannot_hold_its_parent(tmp_path, monkeypatch):
    script = tmp_path / "child.py"
    script.write_text(CHILD.replace("for line in os.fdopen(requests):", "time.sleep(600)\nfor line in []:").replace("ACTION", "pass"))
    monkeypatch.setattr(blender_child, "SCRIPT", script)
    with BlenderWorker(BlenderLimits(deadline_s=0.5, attempts=1)) as worker:
        many = request(glbs.toy(tmp_path / "toy.glb", 1), views=3000)  # more than a pipe holds
        started = time.monotonic()
        assert worker.render(many).reason == "timeout"
        assert time.monotonic() - started < 30


def test_tries_are_counted_and_only_what_may_pass_is_tried_again(tmp_path, monkeypatch):
    mesh = glbs.toy(tmp_path / "toy.glb", 1)
    script = tmp_path / "child.py"
    monkeypatch.setattr(blender_child, "SCRIPT", script)
    for action, attempts in (("os._exit(7)", 3), ("say(ok | {'status': 'failed', 'reason': 'no_mesh', 'detail': 'x'})", 1)):
        script.write_text(CHILD.replace("ACTION", action))
        with BlenderWorker(BlenderLimits(attempts=3, deadline_s=10)) as worker:
            assert worker.render(request(mesh)).attempts == attempts
            (tmp_path / "bad.glb").write_bytes(b"rubbish")
            assert worker.render(request(tmp_path / "bad.glb")).attempts == 1


def test_a_system_that_cannot_confine_is_refused_where_that_is_required(tmp_path, monkeypatch):
    sandbox = tmp_path / "sandbox.py"
    text = blender_child.SANDBOX.read_text().replace("MACHINES.get(platform.machine(), (None, 0))", "(None, 0)")
    sandbox.write_text(text)
    monkeypatch.setattr(blender_child, "SANDBOX", sandbox)
    mesh = glbs.toy(tmp_path / "toy.glb", 1)
    with (
        BlenderWorker(BlenderLimits(sandbox="required")) as worker,
        pytest.raises(blender.UserError, match="seccomp off: .*no list of system calls"),
    ):
        worker.render(request(mesh))
    with BlenderWorker() as worker:
        result = worker.render(request(mesh))
        assert isinstance(result, Rendered) and "seccomp off" in result.views.facts["sandbox"]


def passing_mutants(folder: Path, count: int, first: int) -> Iterator[tuple[str, Path]]:
    """Mutants that preflight lets through, of all kinds in turn."""
    files, kinds, number = seeds(SMALL), sorted(mutants.KINDS), first
    while count:
        number += 1
        kind, data = kinds[number % len(kinds)], files[number // len(kinds) % len(files)]
        changed = mutants.mutant(data, kind, number)
        path = folder / f"mutant{number}.glb"
        path.write_bytes(changed)
        try:
            inspect(path)
        except FetchError:
            continue
        if changed != data:
            count -= 1
            yield f"{kind} {number}", path


def render_mutants(folder: Path, count: int, first: int) -> dict[str, str]:
    """Mutant -> `ok` or its reason. The good object between them must not change by a bit."""
    outcomes = {}
    good = glbs.toy(folder / "good.glb", 1)
    limits = BlenderLimits(deadline_s=30, attempts=1, address_space_mb=8192, object_rss_mb=2048)
    with BlenderWorker(limits) as worker:
        before = worker.render(request(good))
        assert isinstance(before, Rendered)
        for name, path in passing_mutants(folder, count, first):
            started = time.monotonic()
            result = worker.render(request(path))
            assert time.monotonic() - started < limits.deadline_s + 20, name
            assert isinstance(result, Rendered) or (result.reason and result.detail), name
            outcomes[name] = "ok" if isinstance(result, Rendered) else result.reason
            json.dumps(result.views.facts if isinstance(result, Rendered) else result.detail).encode()
            path.unlink()
        after = worker.render(request(good))
        assert isinstance(after, Rendered)
        np.testing.assert_array_equal(before.views.rgba, after.views.rgba)
    return outcomes


def test_mutants_in_blender_end_with_views_or_a_reason(tmp_path):
    outcomes = render_mutants(tmp_path, 25, 0)
    assert len(outcomes) == 25 and "ok" in outcomes.values()


@pytest.mark.long
@pytest.mark.timeout(3000)
def test_many_mutants_in_blender_end_with_views_or_a_reason(tmp_path):
    outcomes = render_mutants(tmp_path, 250, 1000)
    assert len(outcomes) == 250 and len(set(outcomes.values())) > 3
