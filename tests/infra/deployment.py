"""The files of infra/deploy as the tests see them: parsed strictly, and every pod among them."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "infra" / "deploy"
KUBERNETES = sorted((DEPLOY / "kubernetes").glob("*.yaml"))
DOCKERFILES = sorted((DEPLOY / "images").glob("*.Dockerfile"))
SBATCH = DEPLOY / "slurm" / "mvforge.sbatch"
RAY_UP = DEPLOY / "ray_up" / "cluster.yaml"
MONITORING = DEPLOY / "monitoring"


class _Strict(yaml.SafeLoader):
    """Refuses a key that stands twice in a mapping; PyYAML itself silently takes the last."""


def _mapping(loader: _Strict, node: yaml.MappingNode) -> dict[Any, Any]:
    keys = [loader.construct_object(key, deep=True) for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"]
    if twice := {key for key in keys if keys.count(key) > 1}:
        raise yaml.YAMLError(f"{twice} twice at {node.start_mark}")
    loader.flatten_mapping(node)
    return {loader.construct_object(key, deep=True): loader.construct_object(value, deep=True) for key, value in node.value}


_Strict.add_constructor("tag:yaml.org,2002:map", _mapping)


def documents(path: Path) -> list[dict[str, Any]]:
    return list(yaml.load_all(path.read_text(), Loader=_Strict))  # a subclass of the safe loader


def objects() -> list[dict[str, Any]]:
    """Every Kubernetes object."""
    return [document for path in KUBERNETES for document in documents(path)]


def one(kind: str, name: str | None = None) -> dict[str, Any]:
    (found,) = [each for each in objects() if each["kind"] == kind and name in (None, each["metadata"]["name"])]
    return found


@dataclass(frozen=True)
class Pod:
    """A pod template and where it stands."""

    where: str
    labels: dict[str, str]
    spec: dict[str, Any]

    @property
    def container(self) -> dict[str, Any]:
        (only,) = self.spec["containers"]
        return only

    @property
    def environment(self) -> dict[str, dict[str, Any]]:
        return {entry["name"]: entry for entry in self.container.get("env", [])}


def pods() -> list[Pod]:
    """All pod templates, those inside RayCluster and RayJob among them; `mvforge.io/group`s of Ray keep their group's name."""
    found = []
    for each in objects():
        spec, name = each.get("spec", {}), f"{each['kind']}/{each['metadata']['name']}"
        templates = {name: spec.get("template"), f"{name}/submitter": spec.get("submitterPodTemplate")}
        if each["kind"] == "RayCluster":
            templates[f"{name}/head"] = spec["headGroupSpec"]["template"]
            templates |= {f"{name}/{group['groupName']}": group["template"] for group in spec["workerGroupSpecs"]}
        found += [Pod(where, template["metadata"]["labels"], template["spec"]) for where, template in templates.items() if template]
    return found


def locked() -> dict[str, str]:
    """Versions of requirements.lock by normalised name."""
    lines = [line for line in (ROOT / "requirements.lock").read_text().splitlines() if line and not line.startswith("#")]
    return {normalised(name): version for name, version in (line.split("==") for line in lines)}


def normalised(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
