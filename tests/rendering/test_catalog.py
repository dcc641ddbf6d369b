"""The catalog: what each source yields, how it is divided, and what is refused."""

from pathlib import Path

import pytest

from infra.errors import UserError
from infra.job import Job
from infra.storage import Location
from pipelines.fingerprint import digest
from rendering.catalog import SCHEMA, CatalogConfig, list_objects, read_objects, read_policy, run, select_objects, source_state
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
            "tags": [{"name": "toy"}, {"name": f"kind {n}"}],
            "categories": [{"name": "furniture-home"}],
        }
        for n, uid in enumerate(uids)
    }
    files = objaverse_files({uid: named(n) for n, uid in enumerate(uids)}, annotations, {"chair": uids[2:7], "mug": uids[5:9]})
    write_tree(files, tmp_path / "mirror")
    return tmp_path / "mirror"


def objaverse(mirror: Path, **options) -> CatalogConfig:
    """All licences are allowed unless the test says otherwise: objects 0, 3, 6 and 9 are CC-BY-NC, the others CC-BY."""
    common = {"source": "objaverse", "objaverse_base_url": f"file://{mirror}", "objaverse_cache": str(mirror / "no-cache"), **UNDIVIDED}
    return CatalogConfig(**common | {"licences": ("any",)} | options)


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


def uids_of(*numbers: int) -> tuple[str, ...]:
    return tuple(f"{number:032x}" for number in numbers)


def excluded(config: CatalogConfig) -> dict[int, str]:
    return {int(exclusion.uid, 16): exclusion.reason for exclusion in select_objects(config, JOB)[1]}


def test_licences_are_judged_before_anything_is_downloaded_and_the_count_is_filled(objaverse_mirror, tmp_path):
    config = objaverse(objaverse_mirror, count=8, licences=())
    out = Location(str(tmp_path))
    summary = run(config, out=out / "out", job=JOB)
    rows = (out / "out" / "objects.parquet").read_table().to_pylist()
    assert sorted(int(row["uid"], 16) for row in rows) == [1, 2, 4, 5, 7, 8, 10, 11] and summary.completed == 8
    refused = Location(str(tmp_path / "out" / "excluded.parquet")).read_table().to_pylist()
    assert {int(row["uid"], 16) for row in refused} <= {0, 3, 6, 9} and summary.rejected == len(refused)
    assert {(row["reason"], row["licence"]) for row in refused} <= {("licence_non_commercial", "CC-BY-NC-4.0")}
    assert summary.facts["excluded"] == {"licence_non_commercial": len(refused)}
    assert "CC-BY" in read_policy(Location(str(tmp_path / "out"))).allowed
    assert read_objects(Location(str(tmp_path / "out")))[0].author == "Maker 1"


def test_the_default_policy_of_objaverse_and_an_explicit_one(objaverse_mirror):
    everything = uids_of(*range(12))
    assert excluded(objaverse(objaverse_mirror, uids=everything, licences=())) == dict.fromkeys((0, 3, 6, 9), "licence_non_commercial")
    assert excluded(objaverse(objaverse_mirror, uids=everything)) == {}
    only_nc = objaverse(objaverse_mirror, uids=everything, licences=("cc-by-nc",))
    assert numbers(only_nc) == [0, 3, 6, 9] and set(excluded(only_nc).values()) == {"licence_not_allowed"}
    assert numbers(objaverse(objaverse_mirror, uids=everything, licences=("CC-BY-NC-3.0", "cc0"))) == []


def test_a_smaller_count_is_part_of_a_larger_one_under_a_policy(objaverse_mirror):
    chosen = [set(numbers(objaverse(objaverse_mirror, count=count, licences=()))) for count in (1, 3, 5, 8, 50)]
    assert [len(numbers) for numbers in chosen] == [1, 3, 5, 8, 8]
    assert all(small <= large for small, large in zip(chosen, chosen[1:], strict=False))


