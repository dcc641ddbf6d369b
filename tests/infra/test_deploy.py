"""What infra/deploy promises, checked without a container engine or a cluster: schemas, linters, and the invariants of safety."""

import json
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

from infra.metrics import METRICS, exported_names
from pipelines.recipes import paper_mvdiffusionpp
from rendering.blender_child import SYSTEM_LIBRARIES
from tests.infra.deployment import (
    DEPLOY,
    DOCKERFILES,
    KUBERNETES,
    MONITORING,
    RAY_UP,
    ROOT,
    SBATCH,
    Pod,
    documents,
    locked,
    normalised,
    objects,
    one,
    pods,
)

OLDEST_KUBERNETES, NEWEST_KUBERNETES = "1.28", "1.36"
# Fields of KubeRay's ray.io/v1 that a manifest may use; a misspelt one is dropped by the API server without a word.
RAY_CLUSTER = {"rayVersion", "enableInTreeAutoscaling", "authOptions", "headGroupSpec", "workerGroupSpecs"}
HEAD_GROUP = {"serviceType", "enableIngress", "rayStartParams", "template", "headService", "resources", "labels"}
WORKER_GROUP = {"groupName", "replicas", "minReplicas", "maxReplicas", "rayStartParams", "template", "numOfHosts", "idleTimeoutSeconds"}
RAY_JOB = {"submissionMode", "clusterSelector", "entrypoint", "shutdownAfterJobFinishes", "submitterPodTemplate", "submitterConfig"}
RAY_PODS = [pod for pod in pods() if pod.labels["app.kubernetes.io/component"] in ("ray", "submitter", "fetch")]
every_pod = pytest.mark.parametrize("pod", pods(), ids=lambda pod: pod.where)
every_dockerfile = pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.name)


def tool(name: str) -> str:
    """A program that a package of the dev extra brings."""
    beside = Path(sys.executable).parent / name
    found = str(beside) if beside.exists() else shutil.which(name)
    assert found, f"{name} is missing: pip install -r requirements.lock"
    return found


def run(*command: str, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, **options)


# ---- formats ----


def test_all_files_are_of_a_known_kind_and_parse():
    for path in sorted(p for p in DEPLOY.rglob("*") if p.is_file()):
        if path.suffix in (".yaml", ".yml"):
            assert documents(path), path
        elif path.suffix == ".json":
            json.loads(path.read_text())
        else:
            assert path.suffix in (".Dockerfile", ".sbatch", ".txt"), f"{path}: no test knows this kind of file"


def test_files_come_with_the_package():
    patterns = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["infra"]
    packed = {path for pattern in patterns for path in (ROOT / "infra").glob(pattern)}
    assert {path for path in DEPLOY.rglob("*") if path.is_file()} <= packed


def as_pod(pod: Pod) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x", "labels": pod.labels}, "spec": pod.spec}


@pytest.mark.parametrize("version", [OLDEST_KUBERNETES, NEWEST_KUBERNETES])
def test_objects_and_pods_match_kubernetes_schemas(version):
    import kubernetes_validate

    checked = [each for each in objects() if not each["apiVersion"].startswith("ray.io/")] + [as_pod(pod) for pod in pods()]
    assert len(checked) >= 15
    for each in checked:
        kubernetes_validate.validate(each, version, strict=True)


def test_the_schema_check_notices_a_misspelt_field():
    import kubernetes_validate

    wrong = as_pod(pods()[0])
    wrong["spec"] = wrong["spec"] | {"automountServiceAccountTokens": False}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, NEWEST_KUBERNETES, strict=True)


def test_ray_objects_use_known_fields():
    cluster, job = one("RayCluster")["spec"], one("RayJob")["spec"]
    assert set(cluster) <= RAY_CLUSTER and set(cluster["headGroupSpec"]) <= HEAD_GROUP and set(job) <= RAY_JOB
    for group in cluster["workerGroupSpecs"]:
        assert set(group) <= WORKER_GROUP
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())
    assert {group["groupName"] for group in cluster["workerGroupSpecs"]} == {"cpu-render", "gpu-render", "h100-train"}
    assert job["clusterSelector"] == {"ray.io/cluster": one("RayCluster")["metadata"]["name"]}


