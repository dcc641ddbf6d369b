"""Our figures as Prometheus would read them now, for the support bundle: of Ray's agents, and of the text file if there is one."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import requests

from infra.metrics_export import FILE_VARIABLE, RAY_PREFIX

# Ray's head writes the addresses of all agents here, below its temporary folder.
DISCOVERY = "prom_metrics_service_discovery.json"
PATIENCE_S, MOST_TARGETS = 3.0, 16
OURS = f"{RAY_PREFIX}mvforge_"


def figures(ray_folder: Path) -> Iterator[tuple[str, str]]:
    """(name, text) of each source of figures; one that does not answer says so in its text.

    Args:
        ray_folder: Ray's folder on this machine, usually /tmp/ray.
    """
    if file := os.environ.get(FILE_VARIABLE):
        yield "metrics-file.prom", Path(file).read_text() if Path(file).exists() else f"{file} is not there\n"
    if (ray_folder / DISCOVERY).exists():
        for target in targets((ray_folder / DISCOVERY).read_text())[:MOST_TARGETS]:
            yield f"{target.replace(':', '-')}.prom", _scraped(target)


def targets(discovery: str) -> list[str]:
    """`host:port` of every agent in Prometheus' file format for service discovery."""
    return [target for group in json.loads(discovery) for target in group["targets"]]


def _scraped(target: str) -> str:
    try:
        answer = requests.get(f"http://{target}/metrics", timeout=PATIENCE_S)
        answer.raise_for_status()
    except requests.RequestException as error:
        return f"{target} does not answer: {type(error).__name__}\n"
    return "".join(f"{line}\n" for line in answer.text.splitlines() if OURS in line)
