"""How much of a protocol an evaluation kept: its objects, its rig, its number of input views."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from evaluation.protocols.base import Protocol
from infra.seeds import rng_for
from rendering.gso30 import object_name

SHOWN = 40


@dataclass(frozen=True)
class Seen:
    """What one scored object had: the rig of its truth, how many input views, and the fields of view in degrees of the pictures.

    `fitted` says that generated pictures were cropped or padded; `of_inputs` how many scored views stood where an input stood.
    """

    rig: str = ""
    conditions: int = 0
    scored_views: int = 0
    of_inputs: int = 0
    truth_fov_deg: float | None = None
    generated_fov_deg: float | None = None
    input_fov_deg: float | None = None
    fitted: bool = False


def drawn_views(protocol: Protocol, name: str, available: int) -> list[int]:
    """Which of an object's `available` scorable views count, in order: all, or the protocol's draw by (seed, name)."""
    if protocol.draws is None or protocol.draws >= available:
        return list(range(available))
    chosen = rng_for(protocol.seed, "scored views", object_name(name) or name).choice(available, protocol.draws, replace=False)
    return sorted(int(i) for i in chosen)


def coverage(protocol: Protocol, seen: dict[str, Seen], asked: Iterable[str]) -> dict[str, Any]:
    """What was kept of the protocol, for `summary.json`. `seen` by uid of what was scored; `asked` all uids that should have been.

    `keeps_protocol` is True only when every object of the list was asked for and nothing else, all from its rig and with one of its numbers
    of input views; None for a protocol that asks for nothing.
    """
    names = {uid: object_name(uid) for uid in asked}
    rigs, counts = Counter(one.rig for one in seen.values()), Counter(one.conditions for one in seen.values())
    missing: Sequence[str] = sorted(set(protocol.objects) - set(names.values()))
    others = sorted(uid for uid, name in names.items() if name is None) if protocol.objects else []
    departures = []
    if missing:
        departures.append(f"{len(missing)} of {protocol.object_count} objects are missing")
    if others:
        departures.append(f"{len(others)} objects are not of its list")
    if protocol.object_count and not protocol.objects and len(names) != protocol.object_count:
        departures.append(f"{len(names)} objects instead of {protocol.object_count}")
    if protocol.rig and set(rigs) - {protocol.rig}:
        departures.append(f"truth rendered with {', '.join(sorted(filter(None, rigs))) or 'an unknown rig'}, not {protocol.rig}")
    if protocol.condition_counts and set(counts) - set(protocol.condition_counts):
        departures.append(f"{', '.join(map(str, sorted(counts)))} input views, its tables have {protocol.condition_counts}")
    asks = bool(protocol.object_count or protocol.rig or protocol.condition_counts)
    return {
        "keeps_protocol": (not departures) if asks else None,
        "departures": departures,
        "objects_of_the_list": sum(name is not None for name in names.values()) if protocol.objects else len(names),
        "missing_objects": list(missing[:SHOWN]),
        "rigs": dict(sorted(rigs.items())),
        "condition_counts": sorted(counts),
        "scored_views_per_object": sorted({one.scored_views for one in seen.values()}),
        "input_views_scored": sum(one.of_inputs for one in seen.values()),
        "truth_fov_deg": _distinct(one.truth_fov_deg for one in seen.values()),
        "generated_fov_deg": _distinct(one.generated_fov_deg for one in seen.values()),
        "input_fov_deg": _distinct(one.input_fov_deg for one in seen.values()),
        "views_fitted": sum(one.fitted for one in seen.values()),
    }


def _distinct(values: Iterable[float | None]) -> list[float]:
    return sorted({round(value, 3) for value in values if value is not None})
