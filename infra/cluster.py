"""The Ray cluster: attach to one or start one, start and stop a local head, check that it can do the work."""

import contextlib
import json
import logging
import os
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import ray

from infra import notice
from infra.errors import UserError
from infra.job import Resources
from infra.processes import start_time
from infra.storage import Location

# Two logical CPUs starve Ray Data's own read and write tasks beside an actor pool.
LOGICAL_CPUS = 4
ROOT = Path(__file__).resolve().parents[1]
START_TIMEOUT_S = 90.0
DASHBOARD_PORT = 8265  # where `ray job submit` looks by itself
STOP_TIMEOUT_S = 6.0
JOB_STOP_S = 40  # more than infra.notice gives a training


def home() -> Path:
    """Where this user's heads, default store and default tracking file live: `$MVFORGE_HOME` or `~/.mvforge`."""
    return Path(os.environ.get("MVFORGE_HOME", "~/.mvforge")).expanduser().absolute()


def is_packaged_job() -> bool:
    """Whether this process is the driver of a Ray job that brought its own working directory."""
    job = json.loads(os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}"))
    return "working_dir" in (job.get("runtime_env") or {})


def attach() -> None:
    """Connect this driver to the cluster it runs in, to a running local head, or to a fresh local cluster.

    Raises:
        UserError: the running head is of another Ray or Python version.
    """
    if ray.is_initialized():
        return
    # Explicit, so that behaviour does not depend on whether an earlier Ray left a token in the home directory.
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    runtime_env: dict = {}
    if not is_packaged_job():
        inside_job = "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ
        # Methods and recipes of others are found on the caller's own PYTHONPATH.
        search = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        runtime_env = {"working_dir": str(ROOT)} if inside_job else {"env_vars": {"PYTHONPATH": search}}
    options: dict = {"runtime_env": runtime_env, "log_to_driver": True, "logging_level": logging.WARNING}
    _quiet_ray_data()
    address = os.environ.get("RAY_ADDRESS") or _own_address()
    try:
        if address:
            ray.init(address=address, **options)
        else:
            ray.init(address="local", num_cpus=LOGICAL_CPUS, include_dashboard=False, **options)
    except RuntimeError as error:
        if "ersion mismatch" in str(error):
            raise UserError(
                f"the running Ray head does not fit this environment: {_first_lines(str(error))}",
                "stop it with the environment that started it, then `make demo` again",
            ) from error
        raise
    notice.listen_again()


def _quiet_ray_data() -> None:
    """Leave progress to the steps: Ray Data's own is twenty lines every ten seconds in a job's log. Its log files stay whole."""
    from ray.data import DataContext  # a second of import that only drivers of steps need

    DataContext.get_current().enable_progress_bars = False
    for handler in logging.getLogger("ray.data").handlers:
        if not isinstance(handler, logging.FileHandler) and "File" not in type(handler).__name__:
            handler.setLevel(logging.WARNING)


def _first_lines(text: str) -> str:
    return " ".join(line.strip() for line in text.splitlines()[:4] if line.strip())


def check_size(resources: dict[str, Resources]) -> None:
    """Refuse a cluster that can never place what the steps ask for. Raises UserError naming the step."""
    have = ray.cluster_resources()
    for step, wanted in resources.items():
        for kind, each in (("CPU", wanted.cpus), ("GPU", wanted.gpus)):
            least = wanted.min_workers or wanted.workers
            if each * least > have.get(kind, 0.0) + 1e-9:
                raise UserError(
                    f"step {step} wants {least} workers with {each:g} {kind} each; the cluster has {have.get(kind, 0.0):g} {kind}",
                    f"add nodes, or ask for less: --set resources.{step}.workers=N (logical CPUs: ray start --num-cpus {LOGICAL_CPUS})",
                )


