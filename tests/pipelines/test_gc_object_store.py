"""`mvforge gc` on a store on S3 (a real server of its protocol), where there is no rename and no folder."""

from collections.abc import Iterator

import pytest

from infra.storage import Location
from pipelines import sweep
from pipelines.artifact import Store
from pipelines.lease import Lease
from pipelines.references import Registered
from tests.pipelines.stores import finished, interrupted, orphan
from tests.s3_server import s3_folder


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    """URL of an empty folder."""
    with s3_folder("store") as url:
        yield url


def test_a_store_on_s3(bucket):
    store = Store(Location(bucket))
    made = finished(store, "train.unet1", "tiny")
    lost, needed = orphan(store, "train.unet1", "tiny"), orphan(store, "register", "tiny")
    (lost / "state" / lost.name / "step-00000010-aa" / "manifest.json").write_text("{}")
    state = interrupted(store, "train.unet2", "tiny") / "state"
    half = state / state.path.split("/")[-2] / "step-00000010-aa"
    (half / "share-00000.json").write_text("{}")

    def ask() -> list[Registered]:
        return [Registered("models:/m/1", f"s3://forge/store/register/tiny/{needed.name}/model", "")]

    now = sweep.Choice(older_than_s=-60)  # times are the server's, and whole seconds
    found = sweep.survey(store, now, ask)
    assert {(item.kind, item.place.uri) for item in found.garbage} == {("build", lost.uri), ("checkpoint", half.uri)}
    item = next(item for item in found.garbage if item.kind == "build")
    assert item.bytes == 202 and item.first == (f"state/{lost.name}/step-00000010-aa/manifest.json",)
    with Lease(store.folder("train.unet1", "tiny") / "lease.json", "train"):
        # All builds stay; the half-written checkpoint is of another label, at which no one works.
        done = sweep.sweep(store, now, ask, print)
        assert [each.place for each in done.deleted] == [half] and len(lost.walk()) == 3
    done = sweep.sweep(store, now, ask, print)
    assert [each.place.uri for each in done.deleted] == [lost.uri] and not lost.walk() and needed.walk()
    assert store.record("train.unet1", "tiny") == made and len(store.data(made).walk()) == 2
    assert not (store.folder("train.unet1", "tiny") / "lease.json").exists()
