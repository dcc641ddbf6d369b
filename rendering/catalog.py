"""[step] Which objects there are: a table of uids with licence, attribution, duplicate group and split."""

import hashlib
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from difflib import get_close_matches
from pathlib import Path

import pyarrow as pa

from infra.errors import UserError
from infra.job import Job, Summary
from infra.storage import Location
from rendering.sources import local, objaverse, procedural
from rendering.sources.base import LOCAL, OBJAVERSE, PROCEDURAL, ObjectRef
from rendering.split import check_fractions, check_splits, split_of

OBJECTS = "objects.parquet"
SCHEMA = pa.schema(
    [(name, pa.string()) for name in ("uid", "source", "uri", "sha256", "group", "split", "category", "licence", "attribution", "caption")]
    + [("bytes", pa.int64())]
)


@dataclass(frozen=True)
class CatalogConfig:
    """Which objects, and how they are divided.

    Attributes:
        source: `procedural`, `local:/absolute/folder` or `objaverse`.
        count: number of procedural objects, or of Objaverse objects to choose by category, filter or chance. Objects that
            are named by uid and files of a folder are all taken. Raising it only adds objects.
        seed: of the procedural objects and of the choice among Objaverse's.
        families: procedural families to draw from; empty means all.
        uids: Objaverse uids.
        uid_file: absolute path of a file with Objaverse uids, one a line or a JSON list.
        lvis_categories: LVIS names; adds their objects to those of `uids` and `uid_file`.
        licences: keep only these Objaverse licences, such as `CC-BY-4.0`; empty means all.
        min_faces, max_faces: annotated face counts to keep; 0 means no bound.
        objaverse_base_url: http, https or file URL of a mirror in the layout of the original.
        objaverse_cache: folder of the `objaverse` package's cache; empty means the package's own.
        objaverse_checksums: absolute path of Objaverse-XL's sketchfab.parquet, whose sha256 downloads are held against.
        val_fraction, test_fraction: expected shares of duplicate groups; exactly 0 asks for an empty split.
        split_seed: another seed divides anew. The default divides small catalogs evenly (6 objects 4/1/1, 24 objects 15/4/5).
    """

    source: str = PROCEDURAL
    count: int = 24
    seed: int = 0
    families: tuple[str, ...] = ()
    uids: tuple[str, ...] = ()
    uid_file: str = ""
    lvis_categories: tuple[str, ...] = ()
    licences: tuple[str, ...] = ()
    min_faces: int = 0
    max_faces: int = 0
    objaverse_base_url: str = objaverse.BASE_URL
    objaverse_cache: str = ""
    objaverse_checksums: str = ""
    val_fraction: float = 0.2
    test_fraction: float = 0.2
    split_seed: int = 134


def run(config: CatalogConfig, *, out: Location, job: Job) -> Summary:
    """Write `objects.parquet`, sorted by uid, into `out`; items are objects.

    Raises:
        UserError: unknown source, family or category, missing or empty folder, unreachable index, an empty split.
    """
    check_fractions(config.val_fraction, config.test_fraction)
    found = list_objects(config, job)
    if not found:
        raise UserError(f"the source '{config.source}' yields no object", "ask for more objects, or loosen the filters")
    check_splits((ref.group for ref in found), config.val_fraction, config.test_fraction, config.split_seed)
    objects = [replace(ref, split=split_of(ref.group, config.val_fraction, config.test_fraction, config.split_seed)) for ref in found]
    write_objects(objects, out)
    splits, licences = Counter(ref.split for ref in objects), Counter(ref.licence for ref in objects)
    facts = {"source": config.source, "splits": dict(splits), "licences": dict(licences), "groups": len({ref.group for ref in objects})}
    return Summary(completed=len(objects), facts=facts)


def list_objects(config: CatalogConfig, job: Job) -> list[ObjectRef]:
    """The objects of the configured source, without splits. Raises UserError as `run` does."""
    kind, _, argument = config.source.partition(":")
    if config.count < 1:
        raise UserError(f"count={config.count} asks for no object", "set catalog.count to 1 or more")
    if kind == PROCEDURAL and not argument:
        return procedural.list_objects(config.count, config.seed, config.families)
    if kind == LOCAL and argument:
        return local.list_objects(Path(argument.removeprefix("file://")).expanduser())
    if kind == OBJAVERSE and not argument:
        return _list_objaverse(config, job)
    raise _unknown_source(config.source, kind)


def _unknown_source(source: str, kind: str) -> UserError:
    forms = {PROCEDURAL: PROCEDURAL, LOCAL: f"{LOCAL}:/absolute/folder", OBJAVERSE: OBJAVERSE}
    near = get_close_matches(kind, forms, n=1)
    hint = f"did you mean '{forms[near[0]]}'? " if near else ""
    return UserError(f"unknown source '{source}'", f"{hint}known: {', '.join(forms.values())}")


def _list_objaverse(config: CatalogConfig, job: Job) -> list[ObjectRef]:
    package_cache = Path(config.objaverse_cache) if config.objaverse_cache else objaverse.default_cache()
    uids = config.uids + (tuple(objaverse.read_uid_file(Path(config.uid_file))) if config.uid_file else ())
    checksums = objaverse.read_checksums(config.objaverse_checksums) if config.objaverse_checksums else None
    with _index_folder(job) as folder:
        index = objaverse.Index(config.objaverse_base_url, folder, package_cache)
        return objaverse.list_objects(
            index,
            uids=uids,
            categories=config.lvis_categories,
            licences=config.licences,
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
    with tempfile.TemporaryDirectory(prefix="mvforge-index-") as folder:
        yield Path(folder)


def source_state(config: CatalogConfig) -> str:
    """A digest of what the source holds now beyond the configuration: the files of a local folder, a uid file.

    Belongs into the step's fingerprint; empty for sources that the configuration alone determines.
    """
    kind, _, argument = config.source.partition(":")
    if kind == LOCAL and argument:
        lines = [f"{ref.uid} {ref.uri} {ref.sha256}" for ref in list_objects(config, Job())]
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