def test_a_folder_vouches_for_files_that_state_nothing_but_not_against_what_they_state(tmp_path):
    files = {
        "plain.glb": named(1),
        "notice.glb": named(2, copyright="2020 Ann"),
        "by.glb": named(3, extras={"license": "CC-BY-4.0"}),
        "nc.glb": named(4, extras={"license": "CC Attribution-NonCommercial 4.0"}),
        "nd.glb": named(5, copyright="Ann, CC BY-ND 4.0"),
        "shop.glb": named(6, extras={"license": "Shop Standard"}),
    }
    write_tree(files, tmp_path)
    found, left_out = select_objects(local(tmp_path), JOB)
    assert {Path(ref.uri).stem for ref in found} == {"plain", "notice", "by"}
    reasons = {exclusion.uid.split("-")[0]: exclusion.reason for exclusion in left_out}
    assert reasons == {"nc": "licence_non_commercial", "nd": "licence_no_derivatives", "shop": "licence_not_allowed"}
    strict = CatalogConfig(source=f"local:{tmp_path}", licences=("cc-by",), **UNDIVIDED)
    assert [Path(ref.uri).stem for ref in list_objects(strict, JOB)] == ["by"]


def test_a_policy_that_nothing_passes_and_a_name_that_is_none(tmp_path):
    write_tree({"nc.glb": named(1, extras={"license": "CC-BY-NC-4.0"})}, tmp_path / "in")
    with pytest.raises(UserError, match="yields no object; excluded: licence_non_commercial 1") as caught:
        run(local(tmp_path / "in"), out=Location(str(tmp_path / "out")), job=JOB)
    assert "catalog.licences" in caught.value.mend and not (tmp_path / "out").exists()
    with pytest.raises(UserError, match="unknown licence 'cc-bye'") as caught:
        list_objects(CatalogConfig(licences=("cc-bye",)), JOB)
    assert "did you mean 'CC-BY'" in caught.value.mend


def write_scores(folder: Path, name: str = "scores.csv") -> str:
    """Scores 0 to 11 for the twelve objects but the last, whose score is missing; best are the highest numbers."""
    lines = [f"https://sketchfab.com/3d-models/{uid},{number}" for number, uid in enumerate(uids_of(*range(11)))]
    (folder / name).write_text("\n".join(["file_identifier,aesthetic", *lines]) + "\n")
    return str(folder / name)


def test_scores_are_joined_by_uid_and_filter(objaverse_mirror, tmp_path):
    scored = {"scores": write_scores(tmp_path), "scores_column": "aesthetic", "scores_uid_column": "file_identifier"}
    (ref,) = list_objects(objaverse(objaverse_mirror, uids=uids_of(4), **scored), JOB)
    assert ref.score == 4.0
    assert numbers(objaverse(objaverse_mirror, count=50, min_score=8.0, **scored)) == [8, 9, 10]
    assert excluded(objaverse(objaverse_mirror, uids=uids_of(7, 8, 11), min_score=8.0, **scored)) == {7: "score_low", 11: "score_missing"}
    assert numbers(objaverse(objaverse_mirror, count=50, top_fraction=0.3, **scored)) == [8, 9, 10], "round(0.3 * 11) = 3 of 11"
    assert numbers(objaverse(objaverse_mirror, count=2, top_fraction=0.5, min_score=9.5, **scored)) == [10]
    (tmp_path / "digits.csv").write_text(f'uid,note,score\n{4:032d},"two\nlines",1.5\n')
    (ref,) = list_objects(objaverse(objaverse_mirror, uids=(f"{4:032d}",), scores=str(tmp_path / "digits.csv")), JOB)
    assert ref.score == 1.5, "a uid of digits only is no number"
    both = objaverse(objaverse_mirror, count=50, min_score=8.0, licences=(), **scored)
    assert numbers(both) == [8, 10] and excluded(both)[9] == "licence_non_commercial"


