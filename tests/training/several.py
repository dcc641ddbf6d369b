"""Real processes with a process group over loopback, without Ray: started as `torchrun` would, watched and killed by tests."""

import os
import pickle
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from tests.conftest import ROOT

PROGRAM = "import pickle, sys; call, arguments = pickle.load(open(sys.argv[1], 'rb')); call(*arguments)"


def start(world: int, folder: Path, call: Callable, *arguments: object) -> list[subprocess.Popen]:
    """`world` processes that call an importable function, with the environment that `torchrun` sets; logs go below `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    work = folder / "work.pickle"
    work.write_bytes(pickle.dumps((call, arguments)))
    processes = []
    for rank in range(world):
        environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": str(world),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
        }
        with open(folder / f"rank-{rank}.log", "wb") as log:
            command = [sys.executable, "-c", PROGRAM, str(work)]
            processes.append(subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log))
    return processes


def finish(processes: list[subprocess.Popen], folder: Path, timeout_s: float = 240.0) -> None:
    """Wait for all; fails with the end of the logs."""
    try:
        codes = [process.wait(timeout_s) for process in processes]
    finally:
        for process in processes:
            process.kill()
    logs = "\n".join(path.read_text()[-3000:] for path in sorted(folder.glob("rank-*.log")))
    assert not any(codes), f"{codes}\n{logs}"


def torchrun(world: int, folder: Path, call: Callable, *arguments: object) -> subprocess.Popen:
    """`torchrun` itself over `world` processes of an importable function; its log is `folder/torchrun.log`."""
    folder.mkdir(parents=True, exist_ok=True)
    work = folder / "work.pickle"
    work.write_bytes(pickle.dumps((call, arguments)))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={world}", "--no-python"]
    with open(folder / "torchrun.log", "wb") as log:
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        return subprocess.Popen([*command, sys.executable, "-c", PROGRAM, str(work)], cwd=ROOT, env=environment, stdout=log, stderr=log)
