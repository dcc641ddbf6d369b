"""One independent piece of work per item: as Ray tasks where a cluster is connected, else in this process."""

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import ray

from infra import logs
from infra.job import Job, Resources
from infra.metrics import FAILED
from infra.nodes import Room

Item = TypeVar("Item")
Result = TypeVar("Result")

# An item that ends its worker process this often is given up; a machine short of memory may kill an innocent one once.
MOST_DEATHS = 2
# The cluster takes some seconds to believe that a node is lost, and may send the work there again until then.
AFTER_LOSS_S = 1.0

log = logging.getLogger(__name__)


def fan_out(
    function: Callable[..., Result],
    items: Sequence[Item],
    job: Job,
    description: str,
    outcome: Callable[[Result], tuple[str, str]] | None = None,
    **constants: Any,
) -> Iterator[tuple[Item, Result | Exception]]:
    """Yield `(item, function(item, **constants))` as the work finishes, in any order, showing progress.

    At most `job.resources.workers` items are in work at once. What a call raises, and the death of a worker process
    (after one more try), is yielded in place of the result: what to do about a failed item is the caller's business.
    What was in work on a node that is lost is done again elsewhere, however often, and is nobody's failure.
    `function` must be importable on the workers; items and constants must pickle.

    Args:
        outcome: status and reason of a result, for the metrics; without it they are counted when the step ends.

    Raises:
        UserError: no node is left that could do the work.
    """
    with job.progress(description, len(items)) as progress:
        failed = 0
        for item, result in _outcomes(function, items, job, description, constants):
            failed += isinstance(result, Exception)
            if outcome is not None:
                ended = (FAILED, type(result).__name__) if isinstance(result, Exception) else outcome(result)
                job.meter.items(ended[0], 1, ended[1])
            progress.update(note=f"raised {failed}" if failed else "")
            yield item, result


def _outcomes(
    function: Callable[..., Result], items: Sequence[Item], job: Job, description: str, constants: dict[str, Any]
) -> Iterator[tuple[Item, Result | Exception]]:
    if ray.is_initialized():
        yield from in_tasks(function, items, job.resources, description, job.resources.workers, **constants)
        return
    here = logs.carrying(function)
    for item in items:
        try:
            result: Result | Exception = here(item, 1, **constants)
        except Exception as error:  # handed to the caller, who records it
            result = error
        yield item, result


def in_tasks(
    function: Callable[..., Result], items: Sequence[Item], resources: Resources, description: str, at_once: int, **constants: Any
) -> Iterator[tuple[Item, Result | Exception]]:
    """`fan_out` on a connected cluster without the progress line, with `at_once` items in work at a time."""
    # Ray's own retries would count a lost node like a crash, and run out on a cluster that loses nodes every hour.
    task = ray.remote(num_cpus=resources.cpus, num_gpus=resources.gpus, max_retries=0)(logs.carrying(function))
    waiting = list(reversed(range(len(items))))
    running: dict[ray.ObjectRef, int] = {}
    deaths: Counter[int] = Counter()
    room = Room(description, resources)
    while waiting or running:
        while waiting and len(running) < max(at_once, 1):
            number = waiting.pop()
            running[task.remote(items[number], deaths[number] + 1, **constants)] = number
        done, _ = ray.wait(list(running), num_returns=1, timeout=room.look_s)
        if not done:
            room.check()
            continue
        number = running.pop(done[0])
        try:
            result: Result | Exception = ray.get(done[0])
        except ray.exceptions.RayTaskError as error:
            result = error.cause if isinstance(error.cause, Exception) else error
        except (ray.exceptions.NodeDiedError, ray.exceptions.ObjectLostError) as error:
            log.warning("%s: a node was lost, its work is done again elsewhere: %s", description, str(error).splitlines()[0])
            waiting.append(number)
            time.sleep(AFTER_LOSS_S)
            continue
        except ray.exceptions.RayError as error:
            deaths[number] += 1
            if deaths[number] < MOST_DEATHS:
                waiting.append(number)
                continue
            result = error
        yield items[number], result
