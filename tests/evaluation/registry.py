"""A real MLflow store with a few versions of one model, and score builds as the score step leaves them."""

import io
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from evaluation import gate
from evaluation.gate_rule import GateConfig
from evaluation.score import SCHEMA
from evaluation.statistics import aggregate
from infra import tracking
from infra.job import Job
from infra.storage import Location

UIDS = [f"object-{n}" for n in range(8)]
BASE = np.linspace(14, 26, 8)
WOBBLE = np.array([0.3, -0.2, 0.1, -0.3, 0.2, -0.1, 0.25, -0.25])


def figures(mean: float) -> dict[str, float | None]:
    """Eight objects of very different difficulty, whose mean is `mean`."""
    return {uid: float(value) for uid, value in zip(UIDS, BASE - BASE.mean() + mean, strict=True)}


def score_build(
    place: Location, values: dict[str, dict[str, float | None]], model: str = "", evaluation_set: str = "e" * 64, **protocol: Any
) -> Location:
    """`scores.parquet` and `summary.json` for metric -> uid -> figure; view rows are there to be ignored."""
    rows = [
        {"uid": uid, "metric": metric, "view": view, "value": value, "reason": "" if value is not None else "no mask"}
        for metric, of_objects in values.items()
        for uid, value in of_objects.items()
        for view in (None, 0)
    ]
    (place / "scores.parquet").write_table(pa.Table.from_pylist(rows, schema=SCHEMA))
    (place / "summary.json").write_json(
        {
            "protocol": {"name": "default"} | protocol,
            "evaluation_set": evaluation_set,
            "metrics": {metric: aggregate(list(of_objects.values())) for metric, of_objects in values.items()},
            "overlap": {"checked": True, "trained_objects": 2, "reason": ""},
            "model": model,
        }
    )
    return place


@dataclass
class Registry:
    """The store, its versions 1..4 of `mv` (the last one trained on an evaluated object), and folders for the gate."""

    root: Path
    job: Job

    def copy(self, root: Path) -> "Registry":
        """The same store in a file of its own; making versions takes seconds, copying them none."""
        shutil.copy(self.uri.removeprefix("sqlite:///"), root / "mlflow.db")
        run = tracking.TrackedRun(tracking.default_uri(root), self.job.run.run_id or "")
        return Registry(root, Job(run=run))

    @property
    def uri(self) -> str:
        assert self.job.run.tracking_uri is not None
        return self.job.run.tracking_uri

    def version(self, number: int) -> tracking.ModelVersion:
        return tracking.ModelVersion("mv", str(number), f"models:/mv/{number}")

    def judge(
        self,
        number: int,
        values: dict[str, float | None] | float,
        *,
        build: str,
        config: GateConfig | None = None,
        evaluation_set: str = "e" * 64,
        **settings: Any,
    ) -> dict[str, Any]:
        """One pass of the gate over a version with these figures; returns `decision.json`."""
        place = Location(str(self.root / f"{number}-{build}"))
        of_objects = figures(values) if isinstance(values, float) else values
        share: dict[str, float | None] = dict.fromkeys(of_objects, 0.5)
        score_build(place / "scores", {"psnr_foreground": of_objects, "f_score@0.01": share}, evaluation_set=evaluation_set)
        made_by = {"name": "mv", "version": str(number), "uri": f"models:/mv/{number}", "settings": {"conditions": 1} | settings}
        (place / "generated" / "model.json").write_json(made_by)
        sheet = io.BytesIO()
        Image.new("RGB", (8, 8), "red").save(sheet, "WEBP")
        (place / "generated" / "sheet.webp").write_bytes(sheet.getvalue())
        job = Job(build_id=build, run=self.job.run)
        rule = config or GateConfig()
        summary = gate.run(rule, scores=place / "scores", model=None, generated=place / "generated", out=place / "out", job=job)
        record = (place / "out" / "decision.json").read_json()
        assert summary.facts["decision"] == record["decision"]
        return record

    def champion(self) -> str | None:
        found = tracking.get_alias(self.uri, "mv", "champion")
        return found.uri if found else None


def fill(tracking_uri: str, root: Path) -> Registry:
    """Four versions of `mv`."""
    parent = tracking.open_run(tracking_uri, "test", "pipeline")
    run = tracking.open_run(tracking_uri, "test", "gate", parent_run_id=parent.run_id)
    (root / "generator").mkdir()
    for number in (1, 2, 3, 4):
        seen = ["object-3", "trained-0"] if number == 4 else ["trained-0", "trained-1"]
        (root / "generator" / "trained_uids.json").write_text(json.dumps(seen))
        tracking.register(
            tracking_uri,
            name="mv",
            folder=root / "generator",
            loader_module="training.served",
            input_columns={"image": "binary"},
            output_columns={"image": "binary"},
            tags={"recipe": "tiny", "trained_objects": "2", "licences": "CC0-1.0 2", "data_fingerprint": f"data{number}"},
            description=f"Version {number}.\n\n## Figures\n\nNot evaluated yet.\n\n## Limits\n\nA test.\n",
            run=tracking.open_run(tracking_uri, "test", f"register-{number}", parent_run_id=parent.run_id),
            build_id=f"register-{number}",
            model_description="About mv.",
        )
    return Registry(root, Job(run=run))
