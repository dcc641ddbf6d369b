"""Finished pieces in a step's cache that no build of the store was made of.

Pieces are named by a hash of everything that made them, so most of them cannot be traced to a build. Garbage is only what can:
renderings whose settings no build has, downloads that no build lists, halves that a killed writer left, and the cache of a step that
has no build at all. Deleting them costs the time to make them again, never a result.
"""

from infra.storage import Location
from pipelines.artifact import Store
from pipelines.garbage import Garbage, Survey
from pipelines.listing import Found, everything, is_temporary
from pipelines.references import BuildKey, References
from rendering.pieces import parsed
from rendering.render_status import NOTE

PIECES, FILES, MESHES = "pieces", "files", "meshes.parquet"


def survey_pieces(store: Store, step: str, references: References, gone: set[BuildKey], before: float) -> Survey:
    """Garbage in the cache of one step.

    Args:
        gone: builds that are garbage themselves: what they were made of is not needed for their sake.
        before: epoch seconds; what holds anything newer stays.
    """
    survey, cache = Survey(), store.cache(step)
    if not cache.exists():
        return survey
    live = references.live_in(step)
    why = None if live is None else str(live)
    # Listed after the references: a piece of a build that began meanwhile is new, and new pieces stay.
    kept = _kept_builds(references, step)
    if not kept and not gone:
        for name in (PIECES, FILES):
            if inside := everything(cache / name):
                survey.add(_tree(step, cache / name, inside, "no build of this step is left"), before, why)
        return survey
    if step == "render":
        _renderings(survey, store, kept, before, why)
    elif step == "fetch":
        _downloads(survey, store, kept, references, before, why)
    else:
        _halves(survey, step, cache / PIECES, before, why)
    return survey


def _kept_builds(references: References, step: str) -> list[BuildKey]:
    return sorted(key for key in references.builds if key[0] == step)


def _renderings(survey: Survey, store: Store, kept: list[BuildKey], before: float, why: str | None) -> None:
    """Folders of pieces by the digest of their settings; each build names its own in its start note."""
    pieces, used = store.cache("render") / PIECES, set()
    for step, label, build in kept:
        out = store.folder(step, label) / build
        if not out.exists():
            continue  # a record below still names it, but it was replaced
        if not (out / NOTE).exists():
            return  # not begun, or from before there was a note: which pieces it needs is not known
        used.add(str((out / NOTE).read_json()["config"]))
    for entry in pieces.children():
        if not entry.is_dir:
            continue
        inside = everything(pieces / entry.name)
        if entry.name not in used:
            survey.add(_tree("render", pieces / entry.name, inside, "no build was rendered with these settings"), before, why)
            continue
        newest: dict[str, str] = {}
        listed = sorted((e for e in (pieces / entry.name).children()), key=lambda one: (one.mtime, one.name))
        for each in listed:
            if (pair := parsed(each)) is None:
                continue
            older = newest.get(pair[0])
            newest[pair[0]] = each.name
            if older is not None:
                found = next(one for one in inside if one.name == older)
                survey.add(_single("render", pieces / entry.name, found, "a newer piece of the object replaces it"), before, why)


def _downloads(survey: Survey, store: Store, kept: list[BuildKey], references: References, before: float, why: str | None) -> None:
    """Files by name; the finished builds list theirs, an interrupted one may need any."""
    files, listed = store.cache("fetch") / FILES, set()
    for step, label, build in kept:
        place = store.folder(step, label) / build
        if (step, label, build) in references.interrupted:
            return
        if not place.exists():
            continue
        if not (place / MESHES).exists():
            return
        paths = (place / MESHES).read_table(columns=["path"]).column("path").to_pylist()
        listed |= {path.partition("?")[0].rsplit("/", 1)[-1] for path in paths if path}
    for found in everything(files, deep=False):
        # Unfinished downloads (hidden names) are continued by the next run.
        if not found.is_dir and found.name.endswith(".glb") and not found.name.startswith(".") and found.name not in listed:
            survey.add(_single("fetch", files, found, "no build lists this download"), before, why)


def _halves(survey: Survey, step: str, pieces: Location, before: float, why: str | None) -> None:
    """Data without the row that says that they are whole, and counts of attempts whose piece was never made."""
    found = everything(pieces, deep=False)
    names = {each.name for each in found}
    for each in found:
        key, _, ending = each.name.partition(".")
        if each.is_dir or is_temporary(each.name):
            continue
        if ending == "bin" and f"{key}.json" not in names:
            survey.add(_single(step, pieces, each, "half of a piece"), before, why)
        if ending == "attempts.json" and f"{key}.parquet" not in names:
            survey.add(_single(step, pieces, each, "attempts of an earlier run"), before, why)


def _tree(step: str, place: Location, inside: list[Found], reason: str) -> Garbage:
    files = [each for each in inside if not each.is_dir]
    rows = tuple(each.name for each in files if each.name.endswith(".json"))
    newest = max((each.mtime for each in files), default=0.0)
    return Garbage("piece", step, None, place, sum(each.size for each in files), len(files), newest, reason, rows)


def _single(step: str, place: Location, found: Found, reason: str) -> Garbage:
    return Garbage("piece", step, None, place / found.name, found.size, 1, found.mtime, reason)
