"""A process that is through with its collectives exits as what it did, not with an abort."""

import os
import time
from pathlib import Path

import torch.distributed as dist

from tests.training import several
from training.engine import process_group_from_environment

kept = []


class Slow:
    """Lets other threads run while the interpreter is ending."""

    def __del__(self, sleep=time.sleep) -> None:
        sleep(0.5)


def gather_and_exit() -> None:
    """One collective, then out, on one core where gloo's threads run only while this one waits."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    with process_group_from_environment():
        kept.extend([dist.group.WORLD, Slow()])  # torch and DeepSpeed keep the group, too
        dist.barrier()  # starts the threads
        threads = [task.name for task in Path("/proc/self/task").iterdir() if (task / "comm").read_text() == "pt_gloo_runloop\n"]
        assert threads
        for thread in threads:
            os.sched_setscheduler(int(thread), os.SCHED_IDLE, os.sched_param(0))
        dist.all_gather_object([None, None], list(range(10000)))


def test_leaving_right_after_a_collective_is_no_abort(tmp_path: Path) -> None:
    several.finish(several.start(2, tmp_path, gather_and_exit), tmp_path)
