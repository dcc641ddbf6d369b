"""`mvforge support-bundle`: what is in it, and above all what is not."""

import io
import json
import os
import socket
import stat
import sys
import tarfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pyarrow as pa
import pytest

from infra.redaction import known_secrets, redact, shown_environment
from infra.storage import Location
from pipelines.__main__ import main
from pipelines.artifact import Store
from pipelines.support_bundle import TAIL_BYTES, tail
from tests.pipelines.stores import finished, interrupted

# Every secret that the test plants, wherever it plants it.
PLANTED = {
    "env": "wJalrXUtnFEMI-K7MDENG-bPxRfiCY",
    "token": "plainwordtoken",
    "url_user": "minioadmin",
    "url_password": "pa55word%2Fslash",
    "url_password_plain": "pa55word/slash",
    "query": "q9s8d7f6",
    "bearer": "abcDEF123456ghi",
    "hub": "hf_AbCdEfGhIjKlMnOpQrStUv",
    "aws_id": "AKIAIOSFODNN7EXAMPLE",
    "json": "json-secret-value",
    "argument": "argument-secret-value",
    "database": "hunter2hunter2",
    "pem": "MIIEvQIBADANBgkqhkiG9w0BAQEFAASC",
}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MVFORGE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path / "tmp"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "home").mkdir()
    return tmp_path / "home"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(Location(str(tmp_path / "store")))


