"""[step] Which objects there are: a table of uids with licence, attribution, duplicate group and split."""

import hashlib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from difflib import get_close_matches
from pathlib import Path

import pyarrow as pa

from infra.errors import UserError
from infra.job import Job, Summary
from infra.scratch import scratch_folder
from infra.storage import Location
from rendering.annotation_tables import read_captions, read_scores
from rendering.licences import LicencePolicy
from rendering.selection import Exclusion, Selection, write_excluded
from rendering.sources import local, objaverse, procedural
from rendering.sources.base import LOCAL, OBJAVERSE, PROCEDURAL, ObjectRef
from rendering.sources.objaverse_index import BASE_URL, Index
from rendering.split import check_fractions, check_splits, split_of

OBJECTS, POLICY = "objects.parquet", "policy.json"
_TEXTS = ("uid", "source", "uri", "sha256", "group", "split", "category", "licence", "attribution", "caption")
_MORE_TEXTS = ("tags", "title", "author", "source_page")
SCHEMA = pa.schema(
    [(name, pa.string()) for name in _TEXTS]
    + [("bytes", pa.int64())]
    + [(name, pa.string()) for name in _MORE_TEXTS]
    + [("score", pa.float64())]
)
NAME, NAME_AND_TAGS = "name", "name+tags"


@dataclass(frozen=True)
class CatalogConfig:
    """Which objects, and how they are divided.

    Attributes:
        source: `procedural`, `local:/absolute/folder` or `objaverse`.
        count: number of procedural objects, or of Objaverse objects to choose by category, filter or chance. Objects that
            are named by uid and files of a folder are all taken. Raising it only adds objects.
        seed: of the procedural objects and of the choice among Objaverse's.
        families: procedural families to draw from; empty means all.
        colours: of procedural objects: `contrasting` (front and back differ strongly) or `harmonious` (shades of one hue).
        uids: Objaverse uids.
        uid_file: absolute path of a file with Objaverse uids, one a line or a JSON list.
        lvis_categories: LVIS names; adds their objects to those of `uids` and `uid_file`.
        licences: the licences that are allowed, such as `cc0,cc-by` (every version) or `CC-BY-4.0` (that one); `any` allows
            all, `unknown` those that state none. Empty means CC0, CC-BY, CC-BY-SA, MIT and Apache-2.0, and for a folder also
            `unknown`: whoever names a folder vouches for its files, but not against what they state themselves.
        captions: `name`, `name+tags` (as MVDream trains on), or the path or URL of a CSV of uid and caption, such as Cap3D's;
            objects that are not in it keep their name.
        scores: path or URL of a CSV or Parquet table of quality scores, joined by uid.
        scores_column, scores_uid_column: its columns.
        min_score: take objects with at least this score (MVDiffusion++ section 5.1: 5); none asks for no score.
        top_fraction: take this best share of the scored objects (0.225 matches the paper's count); 0 takes all.
        min_faces, max_faces: annotated face counts to keep; 0 means no bound.
        objaverse_base_url: http, https or file URL of a mirror in the layout of the original.
        objaverse_mirrors: further base URLs for the index files, asked in order; `fetch.mirrors` are those for the objects.
        objaverse_cache: folder of the `objaverse` package's cache; empty means the package's own.
        objaverse_checksums: absolute path or URL of Objaverse-XL's sketchfab.parquet, whose sha256 downloads are held against.
        val_fraction, test_fraction: expected shares of duplicate groups; exactly 0 asks for an empty split.
        split_seed: another seed divides anew. The default divides small catalogs evenly (6 objects 4/1/1, 24 objects 15/4/5).
    """

    source: str = PROCEDURAL
    count: int = 24
    seed: int = 0
    families: tuple[str, ...] = ()
    colours: str = "contrasting"
    uids: tuple[str, ...] = ()
    uid_file: str = ""
    lvis_categories: tuple[str, ...] = ()
    licences: tuple[str, ...] = ()
    captions: str = field(default=NAME, metadata={"content": True})
    scores: str = field(default="", metadata={"content": True})
    scores_column: str = "score"
    scores_uid_column: str = "uid"
    min_score: float | None = None
    top_fraction: float = 0.0
    min_faces: int = 0
    max_faces: int = 0
    objaverse_base_url: str = BASE_URL
    objaverse_mirrors: tuple[str, ...] = field(default=(), metadata={"identity": False})
    objaverse_cache: str = ""
    objaverse_checksums: str = field(default="", metadata={"content": True})
    val_fraction: float = 0.2
    test_fraction: float = 0.2
    split_seed: int = 134