def test_scores_of_a_parquet_table_and_of_a_folder(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    write_tree({"a.glb": named(1), "b.glb": named(2)}, tmp_path / "in")
    uids = [ref.uid for ref in list_objects(local(tmp_path / "in"), JOB)]
    pq.write_table(pa.table({"uid": [*uids, "other"], "score": pa.array([1, 5, None], pa.int32())}), tmp_path / "scores.parquet")
    config = CatalogConfig(source=f"local:{tmp_path / 'in'}", scores=f"file://{tmp_path}/scores.parquet", min_score=3.0, **UNDIVIDED)
    run(config, out=Location(str(tmp_path / "out")), job=JOB)
    (row,) = Location(str(tmp_path / "out" / "objects.parquet")).read_table().to_pylist()
    assert row["score"] == 5.0 and row["uid"] == uids[1]


def test_captions_by_name_by_tags_and_from_a_table(objaverse_mirror, tmp_path):
    two = {"uids": uids_of(3, 4)}

    def captions(**options) -> list[str]:
        return [ref.caption for ref in list_objects(objaverse(objaverse_mirror, **two, **options), JOB)]

    assert captions() == ["Thing 3", "Thing 4"]
    assert captions(captions="name+tags") == ["Thing 3, toy, kind 3", "Thing 4, toy, kind 4"]
    (tmp_path / "cap3d.csv").write_text(f'{uids_of(3)[0]},"A chair, made of ""oak"""\n{"e" * 32},A mug\n')
    assert captions(captions=str(tmp_path / "cap3d.csv")) == ['A chair, made of "oak"', "Thing 4"]
    assert captions(captions=f"file://{tmp_path}/cap3d.csv")[0].startswith("A chair")
    (ref,) = list_objects(objaverse(objaverse_mirror, uids=uids_of(3)), JOB)
    assert (ref.tags, ref.title, ref.author, ref.source_page) == ("toy, kind 3", "Thing 3", "Maker 3", f"https://example.org/{3:032x}")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"min_score": 5.0}, "min_score and top_fraction need scores"),
        ({"top_fraction": 1.5}, "top_fraction=1.5 is no share"),
        ({"scores": "TABLE", "scores_column": "beauty"}, "has no column 'uid'; it has: file_identifier, aesthetic"),
        ({"scores": "TABLE", "scores_uid_column": "file_identifier", "scores_column": "beauty"}, "has no column 'beauty'"),
        ({"scores": "/nowhere/scores.csv"}, "cannot be read: FileNotFoundError"),
        ({"scores": "file:///nowhere/scores.csv"}, "not_found"),
        ({"scores": "FOREIGN"}, "none of the 1 uids of the score table, such as 'zzz', is among the 12 objects"),
        ({"captions": "FOREIGN"}, "none of the 1 uids of the caption table"),
        ({"captions": "THREE"}, "row 2 has 3 columns"),
        ({"captions": "nme"}, "captions='nme' is no caption source"),
    ],
)
def test_tables_that_do_not_fit_are_one_clear_error(objaverse_mirror, tmp_path, options, words):
    (tmp_path / "foreign.csv").write_text("uid,score\nzzz,1\n")
    (tmp_path / "three.csv").write_text("a,b\na,b,c\n")
    tables = {"TABLE": write_scores(tmp_path), "FOREIGN": str(tmp_path / "foreign.csv"), "THREE": str(tmp_path / "three.csv")}
    with pytest.raises(UserError) as caught:
        list_objects(objaverse(objaverse_mirror, **{name: tables.get(value, value) for name, value in options.items()}), JOB)
    assert words in caught.value.message and caught.value.mend


def test_tables_count_by_content_and_mirrors_not_at_all(objaverse_mirror, tmp_path):
    scores = write_scores(tmp_path)
    first = digest(objaverse(objaverse_mirror, scores=scores))
    assert digest(objaverse(objaverse_mirror, scores=scores, objaverse_mirrors=("file:///elsewhere",))) == first
    assert digest(objaverse(objaverse_mirror, scores=write_scores(tmp_path, "moved.csv"))) == first
    Path(scores).write_text("uid,score\n1,2\n")
    assert digest(objaverse(objaverse_mirror, scores=scores)) != first
