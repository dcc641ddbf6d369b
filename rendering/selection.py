"""Which objects a recipe wants: licence policy and quality scores, judged before a byte is downloaded."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace

import numpy as np
import pyarrow as pa

from infra.errors import UserError
from infra.storage import Location
from rendering.licences import LicencePolicy
from rendering.sources.base import ObjectRef

EXCLUDED = "excluded.parquet"
EXCLUDED_SCHEMA = pa.schema([(name, pa.string()) for name in ("uid", "reason", "detail", "licence")])


@dataclass(frozen=True)
class Exclusion:
    """An object that was considered and not taken: reason class, this case, and its licence."""

    uid: str
    reason: str
    detail: str
    licence: str


@dataclass(frozen=True)
class Selection:
    """What is asked of an object.

    Attributes:
        policy: the licences that are allowed.
        scores: uid -> quality score.
        min_score: the lowest score to take; None asks for no score.
        top_fraction: only this best share of the scored objects, ties with its last included; 0 asks for no rank.
    """

    policy: LicencePolicy = LicencePolicy()
    scores: Mapping[str, float] = field(default_factory=dict)
    min_score: float | None = None
    top_fraction: float = 0.0

    def among(self, uids: Collection[str]) -> "Selection":
        """The selection with its rank turned into a score: that of the last one of the best share of these objects.

        Raises UserError: there are scores, and none of them belongs to these objects.
        """
        if not self.scores:
            return self
        scores = np.array([self.scores[uid] for uid in uids if uid in self.scores])
        if not len(scores):
            example = next(iter(self.scores))
            message = f"none of the {len(self.scores)} uids of the score table, such as '{example}', is among the {len(uids)} objects"
            raise UserError(message, "check catalog.scores and catalog.scores_uid_column")
        if not self.top_fraction:
            return self
        rank = max(1, round(self.top_fraction * len(scores)))
        last = float(np.sort(scores)[-rank])
        return replace(self, min_score=last if self.min_score is None else max(last, self.min_score), top_fraction=0.0)

    def refused_by_score(self, uid: str) -> tuple[str, str] | None:
        """(reason, detail) when the score is too low or missing though one is asked for."""
        if self.min_score is None:
            return None
        score = self.scores.get(uid)
        if score is None:
            return "score_missing", "not in the score table"
        return ("score_low", f"score {score:g}, at least {self.min_score:g} is asked for") if score < self.min_score else None

    def refusal(self, ref: ObjectRef) -> Exclusion | None:
        """Why the object is not taken, or None. One that no file stands behind is left to `fetch` to report."""
        if not ref.uri:
            return None
        if by_score := self.refused_by_score(ref.uid):
            return Exclusion(ref.uid, *by_score, licence=ref.licence)
        if reason := self.policy.refusal(ref.licence):
            allowed = ", ".join(self.policy.allowed)
            return Exclusion(ref.uid, reason, f"'{ref.licence}' is not among {allowed}", ref.licence)
        return None


EVERYTHING_OPEN = Selection()
"""The default licence policy and nothing else."""


def write_excluded(exclusions: Iterable[Exclusion], out: Location) -> None:
    """`excluded.parquet`, sorted by uid: what was considered and not taken."""
    rows = sorted((asdict(exclusion) for exclusion in exclusions), key=lambda row: row["uid"])
    (out / EXCLUDED).write_table(pa.Table.from_pylist(rows, schema=EXCLUDED_SCHEMA))


def carry_excluded(source: Location, out: Location) -> None:
    """Hand the table on to the next step's output, so that it lies beside the ledger: together they hold every object."""
    if (source / EXCLUDED).exists():
        (out / EXCLUDED).write_bytes((source / EXCLUDED).read_bytes())
