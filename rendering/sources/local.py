"""The source `local:DIR`: every .glb and .gltf file below a folder, used where it lies."""

import os
from pathlib import Path

from infra.errors import UserError
from rendering.glb_header import check_file, content_sha256, read_document
from rendering.licences import licence_in_file, named_in_file
from rendering.sources.base import LOCAL, UNKNOWN_LICENCE, Fetched, FetchError, ObjectRef, file_safe

SUFFIXES = (".glb", ".gltf")


def find_files(folder: Path) -> list[Path]:
    """glTF files below a folder, sorted by relative path; hidden files and folders are left out.

    Raises UserError: the folder is missing or holds no such file.
    """
    if not folder.is_absolute():
        raise UserError(f"the source folder '{folder}' is a relative path", f"give an absolute path: local:{folder.absolute()}")
    if not folder.is_dir():
        what = "is not a folder" if folder.exists() else "does not exist"
        raise UserError(f"the source folder {folder} {what}", "check the path after 'local:'")
    found = []
    for root, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [Path(root) / name for name in names if name.lower().endswith(SUFFIXES) and not name.startswith(".")]
    files = sorted((path for path in found if path.is_file()), key=lambda path: path.relative_to(folder).as_posix())
    if not files:
        raise UserError(f"no .glb or .gltf file below {folder}", "put .glb or .gltf files there, or name another folder after 'local:'")
    return files


def list_objects(folder: Path) -> list[ObjectRef]:
    """One object per file. Broken and unreadable files are listed too, so that `fetch` can say what is wrong."""
    references: dict[str, ObjectRef] = {}
    for path in find_files(folder):
        reference = _reference(path, folder)
        if reference.uid in references:  # The same name and content in another folder.
            place = file_safe(path.parent.relative_to(folder).as_posix(), 40)
            reference = _reference(path, folder, extra=f"-{place}-{len(references)}")
        references[reference.uid] = reference
    return list(references.values())


def _reference(path: Path, folder: Path, extra: str = "") -> ObjectRef:
    relative = path.relative_to(folder)
    category = file_safe(relative.parts[0]) if len(relative.parts) > 1 else ""
    try:
        sha256, size = content_sha256(path), path.stat().st_size
    except OSError:
        uid = f"{file_safe(path.stem)}-unreadable{extra}"
        return ObjectRef(uid=uid, source=LOCAL, uri=_text(path), group=f"path-{_text(relative)}", category=category)
    licence, attribution, named = _stated(path)
    return ObjectRef(
        uid=f"{file_safe(path.stem)}-{sha256[:8]}{extra}",
        source=LOCAL,
        uri=_text(path),
        group=sha256,
        sha256=sha256,
        category=category,
        licence=licence,
        attribution=attribution,
        caption=file_safe(path.stem).replace("_", " ").replace("-", " "),
        title=named.get("title", ""),
        author=named.get("author", ""),
        source_page=named.get("source_page", ""),
        bytes=size,
    )


def _text(path: Path) -> str:
    """The path as valid Unicode. A name that is none cannot be stored in a table; `fetch` then reports it as missing."""
    return str(path).encode("utf-8", "replace").decode()


def _stated(path: Path) -> tuple[str, str, dict[str, str]]:
    """(licence, attribution, title and author and source page) as the file itself states them."""
    try:
        document = read_document(path)
    except FetchError:
        return UNKNOWN_LICENCE, "", {}
    return *licence_in_file(document), named_in_file(document)


def verify(reference: ObjectRef) -> Fetched:
    """The file in place, still what the catalog saw. Raises FetchError: `changed`, or as `check_file` does."""
    path = Path(reference.uri)
    try:
        sha256, size = content_sha256(path), path.stat().st_size
    except OSError as error:
        raise FetchError("missing" if isinstance(error, FileNotFoundError) else "unreadable", str(error)) from error
    if reference.sha256 is not None and sha256 != reference.sha256:
        raise FetchError("changed", f"sha256 is {sha256}, the catalog recorded {reference.sha256}; build the catalog again")
    stated, _ = licence_in_file(check_file(path))
    return Fetched(str(path), sha256, size, stated)
