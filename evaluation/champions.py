"""Who holds a model's alias, and who held it before: every move is an entry in the registry, so that it can be taken back.

An entry is a tag of the registered model, `<alias>.history/<time>-<how>`. The alias is moved first and the entry written
after: an entry never tells of a move that did not happen, and a move without its entry is noticed at the next one, because
every entry names the version it found in place.
"""

import json
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

from infra import tracking
from infra.errors import UserError
from infra.tracking import ModelVersion

GATE, HAND, ROLLBACK = "gate", "hand", "rollback"
WITHDRAWN = "withdrawn"


@dataclass(frozen=True)
class Move:
    """One change of the alias.

    Attributes:
        version: the version that holds the alias from then on.
        before: the version it was taken from, empty when there was none.
        how: `gate`, `hand` or `rollback`.
        reason: in one sentence.
        at: UTC, ISO 8601; entries sort by it.
        by: who or what asked for it.
    """

    version: str
    before: str
    how: str
    reason: str
    at: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="milliseconds"))
    by: str = ""


def move(uri: str, version: ModelVersion, alias: str, entry: Move) -> None:
    """Point the alias to the version and write the entry. The same entry twice is one."""
    tracking.set_alias(uri, version, alias)
    if entry.how != ROLLBACK:
        tracking.delete_version_tag(uri, version, WITHDRAWN)
    key = f"{alias}.history/{entry.at.replace('+00:00', 'Z')}-{entry.how}"
    tracking.set_model_tag(uri, version.name, key.replace(":", "-"), json.dumps(asdict(entry)))


def history(uri: str, name: str, alias: str) -> list[Move]:
    """All entries of the alias, oldest first."""
    tags = tracking.model_tags(uri, name)
    entries = [_entry(json.loads(text)) for key, text in tags.items() if key.startswith(f"{alias}.history/")]
    return sorted(entries, key=lambda entry: entry.at)


def _entry(values: dict[str, Any]) -> Move:
    return Move(**{name: str(values.get(name, "")) for name in Move.__dataclass_fields__})


def holders(entries: list[Move], current: str | None) -> list[str]:
    """The versions one would return to, the present one last.

    A promotion is put on top; a rollback takes the top away. A version that someone put in place without an entry (in
    MLflow's UI) is put on top when the next entry, or the present state, shows it.
    """
    stack: list[str] = []

    def seen(version: str) -> None:
        if version and (not stack or stack[-1] != version):
            stack.append(version)

    for entry in entries:
        seen(entry.before)
        if entry.how == ROLLBACK and stack:
            stack.pop()
        seen(entry.version)
    seen(current or "")
    return stack


def promote(uri: str, version: ModelVersion, alias: str, reason: str, by: str = "") -> Move:
    """Give the alias to a version by hand; the entry says so."""
    before = tracking.get_alias(uri, version.name, alias)
    if before == version:
        raise UserError(f"{version.uri} is the {alias} already", "nothing needs to be done")
    entry = Move(version.version, before.version if before else "", HAND, reason, by=by)
    move(uri, version, alias, entry)
    return entry


def rollback(uri: str, name: str, alias: str, reason: str, by: str = "") -> Move:
    """Give the alias back to the version that held it before, and withdraw the present one: the gate leaves it alone from then on.

    Raises:
        UserError: no version holds the alias, or none held it before that still exists.
    """
    entries = history(uri, name, alias)
    current = tracking.get_alias(uri, name, alias)
    if current is None:
        raise UserError(f"{name} has no {alias}, so there is nothing to take back", f"`mvforge models promote` gives {name} one")
    existing = {facts.version.version: facts.version for facts in tracking.versions(uri, name)}
    earlier = [number for number in holders(entries, current.version)[:-1] if number in existing and number != current.version]
    if not earlier:
        raise UserError(
            f"{current.uri} is the only {alias} on record, so there is none to go back to",
            "choose another version with `mvforge models list` and `mvforge models promote`",
        )
    target = existing[earlier[-1]]
    entry = Move(target.version, current.version, ROLLBACK, reason, by=by)
    tracking.set_version_tags(uri, current, {WITHDRAWN: f"{entry.at[:10]}: {reason}"})
    move(uri, target, alias, entry)
    return entry
