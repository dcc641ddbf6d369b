"""What a label has cost until now: hours that its steps ran, times the price of the nodes that they fill."""

from collections.abc import Iterable
from dataclasses import dataclass

from infra.job import Resources
from pipelines.planning.cluster_file import Cluster
from pipelines.planning.placing import place

ASSUMPTIONS = (
    "a step is paid for the whole nodes that its workers fill, while it runs",
    "the last attempt of every build counts: time of interrupted and replaced attempts, idle nodes and the head are not in it",
    "builds reused from other labels were paid there",
    "prices are those of the cluster file; storage and network traffic have none",
)


@dataclass(frozen=True)
class Spent:
    """Time that one step of this label ran: of its finished build, and of the attempt in progress."""

    step: str
    resources: Resources
    seconds: float


@dataclass(frozen=True)
class Cost:
    """Of all steps together.

    Attributes:
        low, high: in `currency`.
        node_hours: sum over the steps of hours times nodes.
        by_step: node hours, low and high of the steps that ran.
    """

    currency: str
    low: float
    high: float
    node_hours: float
    by_step: dict[str, tuple[float, float, float]]

    def __str__(self) -> str:
        amount = f"{self.low:,.2f}" if self.low == self.high else f"{self.low:,.2f} to {self.high:,.2f}"
        return f"{amount} {self.currency} for {self.node_hours:,.2f} node hours"


def cost_so_far(spent: Iterable[Spent], cluster: Cluster) -> Cost:
    """The cost on this cluster.

    Raises:
        UserError: a step that ran fits on no node of it.
    """
    by_step = {}
    for each in spent:
        if each.seconds > 0:
            used, hours = place(each.step, each.resources, cluster), each.seconds / 3600
            by_step[each.step] = (used.nodes * hours, used.price("low") * hours, used.price("high") * hours)
    nodes, low, high = (sum(figures[i] for figures in by_step.values()) for i in range(3))
    return Cost(cluster.currency, low, high, nodes, by_step)
