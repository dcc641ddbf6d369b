"""Objaverse 1.0: which objects there are, by uid list, LVIS category or annotation, and where their files lie.

File names, index formats and the cache layout are those of the `objaverse` package; no byte comes through its
download functions, which trust whatever lies in the cache and wait for ever.
"""

import json
from collections.abc import Iterable
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from infra.errors import UserError
from infra.seeds import seed_for
from infra.storage import sha256_of
from rendering.annotation_tables import opened
from rendering.download import DownloadPolicy, download
from rendering.glb_header import check_file, read_document
from rendering.licences import licence_in_file
from rendering.pace import Pace
from rendering.selection import EVERYTHING_OPEN, Exclusion, Selection
from rendering.sources.base import OBJAVERSE, Fetched, FetchError, ObjectRef, file_safe
from rendering.sources.objaverse_index import LVIS, Index, used


def default_cache() -> Path:
    """Where the `objaverse` package keeps its files; it computes this from HOME when it is imported."""
    import objaverse

    return Path(objaverse._VERSIONED_PATH)


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
    everything = chosen + list(category_of) if chosen or category_of else list(index.object_paths)
    return list(dict.fromkeys(everything)), category_of


def list_objects(
    index: Index,
    *,
    uids: Iterable[str] = (),
    categories: tuple[str, ...] = (),
    selection: Selection = EVERYTHING_OPEN,
    min_faces: int = 0,
    max_faces: int = 0,
    limit: int = 0,
    seed: int = 0,
    checksums: dict[str, str] | None = None,
) -> tuple[list[ObjectRef], list[Exclusion]]:
    """The chosen objects that pass, at most `limit` of them (0 = all), and those that were looked at and did not.

    Objects are looked at in the order of a seeded hash until `limit` have passed, so raising it only adds objects.
    """
    chosen, category_of = choose_uids(index, uids, categories)
    order = sorted(chosen, key=lambda uid: seed_for("objaverse", seed, uid)) if limit else chosen
    selection, checksums = selection.among(chosen), checksums or {}
    kept: list[ObjectRef] = []
    excluded: list[Exclusion] = []
    at = 0
    while at < len(order) and (not limit or len(kept) < limit):
        batch, at, refused = _next_batch(order, at, selection, limit and limit - len(kept))
        annotations = index.annotations(uid for uid in batch if uid not in refused)
        for uid in batch:
            annotation = annotations.get(uid)
            ref = _reference(uid, _uri(index, uid), annotation, category_of.get(uid), checksums.get(uid))
            exclusion = refused.get(uid) or selection.refusal(ref) or _refused_by_faces(ref, annotation, min_faces, max_faces)
            if exclusion is not None:
                excluded.append(exclusion)
            else:
                kept.append(ref)
            if limit and len(kept) == limit:
                break
    return kept, excluded


def _next_batch(order: list[str], at: int, selection: Selection, wanted: int) -> tuple[list[str], int, dict[str, Exclusion]]:
    """The next objects to look at, somewhat more than `wanted` of them with a good score (all when 0), and the other ones.

    Scores are known without the metadata files, of which there are 160: few of them are read for few objects.
    """
    enough = wanted + wanted // 4 + 16 if wanted else len(order)
    batch: list[str] = []
    refused: dict[str, Exclusion] = {}
    while at < len(order) and len(batch) - len(refused) < enough:
        uid = order[at]
        batch.append(uid)
        if by_score := selection.refused_by_score(uid):
            refused[uid] = Exclusion(uid, *by_score, licence="")
        at += 1
    return batch, at, refused


def _uri(index: Index, uid: str) -> str:
    return f"{index.base_url}/{index.object_paths[uid]}" if uid in index.object_paths else ""


