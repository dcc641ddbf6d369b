"""Tasks that a test holds while it kills the node that works on them; imports nothing that a worker would need long for."""

import json
import os
import signal
import time
from pathlib import Path

import ray

from infra.errors import UserError
from infra.fanout import fan_out
from infra.job import Job, Resources


def work(item: str, *, folder: Path) -> str:
    """A task that says which process does it, waits as long as it is held, and ends its process if it is the bad one."""
    with open(folder / f"{item}.log", "a") as log:
        log.write(f"{os.getpid()}\n")
    if item == "bad":
        os.kill(os.getpid(), signal.SIGKILL)
    while (folder / "hold").exists():
        time.sleep(0.05)
    return item.upper()


def work_on_cluster(address: str, folder: Path) -> None:
    """The results by item, and what is said when no node could ever do the work, as JSON in `results`."""
    os.environ["MVFORGE_NODE_PATIENCE_S"] = "1"
    ray.init(address=address, log_to_driver=False, runtime_env={"env_vars": {"PYTHONPATH": os.environ["PYTHONPATH"]}})
    told = {}
    for item, result in fan_out(work, ["a", "bad", "b", "c"], Job(resources=Resources(workers=4)), "tasks", folder=folder):
        told[item] = result if isinstance(result, str) else type(result).__name__
        (folder / f"{item}.told").touch()
    try:
        list(fan_out(work, ["d"], Job(resources=Resources(cpus=64)), "tasks", folder=folder))
    except UserError as error:
        told["nothing left"] = error.message
    (folder / "results").write_text(json.dumps(told))
