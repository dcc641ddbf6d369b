"""A network of its own on one machine: a bridge, and network namespaces as hosts on it, whose cables can be pulled.

Raylets started in the namespaces (`infra.local_nodes`, `prefix=host.prefix, ip=host.ip`) share no loopback and reach each other through
the bridge alone, as machines do. Needs Linux, the `ip` command and the right to make namespaces, which root has outside of most
containers.
"""

import contextlib
import ipaddress
import secrets
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field

from infra.errors import UserError

# Of the block that is set aside for tests between networks (RFC 2544): no real host is hidden by it.
BLOCK = ipaddress.ip_network("198.18.0.0/15")
PREFIX_LENGTH = 24


@dataclass(frozen=True)
class Host:
    """A namespace: `prefix` before a command runs it there, `cable` is the bridge's end of its only connection."""

    name: str
    ip: str
    cable: str

    @property
    def prefix(self) -> list[str]:
        return ["ip", "netns", "exec", self.name]


@dataclass
class LocalNetwork:
    """A bridge with an address of this machine and any number of hosts; leave nothing behind: call `end`.

    Attributes:
        name: of the bridge, and the beginning of all other names.
        ip: this machine's address on the bridge, for the head of a cluster.
    """

    name: str
    subnet: ipaddress.IPv4Network
    hosts: list[Host] = field(default_factory=list)

    @property
    def ip(self) -> str:
        return str(self.subnet[1])

    def add_host(self) -> Host:
        """One more host, connected."""
        number = len(self.hosts) + 1
        host = Host(f"{self.name}n{number}", str(self.subnet[number + 1]), f"{self.name}c{number}")
        _ip("netns", "add", host.name)
        self.hosts.append(host)
        _ip("link", "add", host.cable, "type", "veth", "peer", "name", "eth0", "netns", host.name)
        _ip("link", "set", host.cable, "master", self.name, "up")
        _ip("-n", host.name, "address", "add", f"{host.ip}/{PREFIX_LENGTH}", "dev", "eth0")
        _ip("-n", host.name, "link", "set", "eth0", "up")
        _ip("-n", host.name, "link", "set", "lo", "up")
        return host

    def pull_cable(self, host: Host) -> None:
        """Packets to and from the host vanish without an answer; its processes go on."""
        _ip("link", "set", host.cable, "down")

    def plug_in(self, host: Host) -> None:
        """The cable is back."""
        _ip("link", "set", host.cable, "up")

    def end(self) -> None:
        """Remove hosts and bridge; their processes should have ended."""
        for host in self.hosts:
            with contextlib.suppress(UserError):  # of a host that was made in part
                _ip("link", "delete", host.cable)
            _ip("netns", "delete", host.name)
        self.hosts.clear()
        _ip("link", "delete", self.name)


@contextlib.contextmanager
def local_network() -> Iterator[LocalNetwork]:
    """A network without hosts, removed with all of them at the end of the block.

    Raises:
        UserError: there is no `ip` command, or no right to make namespaces.
    """
    mark = secrets.randbelow(2 ** (PREFIX_LENGTH - BLOCK.prefixlen))
    base = int(BLOCK.network_address) + (mark << (32 - PREFIX_LENGTH))
    network = LocalNetwork(f"mvf{mark:x}", ipaddress.IPv4Network((base, PREFIX_LENGTH)))
    _ip("link", "add", network.name, "type", "bridge")
    try:
        _ip("address", "add", f"{network.ip}/{PREFIX_LENGTH}", "dev", network.name)
        _ip("link", "set", network.name, "up")
        yield network
    finally:
        network.end()


def _ip(*words: str) -> None:
    if shutil.which("ip") is None:
        raise UserError("there is no `ip` command", "install iproute2")
    done = subprocess.run(["ip", *words], capture_output=True, text=True, timeout=30)
    if done.returncode:
        raise UserError(f"`ip {' '.join(words)}` failed: {done.stderr.strip()}", "network namespaces need root, outside of most containers")