def test_ray_version_is_that_of_the_lock():
    assert one("RayCluster")["spec"]["rayVersion"] == locked()["ray"]


def test_ray_up_example_passes_rays_own_check():
    from ray.autoscaler._private.util import prepare_config, validate_config

    (config,) = documents(RAY_UP)
    validate_config(prepare_config(config))
    with pytest.raises(Exception, match="(?i)additional properties|validation"):
        validate_config(config | {"head_start_commands": []})


# ---- safety ----


@every_pod
def test_pods_may_do_nothing_that_they_need_not(pod):
    whole, own = pod.spec["securityContext"], pod.container["securityContext"]
    assert whole["runAsNonRoot"] is True and whole["runAsUser"] >= 10000
    assert whole["seccompProfile"] == {"type": "RuntimeDefault"}
    assert own == {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}
    assert pod.spec["automountServiceAccountToken"] is False
    assert not {"hostNetwork", "hostPID", "hostIPC", "initContainers"} & set(pod.spec)
    assert all(set(volume) == {"name", "emptyDir"} for volume in pod.spec["volumes"]), "scratch alone, nothing of the host"
    assert all("sizeLimit" in volume["emptyDir"] for volume in pod.spec["volumes"])
    mounted = {mount["mountPath"] for mount in pod.container["volumeMounts"]}
    assert {"/tmp", "/home/mvforge"} <= mounted, "nothing else can be written"


@every_pod
def test_pods_name_their_resources(pod):
    wanted, limits = pod.container["resources"]["requests"], pod.container["resources"]["limits"]
    assert {"cpu", "memory"} <= set(wanted) and {"cpu", "memory"} <= set(limits)
    assert wanted["memory"] == limits["memory"], "a pod that takes more than it asked for is killed first"
    assert wanted.get("nvidia.com/gpu") == limits.get("nvidia.com/gpu")


@every_pod
def test_secrets_are_references(pod):
    for name, entry in pod.environment.items():
        if re.search(r"KEY|SECRET|PASSWORD|TOKEN|CREDENTIAL|_URI$", name):
            assert set(entry) == {"name", "valueFrom"} and "secretKeyRef" in entry["valueFrom"], f"{pod.where}: {name} stands in the file"
    assert not re.search(r"image:\s*\S+:latest", yaml_text())


def yaml_text() -> str:
    return "\n".join(path.read_text() for path in KUBERNETES)


def test_no_secret_lies_in_the_files():
    assert not [each for each in objects() if each["kind"] == "Secret"]
    for path in (p for p in DEPLOY.rglob("*") if p.is_file()):
        text = path.read_text()
        assert not re.search(
            r"AKIA[0-9A-Z]{16}|-----BEGIN|(?:AWS_SECRET_ACCESS_KEY|RAY_AUTH_TOKEN|PASSWORD)\s*[:=]\s*[\"']?[a-z0-9]{8}", text
        ), path


@pytest.mark.parametrize("pod", RAY_PODS, ids=lambda pod: pod.where)
def test_token_authentication_in_every_ray_pod(pod):
    assert pod.environment["RAY_AUTH_MODE"]["value"] == "token"
    reference = pod.environment["RAY_AUTH_TOKEN"]["valueFrom"]["secretKeyRef"]
    assert reference == {"name": one("RayCluster")["spec"]["authOptions"]["secretName"], "key": "auth_token"}


def test_token_authentication_everywhere_else():
    assert one("RayCluster")["spec"]["authOptions"]["mode"] == "token"
    for dockerfile in (path for path in DOCKERFILES if path.name != "mlflow.Dockerfile"):
        assert "RAY_AUTH_MODE=token" in instructions(dockerfile, "ENV")
    (config,) = documents(RAY_UP)
    for command in (*config["head_start_ray_commands"], *config["worker_start_ray_commands"]):
        assert "ray start" not in command or "RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=" in command
    for text in (p.read_text() for p in DEPLOY.rglob("*") if p.is_file()):
        assert not re.search(r"RAY_AUTH_MODE\W+(?!token)\w+|RAY_AUTH_MODE\W+value\W+(?!token)\w+", text.replace("value: token", "token"))


