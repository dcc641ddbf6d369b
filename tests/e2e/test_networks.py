"""Ray nodes in network namespaces, each with an address of its own behind a bridge: one is cut off while it works.

Unlike a node that dies, it never says so: its processes go on, and only silence tells.
"""

import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray

from infra.fanout import fan_out
from infra.job import Job, Resources
from infra.local_network import Host, LocalNetwork, local_network
from infra.local_nodes import LocalCluster, local_cluster
from tests.training import several
from tests.waiting import until

PATIENCE_S = 240.0


def permitted() -> bool:
    """Whether namespaces can be made here, asked without the code under test."""
    if shutil.which("ip") is None or shutil.which("unshare") is None:
        return False
    return subprocess.run(["unshare", "--net", "ip", "link", "add", "mvfprobe", "type", "bridge"], capture_output=True).returncode == 0


pytestmark = [
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(not permitted(), reason="network namespaces cannot be made here: they need root and iproute2"),
]


@pytest.fixture
def network() -> Iterator[LocalNetwork]:
    with local_network() as network:
        yield network


def reaches(host: Host, ip: str, port: int) -> bool:
    """Whether a connection from the host's namespace comes about."""
    dial = f"import socket; socket.create_connection(({ip!r}, {port}), 2)"
    return subprocess.run([*host.prefix, "python3", "-c", dial], capture_output=True).returncode == 0


def test_hosts_see_the_bridge_and_nothing_else_and_nothing_is_left() -> None:
    with (
        local_network() as network,
        socket.create_server((network.ip, 0)) as inside,
        socket.create_server(("127.0.0.1", 0)) as loopback,
    ):
        host = network.add_host()
        port, other = inside.getsockname()[1], loopback.getsockname()[1]
        assert reaches(host, network.ip, port) and not reaches(host, "127.0.0.1", other)
        network.pull_cable(host)
        assert not reaches(host, network.ip, port)
        network.plug_in(host)
        until(lambda: reaches(host, network.ip, port), "the cable is back", 30.0)
    assert network.name not in subprocess.run(["ip", "link"], capture_output=True, text=True).stdout
    assert host.name not in subprocess.run(["ip", "netns"], capture_output=True, text=True).stdout


def work(item: str, *, folder: Path) -> str:
    """A task that notes where it runs and waits as long as it is held."""
    with open(folder / f"{item}.log", "a") as log:
        log.write(ray.util.get_node_ip_address() + "\n")
    while (folder / "hold").exists():
        time.sleep(0.05)
    return item.upper()


def drive(address: str, folder: Path) -> None:
    """Two tasks at once over the cluster; their results go to `results`."""
    ray.init(address=address, log_to_driver=False, runtime_env={"env_vars": {"PYTHONPATH": os.environ["PYTHONPATH"]}})
    results = fan_out(work, ["a", "b"], Job(resources=Resources(workers=2)), "tasks", folder=folder)
    (folder / "results").write_text(json.dumps({item: result if isinstance(result, str) else repr(result) for item, result in results}))


def places(folder: Path, item: str) -> list[str]:
    log = folder / f"{item}.log"
    return log.read_text().split() if log.exists() else []


def test_the_work_of_a_node_that_is_cut_off_is_done_elsewhere(
    network: LocalNetwork, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The deployments set 30 s and 20 s. With Ray's own 300 s and 120 s the driver's call hangs for minutes after the node is called dead.
    monkeypatch.setenv("RAY_grpc_client_keepalive_time_ms", "2000")
    monkeypatch.setenv("RAY_grpc_client_keepalive_timeout_ms", "4000")
    (tmp_path / "hold").touch()
    with local_cluster(0, ip=network.ip) as cluster:
        hosts = [network.add_host(), network.add_host()]
        for host in hosts:
            cluster.add_node(1, ip=host.ip, prefix=host.prefix)
        cluster.settle()
        processes = several.start(1, tmp_path / "logs", drive, cluster.address, tmp_path)
        until(lambda: all(places(tmp_path, item) for item in "ab"), "both nodes work", PATIENCE_S)
        assert {places(tmp_path, item)[0] for item in "ab"} == {host.ip for host in hosts}, "one task on each"
        cut = next(host for host in hosts if host.ip == places(tmp_path, "a")[0])
        network.pull_cable(cut)
        until(lambda: alive_without(cluster, cut), "the cluster has noticed", PATIENCE_S)
        (tmp_path / "hold").unlink()
        several.finish(processes, tmp_path / "logs")
        assert json.loads((tmp_path / "results").read_text()) == {"a": "A", "b": "B"}
        (other,) = (host.ip for host in hosts if host is not cut)
        assert places(tmp_path, "a") == [cut.ip, other] and places(tmp_path, "b") == [other]


def alive_without(cluster: LocalCluster, cut: Host) -> bool:
    return cut.ip not in cluster.alive()
