"""What a process in the sandbox can and cannot do, tried by small scripts; no Blender in here."""

import json
import os
import platform
import re
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from rendering import sandbox

TRIES = """
import ctypes, json, mmap, os, resource, signal, socket, subprocess, sys, threading
place = json.loads(sys.argv[1])
def attempt(action):
    try:
        action()
        return "done"
    except OSError as error:
        return type(error).__name__
    except ValueError:
        return "ValueError"
def forked():
    if os.fork() == 0:
        os._exit(0)
def written(path):
    with open(path, "w") as stream:
        stream.write("x")
def threaded():
    thread = threading.Thread(target=lambda: done.append(1)); done = []; thread.start(); thread.join(); assert done
def raised(kind):
    soft, hard = resource.getrlimit(kind)
    resource.setrlimit(kind, (soft - 1, hard))
tries = {
    "tcp": lambda: socket.socket().close(),
    "udp": lambda: socket.socket(type=socket.SOCK_DGRAM).close(),
    "ipv6": lambda: socket.socket(socket.AF_INET6).close(),
    "unix": lambda: socket.socket(socket.AF_UNIX).close(),
    "netlink": lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW).close(),
    "lookup": lambda: socket.getaddrinfo("localhost.invalid", 80),
    "program": lambda: subprocess.run(["/bin/true"]),
    "fork": forked,
    "read canary": lambda: open(place["canary"]).close(),
    "read by /proc": lambda: open("/proc/self/root" + place["canary"]).close(),
    "list outside": lambda: os.listdir(os.path.dirname(place["canary"])),
    "read passwords": lambda: open("/etc/shadow").close(),
    "read environment of parent": lambda: open(f"/proc/{os.getppid()}/environ").close(),
    "write outside": lambda: written(place["canary"] + ".new"),
    "write to input": lambda: written(place["read"] + "/new"),
    "remove input": lambda: os.remove(place["read"] + "/asset"),
    "link out": lambda: os.symlink(place["canary"], place["write"] + "/link"),
    "hard link in": lambda: os.link(place["read"] + "/asset", place["write"] + "/hard"),
    "device": lambda: os.mknod(place["write"] + "/null", 0o20666, os.makedev(1, 3)),
    "mode": lambda: os.chmod(place["read"] + "/asset", 0o777),
    "signal to parent": lambda: os.kill(os.getppid(), 0),
    "raise a limit": lambda: raised(resource.RLIMIT_NOFILE),
    "large file": lambda: open(place["write"] + "/large", "w").truncate(10**6),
    "read input": lambda: open(place["read"] + "/asset").close(),
    "write output": lambda: written(place["write"] + "/new"),
    "remove output": lambda: os.remove(place["write"] + "/new"),
    "folder": lambda: os.mkdir(place["write"] + "/folder"),
    "thread": threaded,
    "signal to itself": lambda: os.kill(os.getpid(), 0),
    "null": lambda: written("/dev/null"),
}
found = {name: attempt(action) for name, action in tries.items()}
found["core"] = resource.getrlimit(resource.RLIMIT_CORE)[0]
if place["calls"]:
    libc = ctypes.CDLL(None, use_errno=True)
    for name, number in place["calls"].items():
        ctypes.set_errno(0)
        result = libc.syscall(number, -1, -1, -1, -1, -1, -1)
        found["call " + name] = ctypes.get_errno() if result == -1 else "done"
os.write(place["out"], json.dumps(found).encode())
"""
ALLOWED = {"read input", "write output", "remove output", "folder", "thread", "signal to itself", "null"}
# Their answer depends on an argument; `test_the_filter_...` covers them.
BY_ARGUMENT = {"clone", "clone3", "kill", "tgkill", "rt_sigqueueinfo", "rt_tgsigqueueinfo", "prlimit64", "socketpair"}


def tried(folder: Path, enforce: bool, gpu: bool = False) -> tuple[dict, dict]:
    """(note, what each try gave) of the script above, run in a sandbox that may read `in` and write `out`."""
    for name in ("in", "out", "secret"):
        (folder / name).mkdir()
    (folder / "in/asset").write_text("asset")
    (folder / "secret/canary").write_text("canary")
    (folder / "in/tries.py").write_text(TRIES)
    column = sandbox.MACHINES[platform.machine()][0]
    calls = {name: numbers[column] for name, numbers in sandbox.CALLS.items() if numbers[column] is not None and name not in BY_ARGUMENT}
    if gpu or not enforce:
        calls = {}  # some of these would really happen
    note_end, note_write = os.pipe()
    place = {"canary": str(folder / "secret/canary"), "read": str(folder / "in"), "write": str(folder / "out"), "calls": calls}
    settings = {
        "enforce": enforce,
        "gpu": gpu,
        "read": [place["read"]],
        "write": [place["write"]],
        "nofile": 64,
        "fsize": 10**5,
        "memory": 0,
    }
    command = [sys.executable, "-P", sandbox.__file__, str(note_write), json.dumps(settings), str(folder / "in/tries.py")]
    with os.fdopen(note_end) as reader:
        done = subprocess.run(
            [*command, json.dumps(place | {"out": note_write})], pass_fds=[note_write], capture_output=True, text=True, timeout=60
        )
        os.close(note_write)
        assert done.returncode == 0, done.stderr
        note, _, found = reader.read().partition("\n")
    return json.loads(note)["note"], json.loads(found)


