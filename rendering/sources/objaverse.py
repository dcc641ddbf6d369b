"""Objaverse 1.0: which objects there are, by uid list, LVIS category or annotation, and where their files lie.

File names, index formats and the cache layout are those of the `objaverse` package; no byte comes through its
download functions, which trust whatever lies in the cache and wait for ever.
"""

import gzip
import hashlib
import json
import zlib
from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from infra.errors import UserError
from infra.seeds import seed_for
from infra.storage import sha256_of
from rendering.download import DEFAULT_POLICY, DownloadPolicy, download
from rendering.glb_header import check_file
from rendering.licences import licence_name
from rendering.sources.base import OBJAVERSE, UNKNOWN_LICENCE, Fetched, FetchError, ObjectRef, file_safe

BASE_URL = "https://huggingface.co/datasets/allenai/objaverse/resolve/main"
OBJECT_PATHS, LVIS = "object-paths.json.gz", "lvis-annotations.json.gz"
LICENCES = {
    "by": "CC-BY-4.0",
    "by-sa": "CC-BY-SA-4.0",
    "by-nd": "CC-BY-ND-4.0",
    "by-nc": "CC-BY-NC-4.0",
    "by-nc-sa": "CC-BY-NC-SA-4.0",
    "by-nc-nd": "CC-BY-NC-ND-4.0",
    "cc0": "CC0-1.0",
}
"""The annotations' short names; Sketchfab grants its Creative Commons licences in version 4.0."""


def default_cache() -> Path:
    """Where the `objaverse` package keeps its files; it computes this from HOME when it is imported."""
    import objaverse

    return Path(objaverse._VERSIONED_PATH)


class Index:
    """The index files of one mirror, from the package's cache where they parse, else downloaded once into `folder`.

    Raises:
        UserError: an index file can neither be read nor fetched.
    """

    def __init__(self, base_url: str, folder: Path, package_cache: Path, policy: DownloadPolicy = DEFAULT_POLICY) -> None:
        self.base_url, self.package_cache, self.policy = base_url.rstrip("/"), package_cache, policy
        # One mirror's answers never stand for another's.
        self.folder = folder / hashlib.sha256(self.base_url.encode()).hexdigest()[:12]

    def _read(self, name: str) -> dict[str, Any]:
        candidates = [self.folder / name] + ([self.package_cache / name] if self.base_url == BASE_URL else [])
        for path in candidates:
            if (content := _parse_index(path)) is not None:
                return content
        try:
            fetched = download(f"{self.base_url}/{name}", lambda _: self.folder / name, check=_check_index, policy=self.policy)
        except FetchError as error:
            mend = "check catalog.objaverse_base_url and the network"
            raise UserError(f"the Objaverse index {name} cannot be had: {error}", mend) from error
        return _parse_index(Path(fetched.path)) or {}

    def object_paths(self) -> dict[str, str]:
        """uid -> path of the file below the base URL."""
        return self._read(OBJECT_PATHS)

    def lvis(self) -> dict[str, list[str]]:
        """LVIS category -> uids."""
        return self._read(LVIS)

    def annotations(self, paths: dict[str, str], uids: Iterable[str]) -> dict[str, dict[str, Any]]:
        """uid -> annotation, for the given uids; only the metadata files they lie in are read."""
        wanted = set(uids)
        shards = sorted({paths[uid].split("/")[1] for uid in wanted if uid in paths and paths[uid].count("/") >= 2})
        found: dict[str, dict[str, Any]] = {}
        for shard in shards:
            found |= {uid: entry for uid, entry in self._read(f"metadata/{file_safe(shard)}.json.gz").items() if uid in wanted}
        return found


def _parse_index(path: Path) -> dict[str, Any] | None:
    """The content of a gzipped JSON object, or None when there is none or it is cut or broken."""
    try:
        with gzip.open(path, "rb") as stream:
            content = json.load(stream)
    except (OSError, EOFError, ValueError, zlib.error):
        return None
    return content if isinstance(content, dict) else None


def _check_index(path: Path) -> None:
    if _parse_index(path) is None:
        raise FetchError("truncated", "not a complete gzipped JSON object")


def read_uid_file(path: Path) -> list[str]:
    """uids from a text file, one a line (blank lines and # comments allowed), or from a JSON list.

    Raises UserError: the file cannot be read or holds no uid.
    """
    try:
        text = path.read_text()
        uids = json.loads(text) if text.lstrip().startswith("[") else [line.split("#")[0].strip() for line in text.splitlines()]
    except (OSError, ValueError) as error:
        raise UserError(f"the uid file {path} cannot be read: {error}", "give a text file with one uid a line, or a JSON list") from error
    uids = [str(uid) for uid in uids if uid]
    if not uids:
        raise UserError(f"the uid file {path} holds no uid", "write one Objaverse uid a line")
    return uids


def choose_uids(index: Index, uids: Iterable[str], categories: Iterable[str]) -> tuple[list[str], dict[str, str]]:
    """The asked-for uids (all of Objaverse when nothing is asked), and uid -> LVIS category where that was asked for."""
    chosen = [uid.removesuffix(".glb") for uid in uids]
    category_of: dict[str, str] = {}
    unsafe = [uid for uid in chosen if file_safe(uid, 200) != uid]
    if unsafe:
        raise UserError(f"{unsafe[0]!r} is not an Objaverse uid", "uids are letters and digits, without a path")
    lvis = index.lvis() if categories else {}
    for category in categories:
        if category not in lvis:
            near = get_close_matches(category, lvis, n=1)
            mend = f"did you mean '{near[0]}'?" if near else f"see {LVIS} for the names"
            raise UserError(f"no LVIS category '{category}'", mend)
        category_of |= {uid: category for uid in lvis[category]}
    everything = chosen + list(category_of) if chosen or category_of else list(index.object_paths())
    return list(dict.fromkeys(everything)), category_of


