"""A protocol's objects as a user fetched them: found by name, made into GLB files with the axes set right, held against checksums."""

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import trimesh
from trimesh.resolvers import FilePathResolver

from evaluation.mesh_io import GLTF_FROM_WORLD, check_mesh
from evaluation.protocols.base import Protocol
from infra.errors import UserError
from infra.storage import sha256_of
from rendering.view_set import Mesh

SUFFIXES = (".glb", ".gltf", ".obj")
SHOWN = 8


class _Textures(FilePathResolver):
    """Finds a texture beside the file, or anywhere in the object's folder: the scans keep it in `materials/textures`."""

    def __init__(self, path: Path, folder: Path) -> None:
        super().__init__(str(path))
        self.folder = folder

    def get(self, name: str) -> bytes:
        try:
            return super().get(name)
        except (OSError, ValueError):
            found = sorted(self.folder.rglob(Path(name).name))
            if not found:
                raise
            return found[0].read_bytes()


def objects_in(folder: Path) -> dict[str, Path]:
    """Object name -> mesh file: files of that name, and folders of that name with one mesh file somewhere in them.

    Raises:
        UserError: no such folder, none in it, or several meshes for one name.
    """
    if not folder.is_dir():
        raise UserError(f"no such folder: {folder}", "fetch the objects first: `mvforge protocols show NAME` says how")
    found: dict[str, Path] = {}
    for entry in sorted(folder.iterdir()):
        if entry.is_dir():
            meshes = [path for path in sorted(entry.rglob("*")) if path.suffix.lower() in SUFFIXES and path.is_file()]
            if len(meshes) > 1:
                meshes = [path for path in meshes if path.stem in ("model", entry.name)] or meshes
            if len(meshes) > 1:
                raise UserError(f"{entry} holds {len(meshes)} meshes, such as {meshes[0].name} and {meshes[1].name}", "leave one of them")
            if meshes:
                found[entry.name] = meshes[0]
        elif entry.suffix.lower() in SUFFIXES:
            found[entry.stem] = entry
    if not found:
        raise UserError(f"no object in {folder}", f"every object is a folder or a file ({', '.join(SUFFIXES)}) of its name")
    return found


def import_objects(protocol: Protocol, folder: Path, out: Path, up: str = "z") -> dict[str, Any]:
    """GLB files of a protocol's objects below `out`, and `checksums.json` there: written by the first call, compared by later ones.

    `up` is the axis that is up in OBJ files (the scans: `z`); glTF files are copied as they are. Objects outside of the protocol's
    list are left out. Returns counts, what is missing, and what failed with its reason.

    Raises:
        UserError: none of the protocol's objects is there, or a file is not the one of the first call.
    """
    found = objects_in(folder)
    wanted = {name: path for name, path in found.items() if not protocol.objects or name in protocol.objects}
    if not wanted:
        raise UserError(f"none of the {protocol.object_count} objects of {protocol.base} is in {folder}", _mend(protocol, found))
    out.mkdir(parents=True, exist_ok=True)
    checksums = {name: sha256_of(path) for name, path in wanted.items()}
    first = _compare(out / "checksums.json", protocol, checksums)
    failed: dict[str, str] = {}
    for name, path in wanted.items():
        try:
            _to_glb(path, folder / name if (folder / name).is_dir() else folder, out / f"{name}.glb", up)
        except UserError as error:
            failed[name] = error.message
    missing = sorted(set(protocol.objects) - set(wanted))
    short = f"{len(wanted)} objects, the set has {protocol.object_count}" if len(wanted) != protocol.object_count else ""
    return {
        "completed": len(wanted) - len(failed),
        "failed": len(failed),
        "rejected": len(found) - len(wanted),
        "missing": missing,
        "count": short,
        "reasons": failed,
        "checksums": "written" if first else "as before",
        "out": str(out),
    }


def _mend(protocol: Protocol, found: Iterable[str]) -> str:
    return f"names are {', '.join(protocol.objects[:3])} ...; the folder has {', '.join(list(found)[:SHOWN])}"


def _compare(file: Path, protocol: Protocol, checksums: dict[str, str]) -> bool:
    """Hold the objects against the file, which is written where there is none; objects that it does not know are added."""
    known = json.loads(file.read_text())["sha256"] if file.exists() else {}
    changed = sorted(name for name, digest in checksums.items() if known.get(name, digest) != digest)
    if changed:
        raise UserError(
            f"{len(changed)} objects are not those of the first fetch: {', '.join(changed[:SHOWN])}",
            f"fetch them again, or remove {file} if the new ones are meant: figures on other objects do not compare",
        )
    if set(checksums) - set(known):
        temporary = file.with_suffix(".part")
        temporary.write_text(json.dumps({"protocol": protocol.base, "sha256": dict(sorted((known | checksums).items()))}, indent=1) + "\n")
        temporary.replace(file)
    return not known


def _to_glb(path: Path, folder: Path, out: Path, up: str) -> None:
    if path.suffix.lower() == ".glb":
        out.write_bytes(path.read_bytes())
        return
    try:
        if path.suffix.lower() == ".gltf":
            scene = trimesh.load_scene(path)
        else:
            with path.open("rb") as stream:
                scene = trimesh.load_scene(stream, file_type="obj", resolver=_Textures(path, folder))
            if up == "z":
                turn = trimesh.transformations.identity_matrix()
                turn[:3, :3] = GLTF_FROM_WORLD
                scene.apply_transform(turn)
        whole = scene.to_mesh()
        check_mesh(Mesh(whole.vertices, whole.faces), str(path))
        out.write_bytes(scene.export(file_type="glb"))
    except UserError:
        raise
    except Exception as error:  # a parser of foreign files can fail in any way; the object becomes a row with its reason
        raise UserError(f"cannot read {path}: {type(error).__name__}: {error}", "export it again") from error


def render_command(protocol: Protocol) -> str:
    """The command that renders the truth of a protocol; empty where any rig will do."""
    if not protocol.rig:
        return ""
    light = "syncdreamer" if protocol.rig == "gso30" else "white"
    size = protocol.picture_px or 512
    return (
        f"mvforge render --source local:/abs/gso_glb --store /data/{re.sub('[^a-z0-9]+', '_', protocol.base)} "
        f"--rig {protocol.rig} --light {light} --resolution {size} --set render.mesh=all"
    )
