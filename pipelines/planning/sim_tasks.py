"""Discrete-event simulation of a step of independent tasks on slots of nodes that fail.

Every slot takes the next task when it is free. A failing node takes the tasks in flight on it along; they are done again by
whoever is free, and the node's slots come back after the repair.
"""

import heapq
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class TaskRun:
    """What happened.

    Attributes:
        wall_s: until the last task ended.
        useful_s: slot-seconds of tasks that ended.
        lost_s: slot-seconds of tasks that failures cut off.
        down_s: slot-seconds that repairs took within the run.
        failures: of nodes while a task was in flight on them.
        tasks_again: tasks that were cut off.
        tail_s: from the moment when no task waited any more until the end.
    """

    wall_s: float
    useful_s: float
    lost_s: float
    down_s: float
    failures: int
    tasks_again: int
    tail_s: float


class NodeFailures:
    """Times at which each node fails, exponential and drawn ahead as far as asked for."""

    def __init__(self, nodes: int, per_node_s: float, rng: np.random.Generator) -> None:
        self._rate, self._rng = per_node_s, rng
        self._times: list[list[float]] = [[] for _ in range(nodes)]
        self._seen = [0] * nodes

    def after(self, node: int, now: float) -> float:
        """The first failure of a node after `now`, which never goes back by more than a task; infinite at rate 0."""
        if not self._rate:
            return float("inf")
        times = self._times[node]
        while not times or times[-1] <= now:
            times.append((times[-1] if times else 0.0) + float(self._rng.exponential(1 / self._rate)))
        first = self._seen[node]
        while times[first] <= now:
            first += 1
        self._seen[node] = first
        return times[first]


def run_tasks(
    tasks: int,
    task_s: float,
    slots_of_nodes: list[int],
    rng: np.random.Generator,
    *,
    sigma: float = 0.0,
    failures_per_node_s: float = 0.0,
    repair_s: float = 0.0,
    start_s: float = 0.0,
) -> TaskRun:
    """Simulate.

    Args:
        tasks: at least 1.
        task_s: mean seconds of a task.
        slots_of_nodes: slots of each node.
        sigma: spread of the logarithm of a task's seconds; the mean stays `task_s`.
        failures_per_node_s: mean rate.
        repair_s: until a failed node's slots are back.
        start_s: before a slot's first task.
    """
    lengths = task_s * np.exp(sigma * rng.standard_normal(tasks) - sigma**2 / 2) if sigma else np.full(tasks, task_s)
    fresh = iter(lengths.tolist())
    failures = NodeFailures(len(slots_of_nodes), failures_per_node_s, rng)
    free = [(start_s, node, slot) for node, count in enumerate(slots_of_nodes) for slot in range(count)]
    heapq.heapify(free)
    idle: list[tuple[float, int, int]] = []
    again: list[tuple[float, float]] = []  # when it may start, its seconds
    exhausted, useful, lost, down, last, drained = False, 0.0, 0.0, 0.0, start_s, start_s
    cut: set[tuple[int, float]] = set()
    repeats = 0
    while free:
        now, node, slot = heapq.heappop(free)
        if again and again[0][0] <= now:
            length = heapq.heappop(again)[1]
        elif not exhausted:
            length = next(fresh, -1.0)
            if length < 0:
                exhausted = True
                length = heapq.heappop(again)[1] if again and again[0][0] <= now else -1.0
        else:
            length = -1.0
        if length < 0:
            if again:  # a cut-off task will wait for someone: this slot does
                heapq.heappush(free, (again[0][0], node, slot))
            else:
                idle.append((now, node, slot))
            continue
        drained = max(drained, now)
        fails = failures.after(node, now)
        if fails < now + length:
            lost += fails - now
            down += repair_s
            repeats += 1
            cut.add((node, fails))
            heapq.heappush(again, (fails, length))
            heapq.heappush(free, (fails + repair_s, node, slot))
            while idle:  # those that found nothing to do can take it
                _, other, number = idle.pop()
                heapq.heappush(free, (fails, other, number))
        else:
            useful += length
            last = max(last, now + length)
            heapq.heappush(free, (now + length, node, slot))
    return TaskRun(last, useful, lost, down, len(cut), repeats, last - drained)