def list_objects(
    index: Index,
    *,
    uids: Iterable[str] = (),
    categories: tuple[str, ...] = (),
    licences: tuple[str, ...] = (),
    min_faces: int = 0,
    max_faces: int = 0,
    limit: int = 0,
    seed: int = 0,
    checksums: dict[str, str] | None = None,
) -> list[ObjectRef]:
    """The chosen objects that pass the filters, at most `limit` of them (0 = all).

    The limit keeps those whose seeded hash is smallest, so raising it only adds objects. Objects without an
    annotation pass only when no filter is set.
    """
    chosen, category_of = choose_uids(index, uids, categories)
    paths, has_filter = index.object_paths(), bool(licences or min_faces or max_faces)
    if limit and not has_filter:
        chosen = _smallest(chosen, limit, seed)
    annotations = index.annotations(paths, chosen)
    kept = [uid for uid in chosen if not has_filter or _passes(annotations.get(uid), licences, min_faces, max_faces)]
    if limit:
        kept = _smallest(kept, limit, seed)
    checksums = checksums or {}
    return [_reference(uid, _uri(index, paths, uid), annotations.get(uid, {}), category_of.get(uid), checksums.get(uid)) for uid in kept]


def _uri(index: Index, paths: dict[str, str], uid: str) -> str:
    return f"{index.base_url}/{paths[uid]}" if uid in paths else ""


def _smallest(uids: list[str], limit: int, seed: int) -> list[str]:
    return sorted(uids, key=lambda uid: seed_for("objaverse", seed, uid))[:limit]


def _passes(annotation: dict[str, Any] | None, licences: tuple[str, ...], min_faces: int, max_faces: int) -> bool:
    if annotation is None or (licences and _licence(annotation) not in licences):
        return False
    faces = annotation.get("faceCount") or 0
    return faces >= min_faces and (not max_faces or faces <= max_faces)


def _licence(annotation: dict[str, Any]) -> str:
    stated = str(annotation.get("license") or "")
    return LICENCES.get(stated.lower()) or licence_name(stated)


def _reference(uid: str, uri: str, annotation: dict[str, Any], category: str | None, sha256: str | None) -> ObjectRef:
    user = annotation.get("user") or {}
    author = user.get("displayName") or user.get("username") or ""
    page = annotation.get("viewerUrl") or annotation.get("uri")
    named = [part for part in (annotation.get("name"), author and f"by {author}", page) if part]
    categories = [entry.get("name", "") for entry in annotation.get("categories") or []]
    return ObjectRef(
        uid=uid,
        source=OBJAVERSE,
        uri=uri,
        group=sha256 or f"objaverse-{uid}",
        sha256=sha256,
        category=category or (categories[0] if categories else ""),
        licence=_licence(annotation) if annotation else UNKNOWN_LICENCE,
        attribution=", ".join(named),
        caption=str(annotation.get("name") or ""),
    )


def read_checksums(path: str) -> dict[str, str]:
    """uid -> sha256 from Objaverse-XL's `sketchfab.parquet`, whose `fileIdentifier` ends in the 1.0 uid."""
    try:
        table = pq.read_table(path, columns=["fileIdentifier", "sha256"]).to_pydict()
    except (OSError, KeyError, ValueError) as error:
        mend = "give the path of sketchfab.parquet of Objaverse-XL"
        raise UserError(f"the checksum table {path} cannot be read: {error}", mend) from error
    return {name.rstrip("/").rsplit("/", 1)[-1]: sha256 for name, sha256 in zip(table["fileIdentifier"], table["sha256"], strict=True)}


def from_package_cache(reference: ObjectRef, package_cache: Path) -> Fetched | None:
    """The object's file in the package's cache when it proves whole there, else None: the cache itself proves nothing."""
    path = package_cache / "glbs" / reference.uri.rsplit("/", 2)[-2] / f"{reference.uid}.glb"
    try:
        check_file(path)
        sha256, size = sha256_of(path), path.stat().st_size
    except (FetchError, OSError):
        return None
    if reference.sha256 not in (None, sha256):
        return None
    return Fetched(str(path), sha256, size)


def fetch_object(reference: ObjectRef, folder: Path, package_cache: Path, policy: DownloadPolicy) -> Fetched:
    """A verified file: the package's cache when whole, else `<folder>/<uid>-<sha8>.glb`, downloaded. Raises FetchError."""
    if not reference.uri:
        raise FetchError("unknown_uid", f"{reference.uid} is not in the Objaverse index")
    present = from_package_cache(reference, package_cache)
    if present is not None:
        return present
    return download(
        reference.uri,
        lambda sha256: folder / f"{reference.uid}-{sha256[:8]}.glb",
        sha256=reference.sha256,
        check=_check_glb,
        policy=policy,
    )


def _check_glb(path: Path) -> None:
    with open(path, "rb") as stream:
        if (start := stream.read(4)) != b"glTF":
            raise FetchError("bad_header", f"starts with {start!r}, a GLB starts with b'glTF'")
    check_file(path)