def test_dashboard_is_not_exposed():
    head = one("RayCluster")["spec"]["headGroupSpec"]
    assert head["serviceType"] == "ClusterIP" and head["enableIngress"] is False
    assert {each["spec"].get("type") for each in objects() if each["kind"] == "Service"} == {"ClusterIP"}
    assert not {"Ingress", "Route", "Gateway", "HTTPRoute"} & {each["kind"] for each in objects()}
    assert "hostPort" not in yaml_text() and "nodePort" not in yaml_text()
    (config,) = documents(RAY_UP)
    for text in ("\n".join(config["head_start_ray_commands"]), SBATCH.read_text()):
        assert re.findall(r"--dashboard-host[= ](\S+)", text) == ["127.0.0.1"]


def selects(selector: dict[str, Any], labels: dict[str, str]) -> bool:
    for rule in selector.get("matchExpressions", []):
        assert rule["operator"] == "In"
        if labels.get(rule["key"]) not in rule["values"]:
            return False
    return all(labels.get(key) == value for key, value in selector.get("matchLabels", {}).items())


def egress(labels: dict[str, str]) -> list[tuple[dict[str, Any], tuple[int, ...]]]:
    """Peers that pods with these labels may open connections to, with the ports; () stands for all. Kubernetes adds policies up."""
    policies = [each["spec"] for each in objects() if each["kind"] == "NetworkPolicy" and selects(each["spec"]["podSelector"], labels)]
    assert any("Egress" in each["policyTypes"] for each in policies), "without a policy everything is allowed"
    return [
        (peer, tuple(sorted(port["port"] for port in rule.get("ports", []))))
        for each in policies
        for rule in each.get("egress", [])
        for peer in rule["to"]
    ]


def test_renderers_reach_ray_dns_and_the_store_alone():
    store = {"ipBlock": {"cidr": "192.0.2.0/24"}}
    groups = [pod for pod in pods() if pod.labels.get("mvforge/group") == "render"]
    assert {pod.where.rsplit("/", 1)[-1] for pod in groups} == {"cpu-render", "gpu-render"}
    for pod in groups:
        reached = egress(pod.labels)
        names = [
            "dns" if "namespaceSelector" in peer and ports == (53, 53) else "store" if (peer, ports) == (store, (443,)) else peer
            for peer, ports in reached
        ]
        assert sorted(map(str, names)) == sorted(
            ["dns", "store", str({"podSelector": {"matchLabels": {"app.kubernetes.io/component": "ray"}}})]
        )


def test_fetch_alone_reaches_the_internet_and_opens_no_asset():
    wide = [pod for pod in pods() if any(peer.get("ipBlock", {}).get("cidr") == "0.0.0.0/0" for peer, _ in egress(pod.labels))]
    assert [pod.where for pod in wide] == ["Job/mvforge-fetch"]
    command = wide[0].container["command"]
    assert [after for before, after in zip(command, command[1:], strict=False) if before == "--only"] == ["catalog", "fetch"]


