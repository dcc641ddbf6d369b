"""Several Ray nodes on one machine, each a raylet with processes of its own: to rehearse a cluster, and to lose a node of it.

A node is what `ray start --block` keeps running. `LocalNode.kill` ends it as a power cut would: everything at once, nothing
gets to say goodbye. Nodes may be put behind a command prefix, for example into a network namespace with an address of its own.
"""

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

LOOPBACK = "127.0.0.1"
# Not the loopback's first address, which Ray replaces by one that others can reach.
HEAD_IP = "127.0.0.2"
START_TIMEOUT_S = 240.0
END_TIMEOUT_S = 20.0
# Ray gives a lost node 5 + 5 x 3 s before it believes it. Here nothing but a death keeps a node from answering.
QUICK_NOTICE = {
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_failure_threshold": "3",
    "RAY_prestart_worker_first_driver": "0",  # workers start when they have something to do
}
OBJECT_STORE_BYTES = 200 * 2**20


@dataclass
class LocalNode:
    """One running Ray node; `process` is its `ray start --block`, the parent of its raylet and so of its workers."""

    name: str
    ip: str
    command: Sequence[str]
    process: subprocess.Popen
    log: Path
    killed: bool = False

    @property
    def pid(self) -> int:
        return self.process.pid

    def is_alive(self) -> bool:
        return self.process.poll() is None

    def processes(self) -> list[psutil.Process]:
        """Everything that runs on this node, the `ray start` first; Blender children and training workers included."""
        try:
            root = psutil.Process(self.pid)
            return [root, *root.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def raylet(self) -> psutil.Process:
        """The raylet itself, for who wants to kill or stop only that. Raises LookupError when it is gone."""
        for process in self.processes():
            with contextlib.suppress(psutil.Error):
                if process.name().startswith("raylet"):
                    return process
        raise LookupError(f"node {self.name} has no raylet")

    def kill(self) -> list[psutil.Process]:
        """End the node with all its processes by SIGKILL; returns those that were ended, which are gone by then.

        They are stopped first, parents before children, so that none starts or reports anything in between.
        """
        self.killed = True
        stopped: list[psutil.Process] = []
        while fresh := [process for process in self.processes() if process not in stopped]:
            for process in fresh:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.suspend()
                stopped.append(process)
        for process in stopped:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self.process.wait(END_TIMEOUT_S)
        psutil.wait_procs(stopped, timeout=END_TIMEOUT_S)
        return stopped


@dataclass
class LocalCluster:
    """A head and any number of further nodes; the driver belongs to the head's node. Leave nothing behind: call `end`.

    Attributes:
        address: `host:port`, for RAY_ADDRESS or `ray.init(address=...)`.
        temporary: Ray's session folders and the logs of the nodes; removed at the end if it is `own_folder`.
        environment: what the nodes' processes, and so all workers, see.
    """

    address: str
    head: LocalNode
    temporary: Path
    environment: Mapping[str, str]
    nodes: list[LocalNode] = field(default_factory=list)
    own_folder: bool = True

    def add_node(
        self, cpus: float = 1, gpus: float = 0, name: str | None = None, ip: str | None = None, prefix: Sequence[str] = ()
    ) -> LocalNode:
        """Start one more node and return at once; `settle` waits until it has joined.

        Args:
            ip: the node's own address; another one of the loopback's for each node if not given.
            prefix: a command that runs the node's command, for example `ip netns exec NAME`.
        """
        name, ip = name or f"n{len(self.nodes) + 1}", ip or f"127.0.0.{len(self.nodes) + 3}"
        # A folder of its own: nodes that start in one folder at the same time may choose the same socket.
        arguments = [f"--address={self.address}", f"--temp-dir={self.temporary / name}", *_size(cpus, gpus)]
        self.nodes.append(_started(name, ip, [*prefix, *_ray_start(ip), *arguments], self.temporary, self.environment))
        return self.nodes[-1]

    def alive(self) -> set[str]:
        """Addresses of the nodes that the cluster itself counts as alive, by asking its head."""
        # Ray has no public way to ask a cluster that this process has not joined.
        from ray._raylet import GcsClient  # type: ignore[attr-defined]

        return {node.node_manager_address for node in GcsClient(address=self.address).get_all_node_info().values() if node.state == 0}

    def settle(self, timeout_s: float = START_TIMEOUT_S) -> None:
        """Wait until every node that was started has joined and every one that was killed is believed to be lost.

        What gives up starting on a busy machine is started again.

        Raises:
            TimeoutError: it takes longer.
        """
        deadline = time.monotonic() + timeout_s
        wanted = {self.head.ip, *(node.ip for node in self.nodes if not node.killed)}
        while (found := self.alive()) != wanted:
            if time.monotonic() > deadline:
                logs = "\n".join(node.log.read_text()[-500:] for node in self.nodes if node.ip in wanted - found)
                raise TimeoutError(f"the cluster has the nodes {found} after {timeout_s:.0f} s, not {wanted}\n{logs}")
            self._start_again(wanted - found)
            time.sleep(0.2)

    def _start_again(self, missing: set[str]) -> None:
        """A raylet gives its agents 15 s to start. On a busy machine those that failed are started again one after the other."""
        failed = [number for number, node in enumerate(self.nodes) if node.ip in missing]
        if failed and not any(self.nodes[number].is_alive() for number in failed):
            node = self.nodes[failed[0]]
            self.nodes[failed[0]] = _started(node.name, node.ip, node.command, self.temporary, self.environment)

    def end(self) -> None:
        """End all nodes, the head last, and remove their folder if it was made for them."""
        for node in [*self.nodes, self.head]:
            node.kill()
        if self.own_folder:
            shutil.rmtree(self.temporary, ignore_errors=True)


def start_cluster(
    head_cpus: float = 2,
    nodes: Sequence[float] = (),
    environment: Mapping[str, str] | None = None,
    temporary: Path | None = None,
    ip: str = HEAD_IP,
) -> LocalCluster:
    """A head and one node for each number of logical CPUs in `nodes`, all joined when this returns.

    Args:
        environment: of all processes of the cluster; this process's own, with a quick notice of lost nodes, if not given.
        temporary: parent of Ray's session folder. Keep it short: Unix sockets lie in it, and their paths hold 107 bytes.
        ip: where the head listens.
    """
    seen = {**os.environ, **QUICK_NOTICE} if environment is None else dict(environment)
    seen.setdefault("RAY_AUTH_MODE", "disabled")
    folder = temporary or Path(tempfile.mkdtemp(prefix="mvf-ray-"))
    (port,) = free_ports(1)
    arguments = ["--head", f"--port={port}", "--include-dashboard=false", f"--temp-dir={folder}", *_size(head_cpus, 0)]
    head = _started("head", ip, [*_ray_start(ip), *arguments], folder, seen)
    cluster = LocalCluster(f"{ip}:{port}", head, folder, seen, own_folder=temporary is None)
    try:
        _wait_until_listening(head, ip, port)
        for cpus in nodes:
            cluster.add_node(cpus)
        cluster.settle()
    except BaseException:
        cluster.end()
        raise
    return cluster


@contextlib.contextmanager
def local_cluster(head_cpus: float = 2, nodes: Sequence[float] = (), **options: object) -> Iterator[LocalCluster]:
    """`start_cluster` for a `with` block, at whose end all nodes are ended."""
    cluster = start_cluster(head_cpus, nodes, **options)  # type: ignore[arg-type]
    try:
        yield cluster
    finally:
        cluster.end()


def free_ports(count: int) -> list[int]:
    """TCP ports that are free now, all different."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind((LOOPBACK, 0))
        return [each.getsockname()[1] for each in sockets]


def _ray_start(ip: str) -> list[str]:
    """The command up to what differs. All ports are given: a raylet that waits for its agents to choose theirs gives up on a busy
    machine."""
    names = ("dashboard-agent-listen-port", "dashboard-agent-grpc-port", "runtime-env-agent-port", "metrics-export-port")
    ports = [f"--{name}={port}" for name, port in zip(names, free_ports(len(names)), strict=True)]
    ray = str(Path(sys.executable).parent / "ray")
    return [ray, "start", "--block", "--disable-usage-stats", "--include-log-monitor=false", f"--node-ip-address={ip}", *ports]


def _size(cpus: float, gpus: float) -> list[str]:
    return [f"--num-cpus={cpus:g}", f"--num-gpus={gpus:g}", f"--object-store-memory={OBJECT_STORE_BYTES}"]


def _started(name: str, ip: str, command: Sequence[str], folder: Path, environment: Mapping[str, str]) -> LocalNode:
    """Start a node's command in a session of its own: Ctrl-C in a terminal is for the driver."""
    log = folder / f"{name}.log"
    with open(log, "ab") as stream:
        process = subprocess.Popen(
            list(command), stdout=stream, stderr=stream, stdin=subprocess.DEVNULL, env=dict(environment), start_new_session=True
        )
    return LocalNode(name, ip, command, process, log)


def _wait_until_listening(head: LocalNode, ip: str, port: int) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        if not head.is_alive():
            raise RuntimeError(f"the head ended at once: {head.log.read_text()[-2000:]}")
        with contextlib.suppress(OSError), socket.create_connection((ip, port), timeout=1):
            return
        time.sleep(0.2)
    raise TimeoutError(f"the head did not listen on {ip}:{port} within {START_TIMEOUT_S:.0f} s; see {head.log}")