def bundled(capsys, tmp_path: Path, *arguments: str) -> dict[str, str]:
    """Archive name -> content, without the folder they all lie in."""
    out = tmp_path / "problem.tar.gz"
    assert main(["support-bundle", *arguments, "--out", str(out), "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert stat.S_IMODE(out.stat().st_mode) == 0o600 and answer["not_gathered"] == []
    with tarfile.open(out) as archive:
        assert all(member.isreg() and member.name.startswith("mvforge-support/") for member in archive)
        files = {member.name.partition("/")[2]: archive.extractfile(member).read().decode() for member in archive}  # type: ignore[union-attr]
    assert sorted(files) == answer["files"]
    return files


def test_it_holds_what_a_report_needs(store, home, tmp_path, capsys):
    made = finished(store, "fetch", "smoke", completed=3, failed=1)
    rows = {"uid": ["a", "b", "c"], "status": ["ok", "failed", "failed"], "reason": ["", "not_found", "not_found"]}
    (store.data(made) / "meshes.parquet").write_table(pa.table(rows))
    interrupted(store, "render", "smoke", failure="OSError: No space left on device")
    finished(store, "fetch", "other")
    (home / "head.log").write_text("head started\n")
    logs = tmp_path / "tmp" / "ray" / "session_latest" / "logs"
    logs.mkdir(parents=True)
    (logs / "raylet.err").write_text("raylet died\n")
    (logs / "core.dump").write_bytes(bytes(10))
    files = bundled(capsys, tmp_path, "smoke", "--store", store.root.uri)
    build = f"store/fetch/smoke/{made.build_id}"
    assert json.loads(files[f"{build}/meshes.parquet.reasons.json"]) == {"rows": 3, "counts": {"failed not_found": 2, "ok": 1}}
    assert json.loads(files["store/fetch/smoke/record.json"])["build_id"] == made.build_id
    assert "No space left on device" in files["store/render/smoke/building.json"]
    assert "store/fetch/other/record.json" not in files
    assert files["logs/mvforge/head.log"] == "head started\n" and files["logs/ray/raylet.err"] == "raylet died\n"
    assert "logs/ray/core.dump" not in files
    recipe = json.loads(files["recipe.json"])
    assert recipe["label"] == "smoke" and "catalog.source" in recipe["settings"]
    assert [row["step"] for row in json.loads(files["steps.json"])][:2] == ["catalog", "fetch"]
    versions, machine = json.loads(files["versions.json"]), json.loads(files["machine.json"])
    assert versions["torch"].startswith("2.") and versions["python"] == ".".join(map(str, sys.version_info[:3]))
    assert machine["cpus"] == os.cpu_count() and machine["memory"]["total"] > 0 and str(home) in machine["disks"]


def test_without_a_recipe_all_labels_are_in_it(store, home, tmp_path, capsys):
    for label in ("smoke", "other"):
        finished(store, "fetch", label)
    files = bundled(capsys, tmp_path, "--store", store.root.uri)
    assert {"store/fetch/smoke/record.json", "store/fetch/other/record.json"} <= set(files) and "recipe.json" not in files


def plant(store: Store, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put every secret where such things end up."""
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", PLANTED["env"])
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", PLANTED["token"])
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"https://{PLANTED['url_user']}:{PLANTED['url_password']}@mlflow.example:5000")
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://store.example:9000/?X-Amz-Signature={PLANTED['query']}")
    monkeypatch.setenv("UNRELATED", "some text")
    made = finished(store, "fetch", "smoke", config={"api_key": PLANTED["json"], "tokens": "pooled", "key": "catalog"})
    (store.data(made) / "summary.json").write_text(json.dumps({"model": {"password": PLANTED["json"]}, "tokens_per_s": 12.5}))
    interrupted(store, "render", "smoke", failure=f"cannot reach s3://{PLANTED['url_user']}:{PLANTED['url_password']}@bucket/views")
    (home / "head.log").write_text(
        f"Authorization: Bearer {PLANTED['bearer']}\n"
        f"downloading with {PLANTED['hub']} and {PLANTED['aws_id']}\n"
        f"plain mention of {PLANTED['env']} and {PLANTED['url_password_plain']}\n"
        f"ran mvforge --api-token {PLANTED['argument']} --recipe tiny\n"
        f"['--password', '{PLANTED['argument']}']\n"
        f"postgresql+psycopg2://mlflow:{PLANTED['database']}@db/mlflow is down\n"
        f"-----BEGIN PRIVATE KEY-----\n{PLANTED['pem']}\n-----END PRIVATE KEY-----\n"
        "steps went on\n"
    )


def test_no_secret_is_in_it(store, home, tmp_path, capsys, monkeypatch):
    plant(store, home, monkeypatch)
    files = bundled(capsys, tmp_path, "--store", store.root.uri)
    everything = "\n".join([*files, *files.values()])
    assert {name for name, secret in PLANTED.items() if secret in everything} == set()
    environment = json.loads(files["environment.json"])
    assert environment["AWS_SECRET_ACCESS_KEY"] == environment["MLFLOW_TRACKING_TOKEN"] == "***" and environment["UNRELATED"] == "(set)"
    # What is no secret is still there, and JSON is still JSON.
    assert "steps went on" in files["logs/mvforge/head.log"] and "--recipe tiny" in files["logs/mvforge/head.log"]
    assert environment["MLFLOW_TRACKING_URI"].endswith("@mlflow.example:5000")
    config = json.loads(files["store/fetch/smoke/record.json"])["config"]
    assert config == {"api_key": "***", "tokens": "pooled", "key": "catalog"}
    assert "bucket/views" in files["store/render/smoke/building.json"]
    assert '"tokens_per_s": 12.5' in next(text for name, text in files.items() if name.endswith("summary.json"))


def test_the_secrets_would_be_there_without_redaction(store, home, tmp_path, capsys, monkeypatch):
    """So that the test above cannot pass because nothing was gathered."""
    import infra.redaction
    import pipelines.support_bundle

    plant(store, home, monkeypatch)
    monkeypatch.setattr(pipelines.support_bundle, "redact", lambda text, known: text)
    monkeypatch.setattr(infra.redaction, "redact", lambda text, known: text)
    files = bundled(capsys, tmp_path, "--store", store.root.uri)
    everything = "\n".join(files.values())
    hidden_by_name = {"token"}  # stands in the environment alone, under its own name
    assert {name for name, secret in PLANTED.items() if secret not in everything} == hidden_by_name


class _Agent(BaseHTTPRequestHandler):
    """Answers as Ray's agent does: our figures among hundreds of Ray's own."""

    def do_GET(self) -> None:
        body = b'# TYPE ray_tasks gauge\nray_tasks 3.0\nray_mvforge_views_total{label="tiny",step="render"} 34.0\n'
        self.send_response(200)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


def test_the_figures_of_this_moment_are_in_it(store, home, tmp_path, capsys, monkeypatch):
    (tmp_path / "run.prom").write_text('ray_mvforge_queue_items{label="tiny",step="render"} 7.0\n')
    monkeypatch.setenv("MVFORGE_METRICS_FILE", str(tmp_path / "run.prom"))
    (tmp_path / "tmp" / "ray").mkdir(parents=True)
    with ThreadingHTTPServer(("127.0.0.1", 0), _Agent) as agent, socket.create_server(("127.0.0.1", 0)) as taken:
        gone = taken.getsockname()[1]
        taken.close()
        groups = [{"labels": {"job": "ray"}, "targets": [f"127.0.0.1:{agent.server_port}", f"127.0.0.1:{gone}"]}]
        (tmp_path / "tmp" / "ray" / "prom_metrics_service_discovery.json").write_text(json.dumps(groups))
        threading.Thread(target=agent.serve_forever, daemon=True).start()
        files = bundled(capsys, tmp_path, "--store", store.root.uri)
        agent.shutdown()
    assert files["metrics/metrics-file.prom"] == 'ray_mvforge_queue_items{label="tiny",step="render"} 7.0\n'
    assert files[f"metrics/127.0.0.1-{agent.server_port}.prom"] == 'ray_mvforge_views_total{label="tiny",step="render"} 34.0\n'
    assert "does not answer" in files[f"metrics/127.0.0.1-{gone}.prom"]


def test_a_cut_log_begins_with_a_whole_line(tmp_path):
    log = tmp_path / "a.log"
    log.write_text("".join(f"line {number:06d} password=secret{number}\n" for number in range(20000)))
    text = tail(log)
    assert len(text) <= TAIL_BYTES and text.startswith("line ") and text.endswith("secret19999\n")
    log.write_bytes(b"x" * (TAIL_BYTES + 1))
    assert tail(log) == ""


@pytest.mark.parametrize(
    "text",
    [
        "tokens=128",
        "tokens_per_s: 3.5",
        "tokenizer=clip",
        "keys: 4",
        '"password": null',
        "password=None",
        "https://example.org/a?b=c",
        "user@example.org",
        "model.clip.tokens=pooled",
        "RAY_AUTH_MODE=token",
    ],
)
def test_harmless_text_stays(text):
    assert redact(text) == text


def test_a_private_key_whose_begin_is_cut_off_is_hidden():
    assert redact("went on\nMIIEvQIB+ADANB/gkq=\nMIIAA==\n-----END RSA PRIVATE KEY-----\ndone\n") == "went on\n***\ndone\n"


def test_known_values_are_hidden_wherever_they_stand():
    known = known_secrets({"DB_PASSWORD": "a+b c/d", "OK": "fine"}, ["s3://id:se%2Bcret@bucket"])
    assert redact("a+b c/d, a%2Bb%20c%2Fd, a%2Bb+c%2Fd, se+cret, se%2Bcret, fine", known) == "***, ***, ***, ***, ***, fine"
    assert shown_environment({"MY_PIN_TOKEN": "12", "PATH": "/bin"}) == {"MY_PIN_TOKEN": "***", "PATH": "/bin"}


def test_what_breaks_costs_only_itself(store, home, tmp_path, capsys):
    made = finished(store, "fetch", "smoke")
    (store.data(made) / "ledger.parquet").write_bytes(b"no parquet")
    out = tmp_path / "problem.tar.gz"
    assert main(["support-bundle", "--store", store.root.uri, "--out", str(out), "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert len(answer["not_gathered"]) == 1 and "ledger.parquet" in answer["not_gathered"][0]
    with tarfile.open(fileobj=io.BytesIO(out.read_bytes())) as archive:
        names = {member.name for member in archive}
    assert {"mvforge-support/not-gathered.txt", "mvforge-support/store/fetch/smoke/record.json"} <= names


@pytest.mark.parametrize("out", ["bundle.zip", "no/such/folder/bundle.tar.gz"])
def test_a_place_that_cannot_be_written_is_refused(store, home, tmp_path, capsys, out):
    assert main(["support-bundle", "--store", store.root.uri, "--out", str(tmp_path / out)]) == 2
    assert "mend: " in capsys.readouterr().err
