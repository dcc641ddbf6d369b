"""What the registry says of the files that its versions need."""

from infra import tracking
from infra.tracking.sources import version_sources


def test_versions_of_all_models_with_their_places_and_builds(tracking_uri, tmp_path):
    assert version_sources(tracking_uri) == []
    client, build = tracking.client_of(tracking_uri), "20260101T120000-ab12cd"
    for name, source, tags in (
        ("one", str(tmp_path / "a" / "model"), {}),
        ("one", f"file://{tmp_path}/b", {tracking.BUILD_TAG: build}),
        ("two", f"file://{tmp_path}/c", {}),
    ):
        if name not in tracking.model_names(tracking_uri):
            client.create_registered_model(name)
        client.create_model_version(name, source=source, tags=tags)
    rows = {row["uri"]: (row["source"].removeprefix("file://"), row["build_id"]) for row in version_sources(tracking_uri)}
    assert rows == {
        "models:/one/1": (str(tmp_path / "a" / "model"), ""),
        "models:/one/2": (f"{tmp_path}/b", build),
        "models:/two/1": (f"{tmp_path}/c", ""),
    }
