"""What to know of a test that hung: where it stood, and what the machine and the Ray cluster had left. One line each, at the very end,
since whoever reads a long log reads its end."""

import shutil
from typing import Any

import psutil
import pytest

HUNG: list[str] = []
FRAMES = 12
PROCESSES = 6


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    yield
    if call.excinfo is not None and "from pytest-timeout" in str(call.excinfo.value):
        HUNG.append(f"{item.nodeid} ({call.when}): {_where(call.excinfo)}; {_machine()}; {_cluster()}")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for line in HUNG:
        terminalreporter.write_line(f"HUNG {line}")


def _where(excinfo: pytest.ExceptionInfo[BaseException]) -> str:
    own = [entry for entry in excinfo.traceback if not any(name in str(entry.path) for name in ("pluggy", "pytest"))]
    inner = (own or list(excinfo.traceback))[-FRAMES:]
    return " > ".join(f"{entry.path.name}:{entry.lineno + 1}:{entry.name}" for entry in inner)


def _machine() -> str:
    memory, disk = psutil.virtual_memory(), shutil.disk_usage("/")
    largest = []
    for process in psutil.process_iter(["name", "memory_info", "cmdline"]):
        if process.info["memory_info"]:
            words = " ".join(process.info["cmdline"] or [process.info["name"]])
            largest.append((process.info["memory_info"].rss, f"{process.pid} {words[:60]} {process.info['memory_info'].rss >> 20} MB"))
    names = ", ".join(text for _, text in sorted(largest, reverse=True)[:PROCESSES])
    free = f"memory {memory.available >> 20} of {memory.total >> 20} MB free, disk {disk.free >> 30} of {disk.total >> 30} GB free"
    return f"{free}, load {psutil.getloadavg()}, largest: {names}"


def _cluster() -> str:
    import ray

    if not ray.is_initialized():
        return "no Ray"
    names = ("CPU", "memory", "object_store_memory")
    have, left = ray.cluster_resources(), ray.available_resources()
    return "Ray has left " + ", ".join(f"{name} {left.get(name, 0):g} of {have.get(name, 0):g}" for name in names)
