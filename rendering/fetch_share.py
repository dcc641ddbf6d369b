"""What one worker does with its share of a catalog: one row per object, whatever happens."""

import hashlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from infra import logs
from infra.scratch import scratch_folder
from infra.storage import Location
from rendering.fetch_config import FetchConfig
from rendering.glb_header import check_file, content_sha256
from rendering.licences import LicencePolicy, contradict, licence_in_file
from rendering.pace import Pace
from rendering.quarantine import Failures
from rendering.sources import local, objaverse, procedural
from rendering.sources.base import LOCAL, PROCEDURAL, UNKNOWN_LICENCE, Fetched, FetchError, ObjectRef

OK, FAILED = "ok", "failed"
DIGITS = 8
"""Of the content's sha256, at the end of a finished file's name."""

Row = dict[str, Any]


@dataclass(frozen=True)
class Share:
    """One share of objects, with all a worker needs.

    `present` are the finished files of these objects; `shares` is how many shares are worked on at the same time, which
    divides the bandwidth, and `threads` how many objects of a share.
    """

    objects: list[ObjectRef]
    present: dict[str, list[str]]
    files: Location
    failures: Failures
    licences: LicencePolicy
    config: FetchConfig
    shares: int = 1
    threads: int = 1


def fetch_share(share: Share) -> list[Row]:
    """One row per object of the share, several downloads at a time."""
    pace = Pace(share.config.max_mb_per_s * 1e6 / share.shares)
    with ThreadPoolExecutor(max_workers=share.threads) as pool:
        rows = list(pool.map(lambda ref: _fetch_row(ref, share, pace), share.objects))
    for row in rows:
        if row["status"] == FAILED:
            logs.failed(row["uid"], row["reason"], row["detail"])
    return rows


def _fetch_row(ref: ObjectRef, share: Share, pace: Pace) -> Row:
    try:
        fetched = _fetch(ref, share, pace)
    except FetchError as error:
        return failed_row(ref, error)
    except OSError as error:
        return failed_row(ref, FetchError("storage", f"{type(error).__name__}: {error}"))
    row = {"path": fetched.path, "sha256": fetched.sha256, "bytes": fetched.bytes, "status": OK, "reason": "", "detail": ""}
    return asdict(ref) | row | _licence_columns(ref, fetched.stated_licence, share.licences)


def _licence_columns(ref: ObjectRef, stated: str, policy: LicencePolicy) -> Row:
    """What the file says about its licence beside what the catalog says; a file outside the policy is a failed row."""
    is_stated = stated != UNKNOWN_LICENCE
    columns: Row = {"licence_in_file": stated if is_stated else "", "licence_conflict": contradict(ref.licence, stated)}
    if is_stated and (refusal := policy.refusal(stated)):
        detail = f"the file states '{stated}' ({refusal}), the catalog '{ref.licence}'"
        return columns | {"status": FAILED, "reason": "licence_conflict", "detail": detail, "path": ""}
    return columns


def failed_row(ref: ObjectRef, error: FetchError) -> Row:
    row = {"status": FAILED, "reason": error.reason, "detail": error.detail[:1000], "path": "", "licence_in_file": ""}
    return asdict(ref) | row | {"licence_conflict": False}


def _fetch(ref: ObjectRef, share: Share, pace: Pace) -> Fetched:
    if ref.source == LOCAL:
        return local.verify(ref)
    for name in share.present[ref.uid]:
        if (fetched := _whole(share.files / name, ref)) is not None:
            return fetched
    if ref.source == PROCEDURAL:
        return _made(ref, share.files)
    if not ref.uri:
        raise FetchError("unknown_uid", f"{ref.uid} is not in the Objaverse index")
    question = (ref.uid, objaverse.addresses(ref, share.config.mirrors), ref.sha256)
    if (failure := share.failures.recall(*question)) is not None:
        raise failure
    try:
        fetched = _downloaded(ref, share, pace)
    except FetchError as error:
        share.failures.remember(*question, error)
        raise
    share.failures.forget(ref.uid)
    return fetched


def _made(ref: ObjectRef, files: Location) -> Fetched:
    data = procedural.make_glb(ref.uri)
    sha256 = hashlib.sha256(data).hexdigest()
    place = files / f"{ref.uid}-{sha256[:DIGITS]}.glb"
    place.write_bytes(data)
    return Fetched(str(place), sha256, len(data), ref.licence)


def _downloaded(ref: ObjectRef, share: Share, pace: Pace) -> Fetched:
    """The object as `<uid>-<sha8>.glb` among the files, or where the package's cache has it."""
    config = share.config
    package_cache = Path(config.objaverse_cache) if config.objaverse_cache else objaverse.default_cache()
    if share.files.is_local:
        return objaverse.fetch_object(ref, share.files.local_path(), package_cache, config.policy, config.mirrors, pace)
    with scratch_folder("fetch") as folder:
        fetched = objaverse.fetch_object(ref, Path(folder), package_cache, config.policy, config.mirrors, pace)
        if Path(fetched.path).parent != Path(folder):
            return fetched  # Lies in the package's cache and stays there.
        target = share.files / Path(fetched.path).name
        target.upload(Path(fetched.path))
        return replace(fetched, path=str(target))


def _whole(place: Location, ref: ObjectRef) -> Fetched | None:
    """A finished file that still is what its name and the catalog say, else None."""
    with place.as_local() as path:
        try:
            stated, _ = licence_in_file(check_file(path))
            sha256, size = content_sha256(path), path.stat().st_size
        except (FetchError, OSError):
            return None
    named = place.name.rpartition(".")[0][-DIGITS:]
    return Fetched(str(place), sha256, size, stated) if named == sha256[:DIGITS] and ref.sha256 in (None, sha256) else None
