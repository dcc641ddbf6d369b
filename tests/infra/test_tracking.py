"""MLflow for real, on an embedded store."""

import http.server
import pickle
import threading

import pytest

from infra import tracking
from infra.errors import UserError

COLUMNS = {"input_columns": {"uid": "string", "seed": "long"}, "output_columns": {"image": "binary"}}


@pytest.fixture
def run(tracking_uri):
    return tracking.open_run(tracking_uri, "test", "a run")


@pytest.fixture
def generator(tmp_path):
    folder = tmp_path / "weights"
    (folder / "unet").mkdir(parents=True)
    (folder / "unet" / "model.txt").write_text("numbers")
    (folder / "settings.json").write_text("{}")
    return folder


def stored(run):
    return tracking.client_of(run.tracking_uri).get_run(run.run_id)


def register(run, generator, build_id, name="model", **more):
    return tracking.register(
        run.tracking_uri,
        name=name,
        folder=generator,
        loader_module="training.served",
        tags={"recipe": "tiny"},
        description="d",
        run=run,
        build_id=build_id,
        **COLUMNS,
        **more,
    )


def test_params_are_flat_short_and_written_once(run):
    run.params({"a": {"b": 1, "f_score@0.01": "x" * 9000, "none": {}}, "c": [1, 2]})
    run.params({"a": {"b": 2}, "d": "new"})
    params = stored(run).data.params
    assert params["a.b"] == "1" and params["c"] == "[1, 2]" and params["d"] == "new" and params["a.none"] == "{}"
    assert params["a.f_score_0.01"].startswith("xxx")
    assert len(params["a.f_score_0.01"]) <= 6000
    run.params({f"p{n}": n for n in range(250)})
    assert len(stored(run).data.params) == 254 + 1


def test_metrics_that_are_not_finite_are_left_out_with_a_warning(run, caplog):
    run.metrics({"loss": 1.5, "psnr": float("nan"), "f_score@0.01": float("inf")}, step=3)
    run.metrics({"loss": 1.0}, step=7)
    assert stored(run).data.metrics == {"loss": 1.0}
    assert "psnr" in caplog.text and "f_score@0.01" in caplog.text
    assert run.last_step("loss") == 7
    assert run.last_step("psnr") is None


def test_a_run_travels_by_pickle_and_is_found_below_its_parent(run):
    child = tracking.open_run(run.tracking_uri, "test", "child", parent_run_id=run.run_id, tags={"step": "x"})
    copy = pickle.loads(pickle.dumps(child))
    copy.artifact("plots/loss.png", b"png bytes")
    copy.end("FAILED")
    again = tracking.open_run(run.tracking_uri, "test", "child", run_id=child.run_id)
    info = stored(again)
    assert again == child
    assert info.info.status == "RUNNING"
    assert info.data.tags["mlflow.parentRunId"] == run.run_id and info.data.tags["step"] == "x"
    artifact = tracking.client_of(run.tracking_uri).download_artifacts(child.run_id, "plots/loss.png")
    assert open(artifact, "rb").read() == b"png bytes"
    assert run.run_id in run.link


def test_artifacts_lie_beside_the_store_and_nothing_in_the_working_directory(run, tmp_path, monkeypatch, generator):
    monkeypatch.chdir(tmp_path)
    run.artifact("x.txt", b"x")
    version = register(run, generator, "here")
    tracking.download(run.tracking_uri, version, tmp_path / "fetched")
    assert stored(run).info.artifact_uri.startswith(str(tracking.artifact_root(run.tracking_uri)))
    assert not [p.name for p in tmp_path.iterdir() if p.name.startswith(("mlflow", "mlruns", "mlartifacts"))]


def test_a_build_is_registered_once_even_when_killed_half_way(run, generator):
    first = register(run, generator, "build-1")
    assert register(run, generator, "build-1") == first
    client = tracking.client_of(run.tracking_uri)
    # A process that died after logging the model, and one that died while logging it.
    tracking.logged_model(client, "model", generator, "training.served", *COLUMNS.values(), run, "build-2")
    experiment = stored(run).info.experiment_id
    client.create_logged_model(experiment, "model", source_run_id=run.run_id, tags={tracking.BUILD_TAG: "build-3"})
    second, third = register(run, generator, "build-2"), register(run, generator, "build-3")
    assert [v.version for v in (first, second, third)] == ["1", "2", "3"]
    models = client.search_logged_models([experiment], filter_string=f"tags.`{tracking.BUILD_TAG}` LIKE 'build-%'")
    assert len(models) == 3
    for version in (second, third):
        assert tracking.version_tags(run.tracking_uri, version)["recipe"] == "tiny"


