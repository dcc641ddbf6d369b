"""Rows of a training as metrics of a tracking run, each step once."""

from collections.abc import Mapping

from infra.job import Run


class TrackedRows:
    """Rows become metrics once a step, also when a training that goes on repeats steps (with the same figures).

    A driver that goes on for one that died has a run of its own, which gets the rows from before as well.
    """

    FIGURES = {"train": "loss", "validation": "loss", "preview": "seconds"}
    """A figure that every row of the kind has."""

    def __init__(self, run: Run) -> None:
        self.run = run
        # A run that is opened again has all rows up to its last: whoever wrote that had sent those before.
        self._before = {kind: run.last_step(f"{kind}/{name}") for kind, name in self.FIGURES.items()}
        self._since: dict[str, set[int]] = {kind: set() for kind in self.FIGURES}

    def row(self, kind: str, row: Mapping[str, float]) -> bool:
        """Log a row of a kind in `FIGURES`, unless the run has that step; whether it was logged."""
        step, before = int(row["step"]), self._before[kind]
        if (before is not None and step <= before) or step in self._since[kind]:
            return False
        self._since[kind].add(step)
        self.run.metrics({f"{kind}/{name}": value for name, value in row.items() if name != "step"}, step=step)
        return True

    def earlier(self, rows: Mapping[str, list[dict[str, float]]]) -> dict[str, list[dict[str, float]]]:
        """Log what the run lacks of rows by kind that a checkpoint or a finished training holds; those that were logged."""
        return {kind: [row for row in every if self.row(kind, row)] for kind, every in rows.items()}
