"""Which nodes a step uses: how many of its workers fit, and on what."""

import math
from dataclasses import dataclass

from infra.errors import UserError
from infra.job import Resources
from pipelines.planning.cluster_file import Cluster, NodeGroup


@dataclass(frozen=True)
class Placement:
    """Where a step runs.

    Attributes:
        groups: used node groups with the number of their nodes that are used.
        workers: that run at once; at most as many as the recipe asks for.
        wanted: what the recipe asks for.
        gpus: whether workers have GPUs.
    """

    groups: tuple[tuple[NodeGroup, int], ...]
    workers: int
    wanted: int
    gpus: bool

    @property
    def nodes(self) -> int:
        return sum(count for _, count in self.groups)

    @property
    def slowest_cpu(self) -> float:
        return min(group.cpu_speed for group, _ in self.groups)

    def rate(self, name: str) -> float:
        """Sum over the used nodes of a rate per node."""
        return sum(getattr(group, name) * count for group, count in self.groups)

    def price(self, bound: str) -> float:
        """Of the used nodes per hour; `bound` is `low` or `high`."""
        return sum(getattr(group, f"price_{bound}") * count for group, count in self.groups)


def place(step: str, resources: Resources, cluster: Cluster) -> Placement:
    """Fill node after node: GPU steps use groups with GPUs, others prefer groups without.

    Raises:
        UserError: not one worker fits.
    """
    wants_gpu = resources.gpus > 0
    with_gpus = tuple(group for group in cluster.groups if group.gpus)
    without = tuple(group for group in cluster.groups if not group.gpus)
    candidates = with_gpus if wants_gpu else (without or with_gpus)
    used, left = [], resources.workers
    for group in candidates:
        per_node = slots(group, resources)
        nodes = min(group.count, math.ceil(left / per_node)) if per_node else 0
        if nodes:
            used.append((group, nodes))
            left -= min(left, nodes * per_node)
        if not left:
            break
    if not used:
        raise UserError(
            f"cluster {cluster.name} has no node for one worker of step {step} ({resources.cpus:g} CPUs, {resources.gpus:g} GPUs)",
            f"another cluster file, or --set resources.{step}.gpus=0",
        )
    return Placement(tuple(used), resources.workers - left, resources.workers, wants_gpu)


def slots(group: NodeGroup, resources: Resources) -> int:
    """Workers that fit on one node."""
    by_cpu = math.floor(group.cpus / resources.cpus) if resources.cpus else 10**9
    return min(by_cpu, math.floor(group.gpus / resources.gpus)) if resources.gpus else by_cpu
