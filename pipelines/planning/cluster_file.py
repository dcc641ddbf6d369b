"""A cluster as a person describes it in a YAML file: groups of equal nodes, rates, prices, how often nodes fail."""

import dataclasses
import difflib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import yaml

from infra.errors import UserError

T = TypeVar("T")
EXAMPLE = "infra/clusters/h100x128.yaml shows every key"


@dataclass(frozen=True, kw_only=True)
class NodeGroup:
    """Equal nodes.

    Attributes:
        name: of the group.
        count: nodes, at least 1.
        cpus: cores a node.
        memory_gb: of a node, 10^9 bytes.
        price_low, price_high: of a node, per hour, in the cluster's currency.
        gpus: a node; 0 for none.
        gpu_kind: for example `H100`; a measured rate is used where the device that it was measured on has this word in its name.
        peak_tflops: dense bf16 rate of one GPU by its data sheet.
        mfu: share of the peak that training reaches, 0 to 1; used where no rate was measured on such a GPU.
        gpu_memory_gb: of one GPU, 10^9 bytes.
        network_gbit: of a node, 10^9 bits per second.
        disk_gb_per_s: writing to a node's local disk.
        cpu_speed: of one core against the machine that the units were measured on; 1 is equal.
    """

    name: str
    count: int
    cpus: int
    memory_gb: float
    price_low: float
    price_high: float
    gpus: int = 0
    gpu_kind: str = ""
    peak_tflops: float = 0.0
    mfu: float = 0.4
    gpu_memory_gb: float = 0.0
    network_gbit: float = 10.0
    disk_gb_per_s: float = 1.0
    cpu_speed: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Faults:
    """How a cluster misbehaves.

    Attributes:
        failures_per_node_hour: mean rate of a node's failures, at random in time.
        restart_s: from a failure in training to the next step: noticing, replacing, loading the checkpoint.
        repair_s: until a failed node takes tasks again.
        step_sigma: spread (of the logarithm) of one rank's time for one step; a step takes as long as its slowest rank.
        task_sigma: spread (of the logarithm) of the time of an object's task.
    """

    failures_per_node_hour: float = 2e-4
    restart_s: float = 300.0
    repair_s: float = 900.0
    step_sigma: float = 0.02
    task_sigma: float = 0.5


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """What a run is planned on.

    Attributes:
        name: of the cluster.
        groups: its nodes.
        currency: of the prices.
        store_gb_per_s: what all nodes together read from or write to the shared store, 10^9 bytes per second.
        internet_gbit: what all nodes together download from outside.
        connection_mb_per_s: what one connection downloads, 10^6 bytes per second.
        host_files_per_s: files a second that the host of the objects gives one address.
        object_mb: mean size of a 3D file that is downloaded.
        faults: see `Faults`.
        assumptions: sentences about where the figures come from; printed with every plan.
    """

    name: str
    groups: tuple[NodeGroup, ...]
    currency: str = "USD"
    store_gb_per_s: float = 1.0
    internet_gbit: float = 1.0
    connection_mb_per_s: float = 20.0
    host_files_per_s: float = 10.0
    object_mb: float = 11.0
    faults: Faults = field(default_factory=Faults)
    assumptions: tuple[str, ...] = ()

    @property
    def gpus(self) -> int:
        return sum(group.count * group.gpus for group in self.groups)

    @property
    def nodes(self) -> int:
        return sum(group.count for group in self.groups)


def read_cluster(path: Path) -> Cluster:
    """The cluster in a YAML file.

    Raises:
        UserError: no such file, no YAML, an unknown or missing key, or a value out of its range; the file and key are named.
    """
    try:
        data = yaml.safe_load(path.read_text())
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}", f"give a cluster file; {EXAMPLE}") from error
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not YAML: {' '.join(str(error).split())}", EXAMPLE) from error
    if not isinstance(data, dict):
        raise UserError(f"{path} holds no cluster", EXAMPLE)
    groups = data.get("groups")
    if not isinstance(groups, list) or not groups:
        raise UserError(f"{path}: 'groups' must list at least one group of nodes", EXAMPLE)
    made = tuple(_made(NodeGroup, group, f"{path}: group {number + 1}") for number, group in enumerate(groups))
    texts = data.get("assumptions") or []
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise UserError(f"{path}: 'assumptions' must be a list of sentences", EXAMPLE)
    faults = _made(Faults, data.get("faults") or {}, f"{path}: faults")
    cluster = _made(Cluster, data | {"groups": made, "faults": faults, "assumptions": tuple(texts)}, str(path))
    _check(cluster, path)
    return cluster


def _made(kind: type[T], data: Any, where: str) -> T:
    """A dataclass from a mapping whose keys and types must fit."""
    if not isinstance(data, dict):
        raise UserError(f"{where} is no mapping of keys to values", EXAMPLE)
    known = {each.name: each for each in dataclasses.fields(kind)}  # type: ignore[arg-type]
    for key, value in data.items():
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1, cutoff=0.0)
            raise UserError(f"{where}: there is no key '{key}'; did you mean '{near[0]}'?", f"the keys are {', '.join(known)}")
        wanted = known[key].type
        if wanted in (int, float, str):
            fits = isinstance(value, (int, float) if wanted is float else wanted) and not isinstance(value, bool)
            if not fits:
                raise UserError(f"{where}: {key} must be {'text' if wanted is str else 'a number'}, not '{value}'", EXAMPLE)
    required = [f.name for f in known.values() if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING]
    missing = [name for name in required if name not in data]
    if missing:
        raise UserError(f"{where}: '{missing[0]}' is missing", f"add it; {EXAMPLE}")
    return kind(**data)


def _check(cluster: Cluster, path: Path) -> None:
    def refuse(what: str, mend: str) -> None:
        raise UserError(f"{path}: {what}", mend)

    rates = ("object_mb", "store_gb_per_s", "internet_gbit", "connection_mb_per_s", "host_files_per_s")
    if min(getattr(cluster, name) for name in rates) <= 0:
        refuse(f"{', '.join(rates)} must be above 0", "give real rates")
    for name, value in dataclasses.asdict(cluster.faults).items():
        if value < 0:
            refuse(f"faults: {name} is {value:g}", "0 or more")
    names = [group.name for group in cluster.groups]
    for group in cluster.groups:
        where = f"group {group.name}"
        if names.count(group.name) > 1:
            refuse(f"two groups are called {group.name}", "give each a name of its own")
        if group.count < 1 or group.cpus < 1 or group.gpus < 0:
            refuse(f"{where}: {group.count} nodes of {group.cpus} CPUs and {group.gpus} GPUs", "at least one node with one CPU")
        if min(group.network_gbit, group.disk_gb_per_s, group.cpu_speed, group.memory_gb) <= 0:
            refuse(f"{where}: a rate or size is not above 0", "check network_gbit, disk_gb_per_s, cpu_speed, memory_gb")
        if not 0 <= group.price_low <= group.price_high:
            refuse(f"{where}: price_low {group.price_low:g}, price_high {group.price_high:g}", "0 <= price_low <= price_high")
        if group.gpus and not (group.peak_tflops > 0 and 0 < group.mfu <= 1 and group.gpu_memory_gb > 0 and group.gpu_kind):
            refuse(f"{where} has GPUs without gpu_kind, peak_tflops, gpu_memory_gb, or with an mfu outside 0..1", "give all four")