def test_everything_is_denied_first():
    policy = one("NetworkPolicy", "deny-all")["spec"]
    assert policy == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    namespaces = {each["metadata"].get("namespace") for each in objects() if each["kind"] != "Namespace"}
    assert namespaces == {one("Namespace")["metadata"]["name"]}
    assert one("Namespace")["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"


def test_cluster_holds_the_paper_recipe():
    have = {"cpu": 0.0, "gpu": 0.0}
    for group in one("RayCluster")["spec"]["workerGroupSpecs"]:
        limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
        have["cpu"] += group["replicas"] * float(limits["cpu"])
        have["gpu"] += group["replicas"] * float(limits.get("nvidia.com/gpu", 0))
    for step, wanted in paper_mvdiffusionpp.recipe().resources.items():
        assert wanted.workers * wanted.cpus <= have["cpu"] and wanted.workers * wanted.gpus <= have["gpu"], step


# ---- images ----


def instructions(dockerfile: Path, name: str) -> str:
    """Arguments of all instructions of one kind, continued lines joined."""
    text = re.sub(r"^\s*#.*\n", "", dockerfile.read_text(), flags=re.M).replace("\\\n", " ")
    return "\n".join(re.findall(rf"^{name}\s+(.*)$", text, re.M))


@every_dockerfile
def test_dockerfiles_pass_hadolint(dockerfile):
    done = run(tool("hadolint"), str(dockerfile))
    assert done.returncode == 0, done.stdout


@every_dockerfile
def test_dockerfiles_keep_the_rules(dockerfile):
    for line in instructions(dockerfile, "COPY").splitlines():
        if not line.startswith("--from="):
            for source in line.split()[:-1]:
                assert (ROOT / source).exists(), f"COPY {source}"
    assert instructions(dockerfile, "USER").splitlines()[-1] == "10001:10001"
    (base,) = set(re.findall(r"ARG PYTHON_IMAGE=(\S+)", dockerfile.read_text()))
    assert base.startswith("python:3.11-") and "latest" not in base
    for line in (instructions(dockerfile, "ENV") + "\n" + instructions(dockerfile, "ARG")).splitlines():
        assert not re.search(r"\w*(?:SECRET|PASSWORD|_KEY|AUTH_TOKEN)\w*=", line)


@pytest.mark.parametrize("name", ["cpu", "gpu"])
def test_images_hold_the_whole_program_and_blenders_libraries(name):
    dockerfile = DEPLOY / "images" / f"{name}.Dockerfile"
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    copied = {line.split()[0] for line in instructions(dockerfile, "COPY").splitlines()}
    assert {package.partition(".")[0] for package in packages} <= copied
    assert set(SYSTEM_LIBRARIES.split()) <= set(instructions(dockerfile, "RUN").split())


@pytest.mark.parametrize(("name", "free"), [("cpu", set()), ("gpu", {"xformers", "nvidia-cuda-runtime-cu12", "nvidia-ml-py"})])
def test_images_install_what_the_lock_pins(name, free):
    """The command of the Dockerfile itself lists the requirements; each has one version in the lock, and that one fits."""
    run_text = instructions(DEPLOY / "images" / f"{name}.Dockerfile", "RUN")
    (script,) = re.findall(r'python -c "(import tomllib[^"]*)"', run_text)
    assert "--constraint requirements.lock" in run_text
    listed = [Requirement(line) for line in run(sys.executable, "-c", script, cwd=ROOT).stdout.split("\n") if line]
    assert len(listed) > 20
    pinned = {normalised(each.name) for each in listed} - free
    assert pinned <= set(locked())
    assert all(each.specifier.contains(locked()[normalised(each.name)]) for each in listed if normalised(each.name) in pinned)


# ---- commands ----


def option_names(command: Any, arguments: list[str]) -> dict[str, Any]:
    """Parsed by the program's own parser; an unknown option raises."""
    return command.make_context(command.name, list(arguments)).params


def test_mlflow_server_takes_its_options():
    from mlflow.cli import cli

    pod = next(pod for pod in pods() if pod.where == "Deployment/mvforge-mlflow")
    program, verb, *arguments = pod.container["command"]
    assert (program, verb) == ("mlflow", "server")
    given = option_names(cli.commands["server"], arguments)
    hosts = given["allowed_hosts"].split(",")
    assert "*" not in given["allowed_hosts"]
    address = one("ConfigMap")["data"]["MLFLOW_TRACKING_URI"].removeprefix("http://")
    assert address in hosts, "workers would be refused"
    probe = pod.container["readinessProbe"]["httpGet"]
    assert {header["name"]: header["value"] for header in probe["httpHeaders"]}["Host"] in hosts
    assert given["artifacts_destination"].startswith("s3://")
    (parameter,) = [each for each in cli.commands["server"].params if each.name == "backend_store_uri"]
    assert parameter.envvar in pod.environment, "the database's address comes from a secret"
    service = one("Service")
    assert f"{service['metadata']['name']}.{service['metadata']['namespace']}.svc:{service['spec']['ports'][0]['port']}" == address


def test_ray_start_commands_are_understood_by_ray():
    from ray.scripts.scripts import start

    (config,) = documents(RAY_UP)
    commands = [c for c in (*config["head_start_ray_commands"], *config["worker_start_ray_commands"]) if "ray start" in c]
    assert len(commands) == 2
    for command in commands:
        assert command.startswith("cd /opt/mvforge && "), "jobs run in the head's folder"
        option_names(start, shlex.split(command.partition("ray start")[2]))
    for group in (one("RayCluster")["spec"]["headGroupSpec"], *one("RayCluster")["spec"]["workerGroupSpecs"]):
        option_names(start, [f"--{key}={value}" for key, value in group["rayStartParams"].items()])


@pytest.mark.parametrize("kind", ["RayJob", "Job"])
def test_commands_of_the_pods_are_understood_by_the_program(kind, tmp_path, monkeypatch, capsys):
    """`--settings` ends before a cluster is touched."""
    from pipelines.__main__ import main

    monkeypatch.setenv("MVFORGE_STORE", str(tmp_path))
    monkeypatch.setenv("MVFORGE_HOME", str(tmp_path))
    spec = one(kind)["spec"]
    given = shlex.split(spec["entrypoint"]) if kind == "RayJob" else spec["template"]["spec"]["containers"][0]["command"]
    assert given[:2] == ["python", "pipelines/full.py"], "what the images hold, in their folder"
    assert main(["run", *given[2:], "--settings"]) == 0
    assert "render.resolution=512" in capsys.readouterr().out


def test_the_pods_script_starts_from_the_images_folder():
    done = run(sys.executable, "pipelines/full.py", "--help", cwd=ROOT)
    assert done.returncode == 0 and "--only" in done.stdout, done.stderr


def test_shell_scripts_are_sound():
    assert run("bash", "-n", str(SBATCH)).returncode == 0
    done = run(tool("shellcheck"), str(SBATCH))
    assert done.returncode == 0, done.stdout


# ---- monitoring ----


def exported_by_ray() -> set[str]:
    """Metrics that Ray's own dashboards of this version draw."""
    import ray.dashboard.modules.metrics as metrics

    files = list((Path(metrics.__file__).parent / "dashboards").glob("*_panels.py"))
    assert len(files) > 3
    return {name for file in files for name in re.findall(r"\b(ray_[a-z0-9_]+)\{", file.read_text())}


def metrics_in(expression: str) -> set[str]:
    bare = re.sub(r"\{[^}]*\}|\[[^]]*\]|\boffset\s+\w+|\b(?:by|without|on|ignoring)\s*\([^)]*\)|\"[^\"]*\"", " ", expression)
    return set(re.findall(r"\b[a-z][a-z0-9_]*\b(?!\s*\()", bare)) - {"and", "or", "unless", "on", "by", "offset"}


def expressions() -> list[str]:
    panels = json.loads((MONITORING / "grafana-dashboard.json").read_text())["panels"]
    (rules,) = documents(MONITORING / "rules.yml")
    return [target["expr"] for panel in panels for target in panel.get("targets", [])] + [
        rule["expr"] for group in rules["groups"] for rule in group["rules"]
    ]


def test_panels_and_alerts_ask_for_metrics_that_exist():
    asked = {name for expression in expressions() for name in metrics_in(expression)}
    assert len(asked) > 25
    assert not unknown(asked), f"nobody exports {sorted(unknown(asked))}"


def unknown(asked: set[str]) -> set[str]:
    """Names that neither Ray nor our own table of metrics exports; tests/infra/test_metrics.py scrapes the latter."""
    return asked - exported_by_ray() - exported_names() - {"up"}


def test_the_check_of_names_notices_one_that_nobody_exports():
    assert unknown(metrics_in('rate(mvforge_views_total{step="render"}[5m])')) == {"mvforge_views_total"}, "Ray puts `ray_` before it"
    assert unknown(metrics_in("sum by (reason) (ray_mvforge_item_total) / on (step, label) up")) == {"ray_mvforge_item_total"}
    assert not unknown(metrics_in('sum by (step) (rate(ray_mvforge_views_total{step="render"}[5m]))'))


OURS = re.compile(r"(ray_mvforge_[a-z_]+)(\{[^}]*\})?")
GROUPED = re.compile(r"(?:by|on)\s*\(([^)]*)\)")
SERIES_OF_RAY = {"instance", "job", "Component", "WorkerId", "NodeAddress", "SessionName", "Version"}


def test_panels_and_alerts_use_labels_that_the_metrics_have():
    for expression in (each for each in expressions() if "ray_mvforge_" in each):
        have = [set(METRICS[name.removeprefix("ray_")].labels) for name, _ in OURS.findall(expression)]
        for name, matchers in OURS.findall(expression):
            used = set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", matchers))
            assert used <= set(METRICS[name.removeprefix("ray_")].labels) | SERIES_OF_RAY, expression
        for group in GROUPED.findall(expression):
            assert set(re.split(r",\s*", group)) <= set.union(*have) | SERIES_OF_RAY, expression


@pytest.mark.parametrize("figure", ["views", "failed", "reason", "step_seconds", "mfu", "stall", "checkpoint_age"])
def test_the_dashboard_draws_what_it_is_for(figure):
    panels = json.loads((MONITORING / "grafana-dashboard.json").read_text())["panels"]
    drawn = [target["expr"] for panel in panels for target in panel.get("targets", []) if "ray_mvforge_" in target["expr"]]
    assert any(figure in expression for expression in drawn)


def test_dashboard_is_one_that_grafana_reads():
    board = json.loads((MONITORING / "grafana-dashboard.json").read_text())
    panels = board["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    cells = [
        (x, y)
        for panel in panels
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]
    assert len(cells) == len(set(cells)) and max(x for x, _ in cells) < 24, "panels lie on each other"
    variables = {each["name"] for each in board["templating"]["list"]}
    for panel in panels:
        assert panel["type"] == "row" or (
            panel["targets"] and panel["description"] and panel["datasource"]["uid"].strip("${}") in variables
        )


def test_prometheus_finds_the_pods():
    (config,) = documents(MONITORING / "prometheus-kubernetes.yml")
    (job,) = config["scrape_configs"]
    kept = {rule["source_labels"][0]: rule["regex"] for rule in job["relabel_configs"] if rule.get("action") == "keep"}
    ray = [
        pod
        for pod in pods()
        if pod.labels["app.kubernetes.io/component"] == kept["__meta_kubernetes_pod_label_app_kubernetes_io_component"]
    ]
    assert len(ray) == 4
    for pod in ray:
        (port,) = [port for port in pod.container["ports"] if port["name"] == kept["__meta_kubernetes_pod_container_port_name"]]
        assert port["containerPort"] == 8080
    cluster = one("RayCluster")["spec"]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        assert group["rayStartParams"]["metrics-export-port"] == "8080"
    assert job["kubernetes_sd_configs"][0]["namespaces"]["names"] == [one("Namespace")["metadata"]["name"]]


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
def test_promtool_takes_rules_and_configuration():
    assert run("promtool", "check", "rules", str(MONITORING / "rules.yml")).returncode == 0
    done = run("promtool", "check", "config", str(MONITORING / "prometheus-file.yml"))
    assert done.returncode == 0, done.stderr


def test_page_names_files_that_exist():
    for page in (ROOT / "docs" / "deploy.md", ROOT / "SECURITY.md"):
        text = page.read_text()
        for named in set(re.findall(r"`((?:infra|rendering|training|evaluation|pipelines|tests|docs)/[\w./-]+)`", text)):
            assert (ROOT / named).exists(), f"{page.name}: {named}"
        for named in set(re.findall(r"infra/deploy/[\w./-]+\w", text)):
            assert (ROOT / named).exists(), f"{page.name}: {named}"
        for link in set(re.findall(r"\]\(([\w./-]+)\)", text)):
            assert (page.parent / link).exists(), f"{page.name}: {link}"


@pytest.mark.parametrize("path", ["images/cpu.Dockerfile", "images/gpu.Dockerfile", "slurm/mvforge.sbatch"])
def test_calls_to_a_node_without_network_end_within_a_minute(path):
    """Names and milliseconds as Ray itself knows them, in every place that starts its processes."""
    import ray

    known = ray._config
    set_here = dict(re.findall(r"RAY_(grpc_client_keepalive_\w+)=(\d+)", (DEPLOY / path).read_text()))
    assert sorted(set_here) == ["grpc_client_keepalive_time_ms", "grpc_client_keepalive_timeout_ms"]
    assert all(int(value) < getattr(known, name)() for name, value in set_here.items()), "quicker than Ray by itself"
    assert sum(map(int, set_here.values())) <= 60_000