def check_shared(store: Location, tracking_uri: str) -> None:
    """With several nodes, refuse a store that they do not all see and a tracking store that is one node's file."""
    nodes = [node for node in ray.nodes() if node["Alive"]]
    if len(nodes) < 2:
        return
    if len({node["NodeManagerHostname"] for node in nodes}) > 1 and "://" in tracking_uri and not tracking_uri.startswith("http"):
        raise UserError(
            f"{len(nodes)} nodes cannot share the tracking file {tracking_uri}",
            "start `mlflow server` and set MLFLOW_TRACKING_URI to its address",
        )
    token = store / f".probe-{uuid.uuid4().hex}"
    token.write_text("visible")
    try:
        see = ray.remote(num_cpus=0, max_retries=0)(_sees)
        # By address: names need not differ, and several nodes may be on one machine.
        answers = [
            (
                f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']})",
                see.options(
                    scheduling_strategy=ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
                ).remote(token),
            )
            for node in nodes
        ]
        blind = [name for name, answer in answers if not _answered(answer)]
    finally:
        token.delete()
    if blind:
        raise UserError(
            f"the store {store} is not visible on {', '.join(sorted(blind))}", "use a shared file system or an s3:// URL as the store"
        )


def _answered(answer: "ray.ObjectRef[bool]") -> bool:
    """What a node saw; one that is lost before it answers is no longer asked."""
    try:
        return bool(ray.get(answer))
    except (ray.exceptions.NodeDiedError, ray.exceptions.TaskUnschedulableError):
        return True


def _sees(place: Location) -> bool:
    return place.exists()


@dataclass(frozen=True)
class Head:
    """A head this project started: the pid of its foreground process and where it listens."""

    pid: int
    pid_started: str
    port: int
    dashboard: str
    ray_version: str
    python_version: str

    def is_alive(self) -> bool:
        return bool(self.pid_started) and start_time(self.pid) == self.pid_started


def _state_file() -> Path:
    return home() / "head.json"


def own_head() -> Head | None:
    """The head started by `start_head`, if it still runs."""
    try:
        head = Head(**json.loads(_state_file().read_text()))
    except (OSError, ValueError, TypeError):
        return None
    return head if head.is_alive() else None


def _own_address() -> str | None:
    head = own_head()
    return f"127.0.0.1:{head.port}" if head else None


def versions() -> tuple[str, str]:
    """Ray and Python versions of this environment."""
    return ray.__version__, ".".join(map(str, sys.version_info[:3]))


def refuse_other_versions(head: Head) -> None:
    """Raises UserError when the running head was started from another Ray or Python."""
    here = versions()
    if (head.ray_version, head.python_version) != here:
        raise UserError(
            f"the running head has Ray {head.ray_version} and Python {head.python_version}; this environment has {here[0]} and {here[1]}",
            "run `make down` first, then start again",
        )


def start_head() -> Head:
    """Start a local head in the repository root on free ports, or return the one that runs.

    Bound to the loopback interface without token authentication: anyone with an account on this machine can
    reach it. For shared machines and clusters see docs/architecture.md.
    """
    running = own_head()
    if running is not None:
        refuse_other_versions(running)
        return running
    with _free_ports(0, DASHBOARD_PORT, 0) as (port, dashboard_port, agent_port):
        pass
    logs = home() / "head.log"
    logs.parent.mkdir(parents=True, exist_ok=True)
    environment = {
        **os.environ,
        "RAY_AUTH_MODE": os.environ.get("RAY_AUTH_MODE", "disabled"),
        # A job that is stopped has a training write a checkpoint; after Ray's 3 seconds it would be killed in the middle of it.
        "RAY_JOB_STOP_WAIT_TIME_S": os.environ.get("RAY_JOB_STOP_WAIT_TIME_S", str(JOB_STOP_S)),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
    }
    command = [
        str(Path(sys.executable).parent / "ray"),
        "start",
        "--head",
        "--block",
        f"--port={port}",
        "--node-ip-address=127.0.0.1",
        "--dashboard-host=127.0.0.1",
        f"--dashboard-port={dashboard_port}",
        # Its default is one fixed port: a second Ray on the machine would then have no agent, and no jobs.
        f"--dashboard-agent-listen-port={agent_port}",
        f"--num-cpus={max(LOGICAL_CPUS, os.cpu_count() or 1)}",
        "--disable-usage-stats",
        "--include-dashboard=true",
    ]
    with open(logs, "ab") as stream:
        process = subprocess.Popen(
            command, cwd=ROOT, stdout=stream, stderr=stream, stdin=subprocess.DEVNULL, env=environment, start_new_session=True
        )
    head = Head(process.pid, start_time(process.pid), port, f"http://127.0.0.1:{dashboard_port}", *versions())
    Location(str(_state_file())).write_json(head.__dict__)
    _wait_until_up(head, agent_port, process, logs)
    return head


