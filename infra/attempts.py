"""How often an object was begun by workers that then died: Ray repeats what a dead actor had in hand without end."""

from dataclasses import dataclass

from infra.nodes import here, still_there
from infra.storage import Location


@dataclass(frozen=True)
class Attempts:
    """Notes below `place`, `<key>.attempts.json` each while its object is in work. `session` tells one call of a step from another."""

    place: Location
    session: str

    def begin(self, key: str) -> int:
        """Note that this process begins with an object; returns how many workers died over it in this session before.

        Those that ended because their whole node was lost are left out.
        """
        note = self.place / f"{key}.attempts.json"
        before = note.read_json() if note.exists() else {}
        nodes = before.get("nodes", []) if before.get("session") == self.session else []
        note.write_json({"session": self.session, "nodes": [*nodes, here()]})
        return still_there(nodes)

    def end(self, key: str) -> None:
        """The object is finished, well or not."""
        (self.place / f"{key}.attempts.json").delete()
