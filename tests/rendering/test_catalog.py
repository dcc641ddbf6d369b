"""The catalog: what each source yields, how it is divided, and what is refused."""

from pathlib import Path

import pytest

from infra.errors import UserError
from infra.job import Job
from infra.storage import Location
from rendering.catalog import SCHEMA, CatalogConfig, list_objects, read_objects, run, source_state
from rendering.sources.base import file_safe
from tests.rendering.broken_glb import GOOD, glb
from tests.rendering.mirror import objaverse_files, packed, write_tree

JOB = Job()
UNDIVIDED = {"val_fraction": 0.0, "test_fraction": 0.0}


def named(number: int, **asset: object) -> bytes:
    """A distinct valid GLB."""
    return glb({"asset": {"version": "2.0", "generator": f"test {number}"} | asset})


def local(folder: Path) -> CatalogConfig:
    return CatalogConfig(source=f"local:{folder}", **UNDIVIDED)


def test_run_writes_every_column_once_per_object(tmp_path):
    summary = run(CatalogConfig(count=24), out=Location(str(tmp_path)), job=JOB)
    table = Location(str(tmp_path / "objects.parquet")).read_table()
    assert table.schema.equals(SCHEMA) and summary.completed == table.num_rows == 24
    rows = table.to_pylist()
    assert [row["uid"] for row in rows] == sorted({row["uid"] for row in rows})
    assert all(row["licence"] == "CC0-1.0" and row["attribution"] and row["caption"] and row["uri"] for row in rows)
    assert {split: sum(row["split"] == split for row in rows) for split in ("train", "val", "test")} == summary.facts["splits"]
    assert [ref.uid for ref in read_objects(Location(str(tmp_path)))] == [row["uid"] for row in rows]


@pytest.mark.parametrize("count", [4, 6, 24, 32])
def test_default_fractions_divide_small_procedural_catalogs(tmp_path, count):
    splits = run(CatalogConfig(count=count), out=Location(str(tmp_path)), job=JOB).facts["splits"]
    assert set(splits) == {"train", "val", "test"}


def test_growing_a_catalog_moves_and_renames_nothing(tmp_path):
    run(CatalogConfig(count=30), out=Location(str(tmp_path / "small")), job=JOB)
    run(CatalogConfig(count=90), out=Location(str(tmp_path / "large")), job=JOB)
    small = {ref.uid: ref for ref in read_objects(Location(str(tmp_path / "small")))}
    large = {ref.uid: ref for ref in read_objects(Location(str(tmp_path / "large")))}
    assert len(large) == 90 and {uid: large[uid] for uid in small} == small


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (CatalogConfig(source="procedual"), "did you mean 'procedural'"),
        (CatalogConfig(source="locl:/tmp"), "did you mean 'local:/absolute/folder'"),
        (CatalogConfig(source="local:"), "local:/absolute/folder"),
        (CatalogConfig(source="objaverse-xl"), "did you mean 'objaverse'"),
        (CatalogConfig(families=("vaze",)), "did you mean 'vase'"),
        (CatalogConfig(count=0), "catalog.count"),
        (CatalogConfig(source="local:relative/folder"), "absolute"),
        (CatalogConfig(val_fraction=0.7, test_fraction=0.4), "below 1"),
        (CatalogConfig(count=2), "add objects"),
    ],
)
def test_bad_configurations_name_the_mend(tmp_path, config, words):
    with pytest.raises(UserError) as caught:
        run(config, out=Location(str(tmp_path)), job=JOB)
    assert words in caught.value.mend and list(tmp_path.iterdir()) == []


def test_a_missing_and_an_empty_folder_are_named(tmp_path):
    with pytest.raises(UserError, match="nowhere does not exist"):
        list_objects(local(tmp_path / "nowhere"), JOB)
    (tmp_path / "notes.txt").write_text("no 3D file")
    with pytest.raises(UserError) as caught:
        list_objects(local(tmp_path), JOB)
    assert str(tmp_path) in caught.value.message and ".glb" in caught.value.mend
    with pytest.raises(UserError, match="is not a folder"):
        list_objects(local(tmp_path / "notes.txt"), JOB)


