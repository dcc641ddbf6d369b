"""One independent piece of work per item: as Ray tasks where a cluster is connected, else in this process."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import ray

from infra.job import Job

Item = TypeVar("Item")
Result = TypeVar("Result")


def fan_out(
    function: Callable[..., Result], items: Sequence[Item], job: Job, description: str, **constants: Any
) -> Iterator[tuple[Item, Result | Exception]]:
    """Yield `(item, function(item, **constants))` as the work finishes, in any order, showing progress.

    At most `job.resources.workers` items are in work at once. What a call raises, and the death of a worker process
    (after one more try), is yielded in place of the result: what to do about a failed item is the caller's business.
    `function` must be importable on the workers; items and constants must pickle.
    """
    with job.progress(description, len(items)) as progress:
        failed = 0
        for item, result in _outcomes(function, items, job, constants):
            failed += isinstance(result, Exception)
            progress.update(note=f"raised {failed}" if failed else "")
            yield item, result


def _outcomes(
    function: Callable[..., Result], items: Sequence[Item], job: Job, constants: dict[str, Any]
) -> Iterator[tuple[Item, Result | Exception]]:
    if not ray.is_initialized():
        for item in items:
            try:
                result: Result | Exception = function(item, **constants)
            except Exception as error:  # handed to the caller, who records it
                result = error
            yield item, result
        return
    task = ray.remote(num_cpus=job.resources.cpus, num_gpus=job.resources.gpus, max_retries=1)(function)
    waiting = list(reversed(items))
    running: dict[ray.ObjectRef, Item] = {}
    while waiting or running:
        while waiting and len(running) < max(job.resources.workers, 1):
            item = waiting.pop()
            running[task.remote(item, **constants)] = item
        done, _ = ray.wait(list(running), num_returns=1)
        item = running.pop(done[0])
        try:
            result = ray.get(done[0])
        except ray.exceptions.RayTaskError as error:
            result = error.cause if isinstance(error.cause, Exception) else error
        except ray.exceptions.RayError as error:
            result = error
        yield item, result