def test_download_brings_the_generator_folder(run, generator, tmp_path):
    version = register(run, generator, "b")
    for _ in range(2):
        folder = tracking.download(run.tracking_uri, version, tmp_path / "target")
    assert {p.relative_to(folder).as_posix(): p.read_text() for p in folder.rglob("*") if p.is_file()} == {
        "unet/model.txt": "numbers",
        "settings.json": "{}",
    }
    assert [p.name for p in (tmp_path / "target").iterdir()] == ["generator"]


def test_names_resolve_to_versions_and_unknown_ones_tell_the_known(run, generator):
    uri = run.tracking_uri
    one, two = register(run, generator, "b1"), register(run, generator, "b2")
    assert tracking.get_alias(uri, "model", "champion") is None
    tracking.set_alias(uri, one, "champion")
    assert tracking.resolve(uri, "models:/model@champion") == one == tracking.get_alias(uri, "model", "champion")
    tracking.set_alias(uri, two, "champion")
    assert tracking.resolve(uri, "models:/model@champion") == two
    assert tracking.resolve(uri, "models:/model/1") == one
    tracking.set_version_tags(uri, one, {"psnr": "20.1"})
    assert tracking.version_tags(uri, one)["psnr"] == "20.1"
    hints = {"models:/model@best": "@champion = 2", "models:/model/9": "versions 1, 2", "models:/other/1": "known models: model"}
    for wrong, hint in hints.items():
        with pytest.raises(UserError, match="does not exist") as caught:
            tracking.resolve(uri, wrong)
        assert hint in caught.value.mend
    for malformed in ("model@champion", "models:/model", "models:/model/latest", "runs:/x/y"):
        with pytest.raises(UserError, match="not a model address"):
            tracking.resolve(uri, malformed)


def test_what_is_known_of_versions(run, generator):
    uri = run.tracking_uri
    one, two = register(run, generator, "b1", model_description="about"), register(run, generator, "b2", model_description="other")
    tracking.set_alias(uri, two, "champion")
    tracking.set_model_tag(uri, "model", "team", "chairs")
    facts = tracking.versions(uri, "model")
    assert [f.version for f in facts] == [one, two] and [f.aliases for f in facts] == [(), ("champion",)]
    assert facts[0].tags["recipe"] == "tiny" and facts[0].run_id == run.run_id and facts[0].model_id != facts[1].model_id
    assert tracking.model_description(uri, "model") == "about" and tracking.model_tags(uri, "model") == {"team": "chairs"}
    with pytest.raises(UserError, match="no registered model 'nothing'"):
        tracking.versions(uri, "nothing")

    assert tracking.read_model_file(uri, one, "unet/model.txt") == b"numbers"
    assert tracking.read_model_file(uri, one, "trained_uids.json") is None
    tracking.set_version_tags(uri, one, {"x": "1"})
    for _ in range(2):
        tracking.delete_version_tag(uri, one, "x")
    assert "x" not in tracking.version_tags(uri, one)

    # Figures may be seen per data set, and a long description is cut to what a database keeps.
    tracking.log_version_metrics(uri, one, run, {"f_score@0.01": 0.25}, ("40 objects", "d" * 64))
    model = tracking.client_of(uri).get_logged_model(facts[0].model_id)
    assert [(m.key, m.value, m.dataset_digest) for m in model.metrics] == [("f_score_at_0.01", 0.25, "d" * 36)]
    tracking.describe_version(uri, one, "x" * 9000)
    assert len(tracking.version_facts(uri, one).description) == 5000

    # A run that is gone is no place to keep anything.
    assert tracking.run_of(uri, one) == run and tracking.run_of(uri, tracking.ModelVersion("model", "9", "models:/model/9")) is None
    tracking.client_of(uri).delete_run(run.run_id)
    assert tracking.run_of(uri, one) is None and tracking.read_artifact(uri, run.run_id, "nothing.json") is None


def test_unusable_addresses_are_refused_at_once(tmp_path):
    for uri in ("http://127.0.0.1:9", "http://", "sqlite:///relative.db", "sqlite:////proc/nowhere/m.db", str(tmp_path), "postgres://x"):
        with pytest.raises(UserError):
            tracking.check(uri)
    (tmp_path / "not-a-database.db").write_text("this is a text file, quite a long one, and surely no database")
    with pytest.raises(UserError):
        tracking.check(f"sqlite:///{tmp_path}/not-a-database.db")


class Refusing(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        self.send_response(403)
        self.end_headers()
        self.wfile.write(b"Invalid Host header")

    def log_message(self, *_):
        pass


def test_a_server_that_refuses_our_host_name_says_how_to_allow_it():
    server = http.server.HTTPServer(("127.0.0.1", 0), Refusing)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        with pytest.raises(UserError, match="403") as caught:
            tracking.check(f"http://127.0.0.1:{server.server_port}")
        assert "--allowed-hosts" in caught.value.mend
    finally:
        server.shutdown()
        server.server_close()


def test_a_usable_store_passes(tracking_uri):
    tracking.check(tracking_uri)