def test_a_folder_is_searched_below_and_other_files_are_left_out(tmp_path):
    write_tree(
        {
            "b.glb": named(1),
            "deep/er/a.GLB": named(2),
            "c.gltf": b'{"asset": {"version": "2.0"}}',
            "readme.txt": b"x",
            "x.glb.bak": b"x",
            ".hidden.glb": named(3),
            ".trash/d.glb": named(4),
            "._c.gltf": b"resource fork",
        },
        tmp_path,
    )
    (tmp_path / "folder.glb").mkdir()
    found = list_objects(local(tmp_path), JOB)
    assert [Path(ref.uri).relative_to(tmp_path).as_posix() for ref in found] == ["b.glb", "c.gltf", "deep/er/a.GLB"]
    assert [ref.category for ref in found] == ["", "", "deep"]


def test_strange_names_become_safe_and_stay_apart(tmp_path):
    names = ["a b.glb", "a_b.glb", "$(touch x).glb", "-rf.glb", "\u00e9t\u00e9.glb", "'; rm.glb", "a..glb", "x" * 200 + ".glb"]
    write_tree({name: named(number) for number, name in enumerate(names)}, tmp_path)
    found = list_objects(local(tmp_path), JOB)
    assert len({ref.uid for ref in found}) == len(names)
    assert any(ref.uid.startswith("ete-") for ref in found)
    for ref in found:
        assert file_safe(ref.uid, 200) == ref.uid and len(ref.uid) < 80


def test_equal_files_share_a_group_and_a_split_but_not_a_uid(tmp_path):
    write_tree({"one/cup.glb": named(1), "two/cup.glb": named(1), "three/mug.glb": named(1), "other.glb": named(2)}, tmp_path)
    found = list_objects(CatalogConfig(source=f"local:{tmp_path}"), JOB)
    assert len({ref.uid for ref in found}) == 4
    assert len({ref.group for ref in found}) == 2
    with pytest.raises(UserError, match="2 distinct objects"):
        run(CatalogConfig(source=f"local:{tmp_path}"), out=Location(str(tmp_path / "out")), job=JOB)


def test_broken_files_are_listed_and_licences_are_read(tmp_path):
    write_tree({"bad.glb": b"junk", "good.glb": named(1, extras={"license": "CC-BY-4.0", "author": "Ann"}), "plain.glb": GOOD}, tmp_path)
    found = {Path(ref.uri).stem: ref for ref in list_objects(local(tmp_path), JOB)}
    assert found["bad"].licence == found["plain"].licence == "unknown"
    assert (found["good"].licence, found["good"].attribution) == ("CC-BY-4.0", "Ann")


def test_the_state_of_a_folder_follows_its_content_only(tmp_path):
    write_tree({"a.glb": named(1)}, tmp_path)
    before = source_state(local(tmp_path))
    (tmp_path / "note.txt").write_text("ignored")
    (tmp_path / "a.glb").touch()
    assert source_state(local(tmp_path)) == before
    write_tree({"b.glb": named(2)}, tmp_path)
    assert source_state(local(tmp_path)) != before
    assert source_state(CatalogConfig()) == ""


def test_real_assets_divide_with_the_defaults(assets, tmp_path):
    summary = run(CatalogConfig(source=f"local:{assets}"), out=Location(str(tmp_path)), job=JOB)
    assert summary.completed == 17 and set(summary.facts["splits"]) == {"train", "val", "test"}
    assert summary.facts["licences"]["CC-BY-4.0"] == 9


@pytest.fixture
def objaverse_mirror(tmp_path) -> Path:
    uids = [f"{number:032x}" for number in range(12)]
    annotations = {
        uid: {
            "name": f"Thing {n}",
            "license": "by-nc" if n % 3 == 0 else "by",
            "faceCount": 100 * n,
            "viewerUrl": f"https://example.org/{uid}",
            "user": {"displayName": f"Maker {n}"},
            "categories": [{"name": "furniture-home"}],
        }
        for n, uid in enumerate(uids)
    }
    files = objaverse_files({uid: named(n) for n, uid in enumerate(uids)}, annotations, {"chair": uids[2:7], "mug": uids[5:9]})
    write_tree(files, tmp_path / "mirror")
    return tmp_path / "mirror"


def objaverse(mirror: Path, **options) -> CatalogConfig:
    return CatalogConfig(
        source="objaverse", objaverse_base_url=f"file://{mirror}", objaverse_cache=str(mirror / "no-cache"), **UNDIVIDED | options
    )


