"""Licence texts as people write them -> short names as SPDX writes them."""

import re
from typing import Any

from rendering.sources.base import UNKNOWN_LICENCE

_CC_BY = re.compile(r"\bCC[ _-]?BY((?:[ _-](?:NC|ND|SA))*)(?:[ _-]?v?(\d\.\d))?", re.IGNORECASE)
_URL = re.compile(r"creativecommons\.org/licenses/by((?:-(?:nc|nd|sa))*)/(\d\.\d)", re.IGNORECASE)
_CC0 = re.compile(r"\bCC[ _-]?0\b|creativecommons\.org/publicdomain/zero", re.IGNORECASE)
_PLAIN = re.compile(r"\b(MIT|Apache-2\.0)\b")


def licence_name(text: str) -> str:
    """The Creative Commons, MIT or Apache licence that a text names, as `CC-BY-NC-4.0` or `CC0-1.0`, else `unknown`.

    A Creative Commons licence without a version is named without one.
    """
    for pattern in (_CC_BY, _URL):
        if match := pattern.search(text):
            terms = re.sub(r"[ _]", "-", match[1]).upper()
            return f"CC-BY{terms}" + (f"-{match[2]}" if match[2] else "")
    if _CC0.search(text):
        return "CC0-1.0"
    plain = _PLAIN.search(text)
    return plain[1] if plain else UNKNOWN_LICENCE


def licence_in_file(document: dict[str, Any]) -> tuple[str, str]:
    """(licence, attribution) from `asset.extras` and `asset.copyright` of a glTF document.

    A licence field that names none of the known licences is passed on as written, so that a policy can judge it.
    """
    asset = document.get("asset", {})
    extras = asset.get("extras") if isinstance(asset.get("extras"), dict) else {}
    notice = str(asset.get("copyright") or "").strip()
    stated = str(extras.get("license") or extras.get("licence") or "").strip()
    licence = licence_name(stated) if stated else licence_name(notice)
    if stated and licence == UNKNOWN_LICENCE:
        licence = stated[:100]
    parts = [str(extras.get(key)).strip() for key in ("title", "author", "source") if extras.get(key)]
    return licence, ", ".join(parts) or notice