def run(config: CatalogConfig, *, out: Location, job: Job) -> Summary:
    """Write into `out`, sorted by uid, `objects.parquet` and `excluded.parquet`; items are objects, rejected the excluded.

    Also writes `policy.json`, the licences that were allowed: `fetch` holds against it what the files state themselves.

    Raises:
        UserError: unknown source, family, category or licence, missing or empty folder, unreachable index, a table that
            does not fit, no object left, or an empty split.
    """
    check_fractions(config.val_fraction, config.test_fraction)
    found, excluded = select_objects(config, job)
    reasons = dict(Counter(exclusion.reason for exclusion in excluded))
    if not found:
        counts = f"; excluded: {', '.join(f'{reason} {count}' for reason, count in reasons.items())}" if reasons else ""
        mend = "ask for more objects, or loosen the filters" + (" (catalog.licences allows more)" if reasons else "")
        raise UserError(f"the source '{config.source}' yields no object{counts}", mend)
    check_splits((ref.group for ref in found), config.val_fraction, config.test_fraction, config.split_seed)
    objects = [replace(ref, split=split_of(ref.group, config.val_fraction, config.test_fraction, config.split_seed)) for ref in found]
    write_excluded(excluded, out)
    (out / POLICY).write_json({"licences": list(_policy(config).allowed)})
    write_objects(objects, out)
    splits, licences = Counter(ref.split for ref in objects), Counter(ref.licence for ref in objects)
    facts = {"source": config.source, "splits": dict(splits), "licences": dict(licences), "groups": len({ref.group for ref in objects})}
    scored = sum(ref.score is not None for ref in objects)
    return Summary(completed=len(objects), rejected=len(excluded), facts={**facts, "excluded": reasons, "scored": scored})


def list_objects(config: CatalogConfig, job: Job) -> list[ObjectRef]:
    """The objects that the configuration asks for, without splits. Raises UserError as `run` does."""
    return select_objects(config, job)[0]


def select_objects(config: CatalogConfig, job: Job) -> tuple[list[ObjectRef], list[Exclusion]]:
    """The objects that pass, with caption and score, and those that were looked at and did not."""
    kind, _, argument = config.source.partition(":")
    if config.count < 1:
        raise UserError(f"count={config.count} asks for no object", "set catalog.count to 1 or more")
    if not 0.0 <= config.top_fraction <= 1.0:
        raise UserError(f"top_fraction={config.top_fraction:g} is no share", "set catalog.top_fraction between 0 and 1")
    selection = _selection(config)
    if kind == OBJAVERSE and not argument:
        found, excluded = _list_objaverse(config, selection, job)
    else:
        listed = _list_plain(config, kind, argument)
        selection = selection.among([ref.uid for ref in listed])
        judged = [(ref, selection.refusal(ref)) for ref in listed]
        found = [ref for ref, exclusion in judged if exclusion is None]
        excluded = [exclusion for _, exclusion in judged if exclusion is not None]
    return _captioned([replace(ref, score=selection.scores.get(ref.uid)) for ref in found], config), excluded


def _list_plain(config: CatalogConfig, kind: str, argument: str) -> list[ObjectRef]:
    if kind == PROCEDURAL and not argument:
        return procedural.list_objects(config.count, config.seed, config.families, config.colours)
    if kind == LOCAL and argument:
        return local.list_objects(Path(argument.removeprefix("file://")).expanduser())
    raise _unknown_source(config.source, kind)


def _policy(config: CatalogConfig) -> LicencePolicy:
    return LicencePolicy.of(config.licences, vouched=config.source.startswith(f"{LOCAL}:"))


