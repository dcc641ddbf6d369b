"""What a disturbed run stands on: an MLflow server, a Ray head and a second node, each a real process of its own.

The harness tends them as a cluster's manager would: a server or node that died is started again after a moment. The nodes have
loopback addresses of their own. The head has one logical CPU and the node three, so that most of the work is on the node, which
can be lost; the driver is on the head.
"""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path

from infra.errors import UserError
from pipelines.chaos import processes
from pipelines.chaos.processes import Process

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
# Not 127.0.0.1, which Ray replaces by an address that others can reach.
HEAD_ADDRESS, NODE_ADDRESS = "127.0.0.2", "127.0.0.3"
HEAD_CPUS, NODE_CPUS = 1, 3
OBJECT_STORE_BYTES = 150 << 20
START_S = 240.0
ATTEMPTS = 5
# Workers notice the death of their raylet in a moment.
NOTICE_S = 15.0
STOP_S = 40.0
ASK_AGAIN_S = 10.0
UP = "Ray runtime started."


@dataclass
class Services:
    """The services of one pass.

    Attributes:
        folder: the pass's folder; holds logs and MLflow's files.
        scratch: short path that becomes `TMPDIR` of everything that runs.
        store: where the run's results go.
    """

    folder: Path
    scratch: Path
    store: Path
    ports: dict[str, int] = field(default_factory=dict)
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    start_at: dict[str, float] = field(default_factory=dict)
    starts: dict[str, int] = field(default_factory=dict)
    answered_at: float = 0.0

    @property
    def logs(self) -> Path:
        return self.folder / "logs"

    @property
    def tracking_uri(self) -> str:
        return f"http://127.0.0.1:{self.ports['mlflow']}"

    def environment(self) -> dict[str, str]:
        """What every process of the pass is started with."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("MVFORGE_", "MLFLOW_", "RAY_"))}
        path = os.pathsep.join([str(BIN), os.environ.get("PATH", ""), str(self.folder)])
        return {
            **kept,
            "PATH": path,
            "PYTHONPATH": str(ROOT),
            "SPT_NOENV": "1",
            "TMPDIR": str(self.scratch),
            "MVFORGE_HOME": str(self.folder / "home"),
            "MVFORGE_STORE": str(self.store),
            "MLFLOW_TRACKING_URI": self.tracking_uri,
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            "RAY_ADDRESS": f"{HEAD_ADDRESS}:{self.ports['head']}",
            "RAY_AUTH_MODE": "disabled",
            # Ray runs workers at niceness 15: beside other work they would stand still for minutes.
            "RAY_worker_niceness": "0",
            # A head that is told to end waits for work to move elsewhere, which a head's never does.
            "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "1",
            "OMP_NUM_THREADS": "1",
            "DS_ACCELERATOR": "cpu",
        }

    def start(self) -> None:
        """Start all of them and wait until they answer."""
        for place in (self.logs, self.scratch, self.store, self.folder / "home", self.folder / "mlflow"):
            place.mkdir(parents=True, exist_ok=True)
        self.ports = {"mlflow": free_port(), "head": free_port()}
        self._start_mlflow()
        self.start_cluster()
        self.wait_for("mlflow")

    def start_cluster(self) -> None:
        """A new head on a new port, and the node that joins it. Raises UserError when it does not come up several times."""
        for attempt in range(ATTEMPTS):
            try:
                self._start_cluster()
                return
            except UserError:  # Ray gives up after a minute, which on a busy machine is not always enough
                if attempt == ATTEMPTS - 1:
                    raise
                self.lose_head()

    def _start_cluster(self) -> None:
        self.ports["head"] = free_port()
        self._start_ray(
            "head",
            "--head",
            f"--port={self.ports['head']}",
            "--include-dashboard=false",
            f"--ray-client-server-port={free_port()}",
            f"--temp-dir={self.scratch / 'ray'}",
        )
        self.wait_for("head")
        self._start_node()
        self.wait_for("node")

    def _start_ray(self, name: str, *options: str) -> None:
        address, cpus = (HEAD_ADDRESS, HEAD_CPUS) if name == "head" else (NODE_ADDRESS, NODE_CPUS)
        shared = [f"--node-ip-address={address}", f"--num-cpus={cpus}", f"--object-store-memory={OBJECT_STORE_BYTES}"]
        shared += [f"--dashboard-agent-listen-port={free_port()}", "--disable-usage-stats", "--include-log-monitor=false", "--block"]
        self._start(name, [str(BIN / "ray"), "start", *options, *shared])

    def _start_node(self) -> None:
        self._start_ray("node", f"--address={HEAD_ADDRESS}:{self.ports['head']}")

    def _start_mlflow(self) -> None:
        place = self.folder / "mlflow"
        self._start(
            "mlflow",
            [
                *(str(BIN / "mlflow"), "server", "--host", "127.0.0.1", "--port", str(self.ports["mlflow"]), "--workers", "1"),
                *("--backend-store-uri", f"sqlite:///{place / 'mlflow.db'}", "--artifacts-destination", str(place / "artifacts")),
            ],
            # What a killed server of MLflow leaves is not ours to tidy.
            TMPDIR=str(place),
        )

    def _start(self, name: str, command: list[str], **variables: str) -> None:
        self.starts[name] = self.starts.get(name, 0) + 1
        with open(self.log_of(name), "wb") as stream:
            self.running[name] = subprocess.Popen(
                command,
                cwd=self.folder,
                env=self.environment() | variables,
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
                start_new_session=True,
            )

    def log_of(self, name: str) -> Path:
        return self.logs / f"{name}-{self.starts[name]:02d}.log"

    def is_up(self, name: str) -> bool:
        """It runs and answers."""
        process = self.running.get(name)
        if process is None or process.poll() is not None:
            return False
        if name != "mlflow":
            return UP in self.log_of(name).read_text(errors="replace")
        if time.monotonic() < self.answered_at + ASK_AGAIN_S:
            return True
        with contextlib.suppress(urllib.error.URLError, OSError):
            with urllib.request.urlopen(f"{self.tracking_uri}/health", timeout=5) as answer:
                self.answered_at = time.monotonic()
                return answer.status == 200
        return False

    def wait_for(self, name: str) -> None:
        deadline = time.monotonic() + START_S
        while not self.is_up(name):
            if name not in self.running or self.running[name].poll() is not None or time.monotonic() > deadline:
                raise UserError(f"{name} does not start", f"read {self.log_of(name)}")
            time.sleep(0.2)

    def kill_mlflow(self, down_s: float) -> list[Process]:
        """Kill the whole server; it is started again after `down_s` seconds."""
        return self._kill("mlflow", down_s)

    def _kill(self, name: str, down_s: float) -> list[Process]:
        own = self.running.pop(name)
        self.answered_at = 0.0
        everyone = processes.of_run(str(self.folder))
        victims = [each for each in everyone if each.pid == own.pid] + processes.below(own.pid, everyone)
        for each in victims:
            each.send(signal.SIGKILL)
        own.wait()
        self.start_at[name] = time.monotonic() + down_s
        return victims

    def lose_node(self, raylet: Process, down_s: float) -> list[Process]:
        """Kill the node's raylet, and wait until what it had started has ended by itself; another node joins after `down_s` seconds."""
        victims = processes.below(raylet.pid, processes.of_run(str(self.folder)))
        raylet.send(signal.SIGKILL)
        deadline = time.monotonic() + NOTICE_S
        while any(each.is_alive() for each in victims) and time.monotonic() < deadline:
            time.sleep(0.05)
        self.running.pop("node", None)
        self.start_at["node"] = time.monotonic() + down_s
        return victims

    def lose_head(self) -> list[Process]:
        """All processes but those of MLflow die at once, as when the head's machine is lost with the driver on it, and the node is
        taken down with its cluster; `start_cluster` makes another one."""
        everyone = processes.of_run(str(self.folder))
        mlflow = self.running.get("mlflow")
        spared = {mlflow.pid, *(each.pid for each in processes.below(mlflow.pid, everyone))} if mlflow else set()
        victims = [each for each in everyone if each.pid not in spared]
        for each in victims:
            each.send(signal.SIGKILL)
        for name in ("head", "node"):
            if name in self.running:
                self.running.pop(name).wait()
            self.start_at.pop(name, None)
        return victims

    def has_head(self) -> bool:
        """Whether the head's foreground process runs; it ends when anything that it started does."""
        return "head" in self.running and self.running["head"].poll() is None

    def node_raylet(self) -> Process | None:
        """The raylet of the node (not of the head)."""
        for each in processes.of_run(str(self.folder)):
            if each.kind == "raylet" and f"--node_ip_address={NODE_ADDRESS}" in each.command:
                return each
        return None

    def tend(self) -> None:
        """Start again what is due."""
        for name, start in (("mlflow", self._start_mlflow), ("node", self._start_node)):
            if name in self.start_at and time.monotonic() >= self.start_at[name]:
                del self.start_at[name]
                start()
            elif name in self.running and self.running[name].poll() is not None and name not in self.start_at:
                # It ended by itself, for example a node that the head had given up.
                self.running.pop(name)
                self.start_at[name] = time.monotonic() + 1.0

    def are_up(self) -> bool:
        return not self.start_at and all(self.is_up(name) for name in ("mlflow", "head", "node"))

    def stop(self) -> list[Process]:
        """Stop everything as a person would, node before head; returns processes that still live after `STOP_S` seconds and are
        killed then."""
        self.start_at.clear()
        for name in ("node", "head", "mlflow"):
            process = self.running.pop(name, None)
            if process is not None and process.poll() is None:
                process.terminate()
        deadline = time.monotonic() + STOP_S
        while (left := processes.of_run(str(self.folder))) and time.monotonic() < deadline:
            time.sleep(0.5)
        processes.end_all(str(self.folder))
        return left


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]