def _wait_until_up(head: Head, agent_port: int, process: subprocess.Popen, logs: Path) -> None:
    import requests

    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise UserError(f"the Ray head ended at once with status {process.returncode}", f"read {logs}")
        with contextlib.suppress(requests.RequestException):
            if requests.get(f"{head.dashboard}/api/version", headers=_token_header(), timeout=2).ok and _takes_jobs(head, agent_port):
                return
        time.sleep(0.5)
    raise UserError(f"the Ray head did not answer within {START_TIMEOUT_S:.0f} s", f"read {logs}")


def _takes_jobs(head: Head, agent_port: int) -> bool:
    """The job API answers and the agent that starts jobs is up; both come a little after the dashboard."""
    import requests

    agent = f"http://127.0.0.1:{agent_port}/api/local_raylet_healthz"
    header = _token_header()
    return requests.get(f"{head.dashboard}/api/jobs/", headers=header, timeout=5).ok and requests.get(agent, headers=header, timeout=5).ok


def _token_header() -> dict[str, str]:
    """What a dashboard with token authentication wants to see; empty unless `$RAY_AUTH_MODE` asks for tokens."""
    if os.environ.get("RAY_AUTH_MODE") != "token":
        return {}
    # Ray has no public name for this; its own job client uses the same function.
    from ray._private.authentication.http_token_authentication import get_auth_headers_if_auth_enabled

    return get_auth_headers_if_auth_enabled({})


@contextlib.contextmanager
def _free_ports(*wanted: int) -> Iterator[list[int]]:
    """Ports that are free now and all different: the wanted ones, or any where that is 0 or taken."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in wanted]
        for each, port in zip(sockets, wanted, strict=True):
            try:
                each.bind(("127.0.0.1", port))
            except OSError:
                each.bind(("127.0.0.1", 0))
        yield [each.getsockname()[1] for each in sockets]


def running_dashboard() -> str | None:
    """Dashboard of a head that already runs: ours, the one `$RAY_API_SERVER_ADDRESS` names, or one on Ray's default port.

    Raises:
        UserError: it runs another Ray version (or, for a head of ours, another Python).
    """
    head = own_head()
    if head is not None:
        refuse_other_versions(head)
        return head.dashboard
    for address in filter(None, (os.environ.get("RAY_API_SERVER_ADDRESS"), f"http://127.0.0.1:{DASHBOARD_PORT}")):
        running = dashboard_version(address)
        if running is not None:
            refuse_other_ray(address, running)
            return address
    return None


def dashboard_version(address: str) -> str | None:
    """Ray version behind a dashboard address; None when no Ray dashboard answers there."""
    import requests

    try:
        answer = requests.get(f"{address.rstrip('/')}/api/version", headers=_token_header(), timeout=10)
        answer.raise_for_status()
        return str(answer.json()["ray_version"])
    except (requests.RequestException, ValueError, KeyError):
        return None


def refuse_other_ray(address: str, running: str) -> None:
    """Raises UserError when the head behind an address runs another Ray than this environment."""
    if running != ray.__version__:
        raise UserError(
            f"the head at {address} runs Ray {running}; this environment has {ray.__version__}",
            "use the environment that started the head, or stop it",
        )


def stop_head() -> bool:
    """Stop the head that `start_head` started and everything it started; False when none runs.

    Never touches another Ray on the machine.
    """
    head = own_head()
    if head is None:
        _state_file().unlink(missing_ok=True)
        return False
    ours = [psutil.Process(head.pid), *psutil.Process(head.pid).children(recursive=True)]
    ours[0].terminate()
    # The head drains for up to half a minute; what still runs after a while holds nothing that is not on disk.
    _, lingering = psutil.wait_procs(ours, timeout=STOP_TIMEOUT_S)
    for process in lingering:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(lingering, timeout=STOP_TIMEOUT_S)
    _state_file().unlink(missing_ok=True)
    return True