def _selection(config: CatalogConfig) -> Selection:
    if not config.scores and (config.min_score is not None or config.top_fraction):
        raise UserError("min_score and top_fraction need scores", "set catalog.scores to a table of uid and score")
    scores = read_scores(config.scores, config.scores_column, config.scores_uid_column) if config.scores else {}
    return Selection(_policy(config), scores, config.min_score, config.top_fraction)


def _captioned(objects: list[ObjectRef], config: CatalogConfig) -> list[ObjectRef]:
    if config.captions == NAME:
        return objects
    if config.captions == NAME_AND_TAGS:
        return [replace(ref, caption=", ".join(part for part in (ref.caption, ref.tags) if part)) for ref in objects]
    if "/" not in config.captions:
        raise UserError(f"captions='{config.captions}' is no caption source", f"choose {NAME}, {NAME_AND_TAGS}, or give a path or URL")
    captions = read_captions(config.captions)
    if objects and not any(ref.uid in captions for ref in objects):
        example = next(iter(captions), "")
        message = f"none of the {len(captions)} uids of the caption table, such as '{example}', is among the {len(objects)} objects"
        raise UserError(message, "its first column must hold the uids of this source")
    return [replace(ref, caption=captions.get(ref.uid) or ref.caption) for ref in objects]


def _unknown_source(source: str, kind: str) -> UserError:
    forms = {PROCEDURAL: PROCEDURAL, LOCAL: f"{LOCAL}:/absolute/folder", OBJAVERSE: OBJAVERSE}
    near = get_close_matches(kind, forms, n=1)
    hint = f"did you mean '{forms[near[0]]}'? " if near else ""
    return UserError(f"unknown source '{source}'", f"{hint}known: {', '.join(forms.values())}")


def _list_objaverse(config: CatalogConfig, selection: Selection, job: Job) -> tuple[list[ObjectRef], list[Exclusion]]:
    package_cache = Path(config.objaverse_cache) if config.objaverse_cache else objaverse.default_cache()
    uids = config.uids + (tuple(objaverse.read_uid_file(Path(config.uid_file))) if config.uid_file else ())
    checksums = objaverse.read_checksums(config.objaverse_checksums) if config.objaverse_checksums else None
    with _index_folder(job) as folder:
        index = Index(config.objaverse_base_url, folder, package_cache, mirrors=config.objaverse_mirrors)
        return objaverse.list_objects(
            index,
            uids=uids,
            categories=config.lvis_categories,
            selection=selection,
            min_faces=config.min_faces,
            max_faces=config.max_faces,
            limit=0 if uids else config.count,
            seed=config.seed,
            checksums=checksums,
        )


@contextmanager
def _index_folder(job: Job) -> Iterator[Path]:
    """Index files are kept where the job keeps things, when that is a local folder."""
    if job.cache is not None and job.cache.is_local:
        yield (job.cache / "index").local_path()
        return
    with scratch_folder("index") as folder:
        yield Path(folder)


def source_state(config: CatalogConfig) -> str:
    """A digest of what the source holds now beyond the configuration: the files of a local folder, a uid file.

    Belongs into the step's fingerprint; empty for sources that the configuration alone determines.
    """
    kind, _, argument = config.source.partition(":")
    if kind == LOCAL and argument:
        lines = [f"{ref.uid} {ref.uri} {ref.sha256}" for ref in _list_plain(config, kind, argument)]
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()
    if kind == OBJAVERSE and config.uid_file:
        return hashlib.sha256("\n".join(objaverse.read_uid_file(Path(config.uid_file))).encode()).hexdigest()
    return ""


def write_objects(objects: list[ObjectRef], out: Location) -> None:
    rows = [asdict(ref) for ref in sorted(objects, key=lambda ref: ref.uid)]
    (out / OBJECTS).write_table(pa.Table.from_pylist(rows, schema=SCHEMA))


def read_objects(catalog: Location) -> list[ObjectRef]:
    """The objects of a catalog folder, sorted by uid."""
    rows = (catalog / OBJECTS).read_table(columns=SCHEMA.names).to_pylist()
    return [ObjectRef(**row) for row in rows]


def read_policy(catalog: Location) -> LicencePolicy:
    """The licences that the catalog was made with."""
    return LicencePolicy(tuple((catalog / POLICY).read_json()["licences"]))