def test_nothing_but_computing_is_possible(tmp_path):
    note, found = tried(tmp_path, enforce=True)
    if not all(state.startswith("on") for state in note.values()):
        pytest.skip(f"this system forbids a part of it: {note}")
    assert {name: found[name] for name in ALLOWED} == dict.fromkeys(ALLOWED, "done")
    wrong = {name: result for name, result in found.items() if result == "done" and name not in ALLOWED}
    assert not wrong
    assert {result for name, result in found.items() if name.startswith("call ")} == {sandbox.EPERM}
    assert found["core"] == 0
    assert (tmp_path / "in/asset").read_text() == "asset" and not (tmp_path / "out/large").read_bytes().strip(b"\0")


def test_the_same_tries_succeed_outside(tmp_path):
    """Else the test above would show nothing."""
    note, found = tried(tmp_path, enforce=False)
    assert note == {"landlock": "off: not asked for", "seccomp": "off: not asked for"}
    possible = {"tcp", "udp", "unix", "program", "fork", "read canary", "list outside", "write outside", "write to input", "link out"}
    assert {name for name in possible if found[name] != "done"} == set()
    assert found["large file"] == "OSError" and found["core"] == 0  # plain limits hold in any case


def test_with_a_gpu_drivers_may_reach_their_daemon_and_nothing_more(tmp_path):
    note, found = tried(tmp_path, enforce=True, gpu=True)
    if not all(state.startswith("on") for state in note.values()):
        pytest.skip(f"this system forbids a part of it: {note}")
    assert found["unix"] == "done"
    assert {name for name in ("tcp", "udp", "ipv6", "program", "fork", "read canary", "write outside") if found[name] == "done"} == set()


def test_it_needs_nothing_but_the_standard_library():
    imported = re.findall(r"^(?:import|from) (\w+)", Path(sandbox.__file__).read_text(), re.MULTILINE)
    assert len(imported) > 5 and set(imported) <= sys.stdlib_module_names


def run_filter(program: list, architecture: int, number: int, arguments: tuple[int, ...] = ()) -> int:
    """Interprets classic BPF, from the kernel's description of it."""
    data = struct.pack("<IIQ6Q", number, architecture, 0, *(*arguments, *(0,) * (6 - len(arguments))))
    at = accumulator = 0
    while True:
        code, if_true, if_false, constant = program[at]
        at += 1
        if code == 0x20:
            accumulator = struct.unpack_from("<I", data, constant)[0]
        elif code == 0x06:
            return constant
        else:
            holds = {0x15: accumulator == constant, 0x35: accumulator >= constant, 0x45: bool(accumulator & constant)}[code]
            at += if_true if holds else if_false


@pytest.mark.parametrize("machine", sandbox.MACHINES)
def test_the_filter_on_both_machines(machine):
    column, architecture = sandbox.MACHINES[machine]
    calls = {name: numbers[column] for name, numbers in sandbox.CALLS.items() if numbers[column] is not None}
    program = sandbox.seccomp_program(calls, architecture, gpu=False)
    assert len(program) < 4096 and all(0 <= step[1] < 256 and 0 <= step[2] < 256 for step in program)
    allow, deny, absent = 0x7FFF0000, 0x50001, 0x50026

    def answer(name: str, *arguments: int) -> int:
        return run_filter(program, architecture, calls[name], arguments)

    assert {name for name in calls if name not in BY_ARGUMENT and answer(name) != deny} == set()
    taken = set(calls.values())
    assert {number for number in range(500) if number not in taken and run_filter(program, architecture, number) != allow} == set()
    own, vfork, thread = os.getpid(), 0x4111, 0x3D0F00
    assert answer("clone", thread) == allow and answer("clone", vfork) == answer("clone", 17) == deny and answer("clone3") == absent
    for name in ("kill", "tgkill", "rt_sigqueueinfo"):
        assert answer(name, own) == allow and answer(name, own + 1) == answer(name, (1 << 64) - 1) == deny
    assert answer("prlimit64", 0, 7, 0) == allow and answer("prlimit64", 0, 7, 1) == answer("prlimit64", 0, 7, 1 << 32) == deny
    assert answer("socketpair", 1) == allow and answer("socketpair", 2) == deny
    assert run_filter(program, 0x40000003, 20) == deny  # the 32-bit table, where numbers mean other calls
    if machine == "x86_64":
        assert run_filter(program, architecture, 0x40000000 | 41) == deny  # x32


@pytest.mark.parametrize(
    ("machine", "header"),
    [("x86_64", "/usr/include/x86_64-linux-gnu/asm/unistd_64.h"), ("aarch64", "/usr/include/asm-generic/unistd.h")],
)
def test_the_numbers_are_those_of_the_kernel(machine, header):
    if not Path(header).exists():
        pytest.skip(f"{header} is not installed")
    defined = re.findall(r"#define __NR(?:3264)?_(\w+)\s+(\d+)", Path(header).read_text())
    kernel = {name: int(number) for name, number in defined}
    ours = {name: numbers[sandbox.MACHINES[machine][0]] for name, numbers in sandbox.CALLS.items()}
    assert {name: number for name, number in ours.items() if number is not None and kernel.get(name, number) != number} == {}
    assert len(set(kernel) & set(ours)) > 55
    assert {name for name, number in ours.items() if number is None and name in kernel} == set()


def test_without_the_kernels_help_it_runs_on_and_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(sandbox, "limit_resources", lambda *_: None)

    def missing(*_: object) -> int:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(sandbox, "restrict_files", missing)
    monkeypatch.setattr(sandbox, "filter_calls", missing)
    monkeypatch.setattr(sandbox.libc, "prctl", lambda *_: 0)
    settings = {"enforce": True, "gpu": False, "read": [], "write": [], "nofile": 64, "fsize": 1, "memory": 0}
    note = sandbox.enter(settings)
    assert set(note) == {"landlock", "seccomp"} and all(state.startswith("off: ") and "not implemented" in state for state in note.values())