def numbers(config: CatalogConfig) -> list[int]:
    return sorted(int(ref.uid, 16) for ref in list_objects(config, JOB))


def test_objaverse_by_uid_file_category_and_annotation(objaverse_mirror, tmp_path):
    (tmp_path / "uids.txt").write_text(f"# chosen by hand\n{3:032x}\n\n{4:032x}  # a good one\n")
    assert numbers(objaverse(objaverse_mirror, uid_file=str(tmp_path / "uids.txt"))) == [3, 4]
    assert numbers(objaverse(objaverse_mirror, uids=tuple(f"{n:032x}" for n in range(10)), count=2)) == list(range(10))
    assert numbers(objaverse(objaverse_mirror, lvis_categories=("chair", "mug"))) == [2, 3, 4, 5, 6, 7, 8]
    assert numbers(objaverse(objaverse_mirror, licences=("CC-BY-4.0",), min_faces=200, max_faces=800)) == [2, 4, 5, 7, 8]
    four, six = (numbers(objaverse(objaverse_mirror, count=count)) for count in (4, 6))
    assert len(four) == 4 and len(six) == 6 and set(four) < set(six)


def test_objaverse_rows_carry_licence_author_and_address(objaverse_mirror):
    (ref,) = list_objects(objaverse(objaverse_mirror, uids=(f"{3:032x}",)), JOB)
    assert ref.licence == "CC-BY-NC-4.0" and ref.caption == "Thing 3" and ref.category == "furniture-home"
    assert "Maker 3" in ref.attribution and "https://example.org" in ref.attribution
    assert ref.uri == f"file://{objaverse_mirror}/glbs/000-007/{3:032x}.glb"


def test_an_unknown_uid_is_kept_for_fetch_to_report(objaverse_mirror):
    (ref,) = list_objects(objaverse(objaverse_mirror, uids=("f" * 32,)), JOB)
    assert ref.uri == "" and ref.licence == "unknown"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"lvis_categories": ("chairs",)}, "chair"),
        ({"uids": ("../../etc/passwd",)}, "letters and digits"),
        ({"uid_file": "/nowhere/uids.txt"}, "one uid a line"),
    ],
)
def test_objaverse_requests_that_cannot_be_met(objaverse_mirror, options, words):
    with pytest.raises(UserError) as caught:
        list_objects(objaverse(objaverse_mirror, **options), JOB)
    assert words in caught.value.mend


def test_a_filter_that_nothing_passes_is_refused(objaverse_mirror, tmp_path):
    with pytest.raises(UserError, match="yields no object"):
        run(objaverse(objaverse_mirror, min_faces=10**9), out=Location(str(tmp_path / "out")), job=JOB)


def test_a_cut_index_in_the_cache_is_fetched_again_and_an_unreachable_one_is_named(objaverse_mirror, tmp_path):
    job = Job(cache=Location(str(tmp_path / "cache")))
    config = objaverse(objaverse_mirror, uids=(f"{1:032x}",))
    list_objects(config, job)
    (index,) = (tmp_path / "cache" / "index").rglob("object-paths.json.gz")
    whole = index.read_bytes()
    index.write_bytes(whole[: len(whole) // 2])
    list_objects(config, job)
    assert index.read_bytes() == whole
    (objaverse_mirror / "object-paths.json.gz").write_bytes(packed([])[:9])
    with pytest.raises(UserError, match="object-paths.json.gz"):
        list_objects(
            CatalogConfig(source="objaverse", objaverse_base_url=f"file://{objaverse_mirror}/gone", objaverse_cache="/nowhere"), JOB
        )


def test_checksums_come_from_the_xl_table_when_given(objaverse_mirror, tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    uid = f"{1:032x}"
    table = pa.table({"fileIdentifier": [f"https://sketchfab.com/3d-models/{uid}"], "sha256": ["ab" * 32], "license": ["by"]})
    pq.write_table(table, tmp_path / "sketchfab.parquet")
    (ref,) = list_objects(objaverse(objaverse_mirror, uids=(uid,), objaverse_checksums=str(tmp_path / "sketchfab.parquet")), JOB)
    assert ref.sha256 == ref.group == "ab" * 32
