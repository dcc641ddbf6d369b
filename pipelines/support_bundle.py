"""What a report of a problem needs, gathered file by file as redacted text; a part that fails is named and costs only itself."""

import json
import os
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from infra.machine import machine_facts, versions
from infra.redaction import known_secrets, redact, shown_environment
from infra.storage import Location
from pipelines.artifact import Store
from pipelines.references import BUILD, labels, steps
from pipelines.support_metrics import figures

NOTES = ("record.json", "building.json", "lease.json")
INSIDE = ("progress.json", "stopped.json", "summary.json", "version.json", "statistics.json")
LEDGERS = ("ledger.parquet", "meshes.parquet", "kept.parquet")
# Of a log its end tells; all of them together stay small enough to attach.
TAIL_BYTES, LOGS, NOTE_BYTES = 64 << 10, 60, 1 << 20


@dataclass
class Bundle:
    """Files by name inside the archive, all as text without secrets, and what could not be had."""

    known: list[str]
    files: dict[str, str] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)

    def text(self, name: str, text: str) -> None:
        self.files[redact(name, self.known)] = redact(text, self.known)

    def value(self, name: str, value: Any) -> None:
        self.text(name, json.dumps(value, indent=2, sort_keys=True, default=str) + "\n")

    def part(self, what: str, gather: Callable[..., None], *arguments: Any) -> None:
        """Run one part of the gathering; its error becomes a line of `not-gathered.txt`."""
        try:
            gather(*arguments)
        except Exception as error:  # a bundle is asked for when things are broken
            self.failures.append(redact(f"{what}: {type(error).__name__}: {error}", self.known))


def gather(store: Store, label: str | None, home: Path, recipe: Callable[[Bundle], None] | None = None) -> Bundle:
    """Everything but the archive itself.

    Args:
        label: only this label's notes; None means all labels.
        home: where mvforge's own heads keep their log.
        recipe: adds what concerns the recipe in question.
    """
    bundle = Bundle(known_secrets(os.environ, [store.root.uri]))
    places = [home, Path(tempfile.gettempdir()), Path("/dev/shm"), *([store.root.local_path()] if store.root.is_local else [])]
    bundle.part("versions", _versions, bundle)
    bundle.part("environment", lambda: bundle.value("environment.json", shown_environment()))
    bundle.part("machine", lambda: bundle.value("machine.json", machine_facts(places)))
    if recipe is not None:
        bundle.part("recipe", recipe, bundle)
    bundle.part("store", _store, bundle, store, label)
    bundle.part("metrics", _metrics, bundle)
    bundle.part("head log", lambda: _logs(bundle, "logs/mvforge", home, sorted(home.glob("*.log"))))
    bundle.part("Ray's logs", lambda: _logs(bundle, "logs/ray", _ray_folder(), _ray_logs()))
    if bundle.failures:
        bundle.files["not-gathered.txt"] = "\n".join(bundle.failures) + "\n"
    return bundle


def _versions(bundle: Bundle) -> None:
    bundle.value("versions.json", versions() | {"gathered": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())})


def _store(bundle: Bundle, store: Store, label: str | None) -> None:
    for step in steps(store):
        for each in labels(store, step):
            if label is None or each == label:
                bundle.part(f"{step}/{each}", _label, bundle, f"store/{step}/{each}", store.folder(step, each))


def _label(bundle: Bundle, name: str, folder: Location) -> None:
    """The notes of a label as they lie, and of each build its small notes and the reasons in its ledgers."""
    for entry in folder.children():
        inside = f"{name}/{entry.name}"
        if entry.name in NOTES:
            bundle.part(inside, _note, bundle, inside, folder / entry.name)
        elif entry.is_dir and BUILD.fullmatch(entry.name):
            bundle.part(inside, _build, bundle, inside, folder / entry.name)


def _build(bundle: Bundle, name: str, build: Location) -> None:
    entries = build.children()
    bundle.value(f"{name}/files.json", [[e.name + ("/" if e.is_dir else ""), e.size, round(e.mtime, 3)] for e in entries[:1000]])
    for entry in entries:
        inside = f"{name}/{entry.name}"
        if entry.name in INSIDE:
            bundle.part(inside, _note, bundle, inside, build / entry.name)
        elif entry.name in LEDGERS:
            bundle.part(inside, _reasons, bundle, f"{inside}.reasons.json", build / entry.name)


def _note(bundle: Bundle, name: str, place: Location) -> None:
    """A small text file, whole or not at all: one that is cut could show half a secret unnoticed."""
    size = place.fs.get_file_info(place.path).size or 0
    if size > NOTE_BYTES:
        raise ValueError(f"{size} bytes are too many for a bundle")
    bundle.text(name, place.read_text())


def _reasons(bundle: Bundle, name: str, ledger: Location) -> None:
    bundle.value(name, reasons(ledger))


def reasons(ledger: Location) -> dict[str, Any]:
    """Rows of a ledger, by state and reason; the columns are those it has."""
    import pyarrow.parquet as pq

    names = pq.read_schema(ledger.path, filesystem=ledger.fs).names
    chosen = [name for name in ("state", "status", "reason") if name in names]
    table: pa.Table = ledger.read_table(columns=chosen) if chosen else ledger.read_table()
    counts = Counter(tuple(str(value) for value in row.values() if value) for row in table.to_pylist()) if chosen else Counter()
    return {"rows": len(table), "counts": {" ".join(key) or "none": count for key, count in counts.most_common(200)}}


def _metrics(bundle: Bundle) -> None:
    for name, text in figures(_ray_folder().parents[1]):
        bundle.text(f"metrics/{name}", text)


def _logs(bundle: Bundle, folder: str, root: Path, paths: list[Path]) -> None:
    for path in paths:
        name = f"{folder}/{path.relative_to(root).as_posix()}"
        bundle.part(name, _log, bundle, name, path)


def _log(bundle: Bundle, name: str, path: Path) -> None:
    bundle.text(name, tail(path))


def _ray_folder() -> Path:
    return Path(os.environ.get("RAY_TMPDIR") or "/tmp") / "ray" / "session_latest" / "logs"


def _ray_logs() -> list[Path]:
    """The newest logs of the newest Ray session on this machine; none where Ray never ran."""
    session = _ray_folder()
    if not session.is_dir():
        return []
    logs = [path for path in session.rglob("*") if path.is_file() and path.suffix in (".log", ".out", ".err") and path.stat().st_size]
    return sorted(logs, key=lambda path: path.stat().st_mtime, reverse=True)[:LOGS]


def tail(path: Path, limit: int = TAIL_BYTES) -> str:
    """The last whole lines of a text file, at most `limit` bytes: a line that is cut could show half a secret unnoticed."""
    with open(path, "rb") as stream:
        size = stream.seek(0, os.SEEK_END)
        stream.seek(max(0, size - limit))
        data = stream.read(limit)
    if size > limit:
        _, newline, rest = data.partition(b"\n")
        data = rest if newline else b""
    return data.decode(errors="replace")


def members(bundle: Bundle) -> Iterator[tuple[str, bytes]]:
    """Archive name and content, sorted."""
    for name in sorted(bundle.files):
        yield f"mvforge-support/{name}", bundle.files[name].encode()
