"""The format of the store's own notes (`record.json`, `building.json`), so that another version's are read or refused, never guessed.

Entries may be added within a format: readers drop what they do not know and take defaults for what is absent. A change that an
older reader would misunderstand raises `SCHEMA`. Notes without the entry are of format 1.
"""

from typing import Any

from infra.errors import UserError
from infra.storage import Location

SCHEMA = 1
KEY = "schema"


class NewerFormat(UserError):
    """A note that a later version wrote, in a format this one does not know."""


def schema_note() -> dict[str, Any]:
    """The entry that says in which format a note is written."""
    return {KEY: SCHEMA}


def readable(place: Location, value: Any) -> dict[str, Any]:
    """The note at `place` as parsed JSON, if this version can read it.

    Raises:
        NewerFormat: it is of a later format.
        TypeError: it is no JSON object, or its format is no number.
    """
    if not isinstance(value, dict):
        raise TypeError(f"a JSON object is expected, this is {type(value).__name__}")
    schema = value.get(KEY, 1)
    if isinstance(schema, bool) or not isinstance(schema, int):
        raise TypeError(f"{KEY} is {schema!r} and no number")
    if schema > SCHEMA:
        raise NewerFormat(
            f"{place.shown} was written by a newer mvforge: format {schema}, this version reads up to {SCHEMA}",
            "use the version that wrote it (or a later one), or leave it and build beside it: mvforge run RECIPE --label NEW_LABEL",
        )
    return value