def _refused_by_faces(ref: ObjectRef, annotation: dict[str, Any] | None, min_faces: int, max_faces: int) -> Exclusion | None:
    if not (min_faces or max_faces):
        return None
    faces = annotation["faces"] if annotation else None
    if faces is None:
        return Exclusion(ref.uid, "no_annotation", "its number of faces is not known", ref.licence)
    if faces < min_faces or (max_faces and faces > max_faces):
        bounds = f"at least {min_faces}" + (f" and at most {max_faces}" if max_faces else "")
        return Exclusion(ref.uid, "face_count", f"{faces} faces, {bounds} are asked for", ref.licence)
    return None


def _reference(uid: str, uri: str, annotation: dict[str, Any] | None, category: str | None, sha256: str | None) -> ObjectRef:
    known = annotation or used({})
    named = [known["name"], known["author"] and f"by {known['author']}", known["page"]]
    return ObjectRef(
        uid=uid,
        source=OBJAVERSE,
        uri=uri,
        group=sha256 or f"objaverse-{uid}",
        sha256=sha256,
        category=category or known["category"],
        licence=known["licence"],
        attribution=", ".join(part for part in named if part),
        caption=known["name"],
        tags=known["tags"],
        title=known["name"],
        author=known["author"],
        source_page=known["page"],
    )


def read_checksums(address: str) -> dict[str, str]:
    """uid -> sha256 from Objaverse-XL's `sketchfab.parquet` (path or URL), whose `fileIdentifier` ends in the 1.0 uid."""
    try:
        with opened(address, "catalog.objaverse_checksums") as path:
            table = pq.read_table(path, columns=["fileIdentifier", "sha256"]).to_pydict()
    except (OSError, KeyError, ValueError) as error:
        mend = "give the path or URL of sketchfab.parquet of Objaverse-XL"
        raise UserError(f"the checksum table {address} cannot be read: {error}", mend) from error
    return {name.rstrip("/").rsplit("/", 1)[-1]: sha256 for name, sha256 in zip(table["fileIdentifier"], table["sha256"], strict=True)}


def from_package_cache(reference: ObjectRef, package_cache: Path) -> Fetched | None:
    """The object's file in the package's cache when it proves whole there, else None: the cache itself proves nothing."""
    path = package_cache / "glbs" / reference.uri.rsplit("/", 2)[-2] / f"{reference.uid}.glb"
    try:
        stated, _ = licence_in_file(check_file(path))
        sha256, size = sha256_of(path), path.stat().st_size
    except (FetchError, OSError):
        return None
    if reference.sha256 not in (None, sha256):
        return None
    return Fetched(str(path), sha256, size, stated)


def addresses(reference: ObjectRef, mirrors: Iterable[str] = ()) -> list[str]:
    """Where the object's file may be had: the catalog's address, then the same path below each mirror."""
    path = "/".join(reference.uri.rsplit("/", 3)[1:])  # glbs/<shard>/<uid>.glb
    return [reference.uri, *(f"{mirror.rstrip('/')}/{path}" for mirror in mirrors)] if reference.uri else []


def fetch_object(
    reference: ObjectRef, folder: Path, package_cache: Path, policy: DownloadPolicy, mirrors: Iterable[str] = (), pace: Pace | None = None
) -> Fetched:
    """A verified file: the package's cache when whole, else `<folder>/<uid>-<sha8>.glb`, downloaded. Raises FetchError."""
    if not reference.uri:
        raise FetchError("unknown_uid", f"{reference.uid} is not in the Objaverse index")
    present = from_package_cache(reference, package_cache)
    if present is not None:
        return present
    fetched = download(
        addresses(reference, mirrors),
        lambda sha256: folder / f"{reference.uid}-{sha256[:8]}.glb",
        sha256=reference.sha256,
        check=_check_glb,
        policy=policy,
        pace=pace,
    )
    return replace(fetched, stated_licence=licence_in_file(read_document(Path(fetched.path)))[0])


def _check_glb(path: Path) -> None:
    with open(path, "rb") as stream:
        if (start := stream.read(4)) != b"glTF":
            raise FetchError("bad_header", f"starts with {start!r}, a GLB starts with b'glTF'")
    check_file(path)
