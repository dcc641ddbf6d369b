"""Rows of a training as metrics of a tracking run, each step once."""

from infra.job import Run


class TrackedRows:
    """Rows become metrics once a step, also when a training that goes on repeats steps (with the same figures)."""

    FIGURES = {"train": "loss", "validation": "loss", "preview": "seconds"}
    """A figure that every row of the kind has."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.last = {kind: run.last_step(f"{kind}/{name}") for kind, name in self.FIGURES.items()}

    def row(self, kind: str, row: dict[str, float]) -> None:
        step, last = int(row["step"]), self.last[kind]
        if last is None or step > last:
            self.last[kind] = step
            self.run.metrics({f"{kind}/{name}": value for name, value in row.items() if name != "step"}, step=step)
