"""The index files of Objaverse 1.0: paths, LVIS categories and annotations, whole or not at all."""

import gzip
import hashlib
import json
import zlib
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Any

from infra.errors import UserError
from rendering.download import DEFAULT_POLICY, DownloadPolicy, download
from rendering.licences import licence_name
from rendering.sources.base import FetchError, file_safe

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


class Index:
    """The index files of one mirror, from the package's cache where they parse, else downloaded once into `folder`.

    `mirrors` are other base URLs of the same files, asked in order where the first one fails.

    Raises:
        UserError: an index file can neither be read nor fetched.
    """

    def __init__(
        self, base_url: str, folder: Path, package_cache: Path, policy: DownloadPolicy = DEFAULT_POLICY, mirrors: Iterable[str] = ()
    ) -> None:
        self.base_url, self.package_cache, self.policy = base_url.rstrip("/"), package_cache, policy
        self.addresses = (self.base_url, *(mirror.rstrip("/") for mirror in mirrors))
        # One mirror's answers never stand for another's.
        self.folder = folder / hashlib.sha256(self.base_url.encode()).hexdigest()[:12]

    def _read(self, name: str) -> dict[str, Any]:
        candidates = [self.folder / name] + ([self.package_cache / name] if self.base_url == BASE_URL else [])
        for path in candidates:
            if (content := _parse_index(path)) is not None:
                return content
        addresses = [f"{address}/{name}" for address in self.addresses]
        try:
            fetched = download(addresses, lambda _: self.folder / name, check=_check_index, policy=self.policy)
        except FetchError as error:
            mend = "check catalog.objaverse_base_url, catalog.objaverse_mirrors and the network"
            raise UserError(f"the Objaverse index {name} cannot be had: {error}", mend) from error
        return _parse_index(Path(fetched.path)) or {}

    @cached_property
    def object_paths(self) -> dict[str, str]:
        """uid -> path of the file below the base URL."""
        return self._read(OBJECT_PATHS)

    def lvis(self) -> dict[str, list[str]]:
        """LVIS category -> uids."""
        return self._read(LVIS)

    def annotations(self, uids: Iterable[str]) -> dict[str, dict[str, Any]]:
        """uid -> what is used of its annotation, for the given uids; only the metadata files they lie in are read."""
        wanted, paths = set(uids), self.object_paths
        shards = sorted({paths[uid].split("/")[1] for uid in wanted if uid in paths and paths[uid].count("/") >= 2})
        found: dict[str, dict[str, Any]] = {}
        for shard in shards:
            content = self._read(f"metadata/{file_safe(shard)}.json.gz")
            found |= {uid: used(content[uid]) for uid in content.keys() & wanted if isinstance(content[uid], dict)}
        return found


def used(annotation: dict[str, Any]) -> dict[str, Any]:
    """The few fields that are used: whole annotations of 800,000 objects would fill the memory."""
    user = annotation.get("user") or {}
    return {
        "name": str(annotation.get("name") or ""),
        "licence": _licence(annotation),
        "author": str(user.get("displayName") or user.get("username") or ""),
        "page": str(annotation.get("viewerUrl") or annotation.get("uri") or ""),
        "tags": ", ".join(str(entry.get("name")) for entry in annotation.get("tags") or [] if entry.get("name")),
        "category": next((str(entry.get("name") or "") for entry in annotation.get("categories") or []), ""),
        "faces": annotation.get("faceCount") or 0,
    }


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


def _licence(annotation: dict[str, Any]) -> str:
    stated = str(annotation.get("license") or "")
    return LICENCES.get(stated.lower()) or licence_name(stated)
