"""Notes and shards of another version: read where they can be, refused with the way out where not, never guessed."""

import dataclasses
import json
import os
import socket
import time

import pytest

from infra.errors import UserError
from infra.processes import start_time
from infra.storage import Location
from pipelines.artifact import Building, Store
from pipelines.dag import Step, decide_all
from pipelines.lease import Lease, read_holder
from pipelines.runner import NoTracking, Plan, run
from pipelines.schema import SCHEMA
from rendering.render_status import Started, render_status
from rendering.views import SCHEMA as VIEW_SCHEMA
from rendering.views import VERSION_KEY, ViewStore
from tests.pipelines.stores import finished, record
from tests.pipelines.test_runner import Count, make_items

STEPS = [Step("items", make_items, Count(), "data")]


@pytest.fixture
def store(tmp_path):
    return Store(Location(str(tmp_path / "store")))


def rewrite(place: Location, **entries) -> None:
    place.write_json(place.read_json() | entries)


def test_records_say_in_which_format_they_are(store):
    made = finished(store, "catalog", "tiny")
    place = store.folder("catalog", "tiny") / "record.json"
    assert place.read_json()["schema"] == SCHEMA and store.record("catalog", "tiny") == made


def test_a_record_of_before_there_was_a_format_is_read_and_reused(store):
    run(STEPS, "a", store, Plan(), NoTracking())
    place = store.folder("items", "a") / "record.json"
    old = {key: value for key, value in place.read_json().items() if key not in ("schema", "rejected", "facts")}
    place.write_json(old)
    assert run(STEPS, "a", store, Plan(), NoTracking()).ran == []
    assert store.record("items", "a").rejected == 0


def test_entries_that_a_later_version_adds_are_passed_over(store):
    made = finished(store, "catalog", "tiny", {"above": dataclasses.replace(read_reference(), step="x")})
    place = store.folder("catalog", "tiny") / "record.json"
    value = place.read_json()
    value["inputs"]["above"]["host"] = "new"
    place.write_json(value | {"carbon": 3})
    assert store.record("catalog", "tiny") == made
    building = Building("20260101T120000-ab12cd", "print", "build", 1.0)
    store.note_building("catalog", "tiny", building)
    rewrite(store.folder("catalog", "tiny") / "building.json", carbon=3)
    assert store.building("catalog", "tiny") == building


def read_reference():
    from pipelines.artifact import InputRef

    return InputRef("catalog", "tiny", "20260101T120000-ab12cd")


def test_a_newer_format_is_refused_with_file_and_way_out(store):
    run(STEPS, "a", store, Plan(), NoTracking())
    place = store.folder("items", "a") / "record.json"
    rewrite(place, schema=SCHEMA + 1)
    before = place.read_bytes()
    with pytest.raises(UserError) as caught:
        decide_all(STEPS, "a", store)
    assert str(place) in caught.value.message and f"format {SCHEMA + 1}" in caught.value.message
    assert "--label NEW_LABEL" in caught.value.mend
    # The way out works, and leaves alone what the newer version wrote.
    assert run(STEPS, "b", store, Plan(), NoTracking()).ran == ["items"]
    assert place.read_bytes() == before


def test_a_newer_note_of_a_build_in_progress_is_refused(store):
    store.note_building("items", "a", Building("20260101T120000-ab12cd", "print", "build", 1.0))
    rewrite(store.folder("items", "a") / "building.json", schema=SCHEMA + 1)
    with pytest.raises(UserError, match="building.json was written by a newer mvforge"):
        run(STEPS, "a", store, Plan(), NoTracking())


@pytest.mark.parametrize("content", ["", "[]", "7", '{"schema": "two"}', '{"schema": true}', '{"inputs": {"a": {}}}', "\udcff"])
def test_damaged_notes_are_refused_by_name(store, content):
    for name, read in (("record.json", store.record), ("building.json", store.building)):
        place = store.folder("items", "a") / name
        place.write_bytes(content.encode(errors="surrogateescape"))
        with pytest.raises(UserError, match=f"{name} is damaged"):
            read("items", "a")
        place.delete()


def test_a_lease_of_a_later_version_is_not_taken_for_a_free_one(store):
    place = store.folder("items", "a") / "lease.json"
    now = time.time()
    holder = {"token": "t", "host": socket.gethostname(), "pid": os.getpid(), "pid_started": start_time(os.getpid())}
    place.write_json(holder | {"since": now, "heartbeat": now, "queue": "new"})
    assert read_holder(place) is not None
    with pytest.raises(UserError, match=f"being built by process {os.getpid()}"), Lease(place, "items"):
        pass


def test_a_start_note_of_a_later_version_is_read(store):
    out = store.folder("render", "a") / "20260101T120000-ab12cd"
    Started("a" * 12, 4, [("failed", "no_mesh", 1)], 8, 2).write(out)
    rewrite(out / "progress.json", energy=1)
    status = render_status(out, [])
    assert status is not None and (status.objects, status.failed, status.reasons) == (4, 1, {"no_mesh": 1})


@pytest.mark.parametrize("found, words", [(b"1", "in format 1"), (b"99", "in format 99"), (None, "is not a shard of views")])
def test_view_shards_of_another_format_are_refused_with_the_command(tmp_path, found, words):
    place = Location(str(tmp_path))
    metadata = {} if found is None else {VERSION_KEY: found}
    (place / "part-00000.parquet").write_table(VIEW_SCHEMA.empty_table().replace_schema_metadata(metadata))
    with pytest.raises(UserError, match=words) as caught:
        ViewStore(place).uids()
    assert "part-00000.parquet" in caught.value.message and "mvforge run RECIPE --rerun render" in caught.value.mend
    assert ("with the mvforge that wrote it" in caught.value.mend) == (found == b"99")


def test_records_round_trip_as_json():
    made = record("catalog", "tiny", "20260101T120000-ab12cd", {"above": read_reference()}, facts={"n": 1})
    assert type(made).from_json(json.loads(json.dumps(made.to_json()))) == made
