"""What every source of objects yields, and how an object that cannot be had is reported."""

import re
import unicodedata
from dataclasses import dataclass

PROCEDURAL, LOCAL, OBJAVERSE = "procedural", "local", "objaverse"
UNKNOWN_LICENCE = "unknown"


@dataclass(frozen=True)
class ObjectRef:
    """One object before it is fetched.

    Attributes:
        uid: unique in the catalog, safe as a file name.
        source: `PROCEDURAL`, `LOCAL` or `OBJAVERSE`.
        uri: where the object comes from: `procedural://...`, an absolute path, or a URL.
        sha256: hex digest of the file, where it is known before fetching.
        group: id shared by duplicates; the split depends on it alone.
        split: `train`, `val` or `test`; empty until the catalog assigns it.
        licence: SPDX-like name, or `unknown`.
        attribution: whom to name, empty when nobody is known.
        tags: the author's tags, separated by commas.
        title, author, source_page: of the object, for those who must name them; empty when unknown.
        bytes: size of the file, where it is known before fetching.
        score: how good the object is, from a table that the recipe names; None without one.
    """

    uid: str
    source: str
    uri: str
    group: str
    sha256: str | None = None
    split: str = ""
    category: str = ""
    licence: str = UNKNOWN_LICENCE
    attribution: str = ""
    caption: str = ""
    tags: str = ""
    title: str = ""
    author: str = ""
    source_page: str = ""
    bytes: int | None = None
    score: float | None = None


@dataclass(frozen=True)
class Fetched:
    """A file that is present and verified: absolute `Location` text, hex sha256, size in bytes, and the licence it states."""

    path: str
    sha256: str
    bytes: int
    stated_licence: str = UNKNOWN_LICENCE


class FetchError(Exception):
    """One object could not be had. Becomes a row; `reason` is a short class to count by, `detail` tells this case."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail

    def __reduce__(self) -> tuple:
        return type(self), (self.reason, self.detail)


def file_safe(text: str, limit: int = 48) -> str:
    """Letters, digits, `_` and `-` only, never empty: for uids, which become file names."""
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    return re.sub(r"[^A-Za-z0-9_-]+", "_", plain).strip("_-")[:limit].strip("_-") or "object"
