"""Licence texts as people write them -> short names as SPDX writes them, and which of them a recipe allows."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from infra.errors import UserError
from rendering.sources.base import UNKNOWN_LICENCE

_CC_BY = re.compile(r"\b(?:CC|Creative Commons)[ -]?(?:BY|Attribution)\b|creativecommons\.org/licenses/by\b", re.IGNORECASE)
_TERMS = {
    "NC": re.compile(r"\bNC\b|non[- ]?commercial", re.IGNORECASE),
    "ND": re.compile(r"\bND\b|no[- ]?deriv", re.IGNORECASE),
    "SA": re.compile(r"\bSA\b|share[- ]?alike", re.IGNORECASE),
}
_CC_VERSION = re.compile(r"(?:[ /-]*(?:NC|ND|SA|Non-?Commercial|No-?Deriv\w*|Share-?Alike))*[ /-]*v?(\d\.\d)", re.IGNORECASE)
_CC0 = re.compile(r"\bCC[ -]?0\b|creativecommons\.org/publicdomain/zero", re.IGNORECASE)
_PLAIN = re.compile(r"\b(MIT|Apache-2\.0)\b")
_VERSION = re.compile(r"-\d+(\.\d+)*$")

OPEN = ("CC0", "CC-BY", "CC-BY-SA", "MIT", "Apache-2.0")
"""Allowed unless a recipe says otherwise: free for any purpose, changes included. Not so NC, ND and what states nothing."""
RESTRICTED = ("CC-BY-NC", "CC-BY-NC-SA", "CC-BY-ND", "CC-BY-NC-ND")
ANY = "any"


def licence_name(text: str) -> str:
    """The Creative Commons, MIT or Apache licence that a text names, as `CC-BY-NC-4.0` or `CC0-1.0`, else `unknown`.

    A Creative Commons licence without a version is named without one. Its terms are looked for in the whole text: to take
    a restriction for meant where it is not costs an object, to miss one breaks a licence.
    """
    plain = text.replace("_", " ")
    if match := _CC_BY.search(plain):
        terms = "".join(f"-{name}" for name in ("NC", "ND", "SA") if _TERMS[name].search(plain))
        version = _CC_VERSION.match(plain, match.end())
        return f"CC-BY{terms}" + (f"-{version[1]}" if version else "")
    if _CC0.search(plain):
        return "CC0-1.0"
    named = _PLAIN.search(plain)
    return named[1] if named else UNKNOWN_LICENCE


def licence_in_file(document: dict[str, Any]) -> tuple[str, str]:
    """(licence, attribution) from `asset.extras` and `asset.copyright` of a glTF document.

    A licence field that names none of the known licences is passed on as written, so that a policy can judge it.
    """
    asset = document.get("asset", {})
    notice = str(asset.get("copyright") or "").strip()
    extras = _extras(document)
    stated = str(extras.get("license") or extras.get("licence") or "").strip()
    licence = licence_name(stated) if stated else licence_name(notice)
    if stated and licence == UNKNOWN_LICENCE:
        licence = stated[:100]
    named = named_in_file(document)
    return licence, ", ".join(part for part in (named["title"], named["author"], named["source_page"]) if part) or notice


def named_in_file(document: dict[str, Any]) -> dict[str, str]:
    """`title`, `author` and `source_page` that a glTF document states, empty where it does not."""
    extras = _extras(document)
    fields = {"title": "title", "author": "author", "source_page": "source"}
    return {name: str(extras.get(key) or "").strip()[:500] for name, key in fields.items()}


def _extras(document: dict[str, Any]) -> dict[str, Any]:
    extras = document.get("asset", {}).get("extras")
    return extras if isinstance(extras, dict) else {}


def family(licence: str) -> str:
    """A licence without its version, in small letters: `CC-BY-NC-4.0` -> `cc-by-nc`, `CC0-1.0` -> `cc0`."""
    return _VERSION.sub("", licence.strip().lower())


def contradict(one: str, other: str) -> bool:
    """Whether two statements about one object cannot both be right. A missing statement or version contradicts nothing."""
    if UNKNOWN_LICENCE in (one, other) or not one or not other:
        return False
    if family(one) != family(other):
        return True
    versions = {match[0] for licence in (one, other) if (match := _VERSION.search(licence))}
    return len(versions) > 1


@dataclass(frozen=True)
class LicencePolicy:
    """Which licences are allowed: names with a version mean that version, without one every version; `any` means all."""

    allowed: tuple[str, ...] = OPEN

    @classmethod
    def of(cls, names: Iterable[str], vouched: bool = False) -> "LicencePolicy":
        """The policy a recipe asks for; without names the default, where `vouched` admits files that state no licence.

        Raises UserError for a name that is neither a known licence nor `unknown` nor `any`.
        """
        asked = tuple(name.strip() for name in names if name.strip())
        known = {family(name): name for name in (*OPEN, *RESTRICTED, UNKNOWN_LICENCE, ANY)}
        for name in asked:
            if family(name) not in known:
                near = get_close_matches(family(name), known, n=1)
                hint = f"did you mean '{known[near[0]]}'? " if near else ""
                raise UserError(f"catalog.licences: unknown licence '{name}'", f"{hint}known: {', '.join(known.values())}")
        return cls(asked or (OPEN + (UNKNOWN_LICENCE,) if vouched else OPEN))

    def refusal(self, licence: str) -> str:
        """Reason class why a licence is not allowed, or the empty text when it is."""
        stated = licence or UNKNOWN_LICENCE
        names = {name.lower() for name in self.allowed}
        if ANY in names or names & {stated.lower(), family(stated)}:
            return ""
        if stated == UNKNOWN_LICENCE:
            return "licence_unknown"
        terms = family(stated).split("-")
        return "licence_non_commercial" if "nc" in terms else "licence_no_derivatives" if "nd" in terms else "licence_not_allowed"
