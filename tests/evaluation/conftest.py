"""One small evaluation for the tests of the report: made once, read by several files."""

import json
from pathlib import Path

import pyarrow as pa
import pytest

from evaluation import reconstruct, report, score
from evaluation.report import ReportConfig
from infra.job import Job, Summary
from infra.storage import Location
from rendering.view_set import ViewSet
from tests.evaluation.traced import chair, imagined, ledger, rendered, store

EVIL = "</td><script>alert('x')</script><img src=http://example.org/a.png>"
REPORT_PX = 64
STEPS = ("render", "generate", "reconstruct", "score", "gate", "register", "fetch", "curate", "train.one")


@pytest.fixture(scope="session")
def report_truth() -> list[ViewSet]:
    return [rendered(uid, chair(0.3 + 0.2 * number), REPORT_PX, 2) for number, uid in enumerate(("chair_a", "chair_b"))]


@pytest.fixture(scope="session")
def report_steps(tmp_path_factory: pytest.TempPathFactory, report_truth: list[ViewSet]) -> dict[str, Location]:
    """Outputs of all earlier steps: chair_a generated perfectly, chair_b badly, three more lost on the way."""
    root = Location(str(tmp_path_factory.mktemp("store")))
    place = {name: root / name for name in STEPS}
    store(report_truth, place["render"])
    known = {"category": "chair", "licence": "CC-BY-4.0", "attribution": f"Jane {EVIL}", "split": "test"}
    rows = [{"uid": uid, **known} for uid in ("chair_a", "chair_b", "lost")] + [
        {"uid": "hung", **known, "status": "failed", "reason": "timeout"}
    ]
    ledger(rows, place["render"] / "ledger.parquet")
    store([imagined(report_truth[0], 0.0), imagined(report_truth[1], 60.0)], place["generate"])
    failed = {"uid": "lost", "status": "failed", "reason": "error", "detail": EVIL}
    ledger([{"uid": "chair_a"}, {"uid": "chair_b"}, failed], place["generate"] / "ledger.parquet")
    (place["generate"] / "model.json").write_json({"uri": "models:/mv/3", "requested": "models:/mv@chosen", "settings": {"conditions": 1}})
    (place["register"] / "version.json").write_json({"name": "mv", "version": "3", "uri": "models:/mv/3", "uids": ["t1", "t2"]})
    ledger([{"uid": "ktx", "status": "failed", "reason": "unsupported_texture"}], place["fetch"] / "meshes.parquet")
    rejected = pa.Table.from_pylist([{"uid": "twin", "split": "train", "reason": "duplicate", "detail": "of chair_a"}])
    (place["curate"] / "rejected.parquet").write_table(rejected)
    reconstruct.run(reconstruct.ReconstructConfig(resolution=24), views=place["generate"], out=place["reconstruct"], job=Job())
    score.run(
        score.ScoreConfig(points=500, volume_resolution=12), reference=place["render"], generated=place["generate"],
        meshes=place["reconstruct"], model=place["register"], out=place["score"], job=Job(),
    )  # fmt: skip
    verdict = {"decision": "promoted", "reason": "there was no champion", "alias": "champion", "metric": "psnr_foreground"}
    (place["gate"] / "decision.json").write_json(verdict | {"minimum": None, "champion_before": None, "champion_after": "models:/mv/3"})
    (place["train.one"] / "history.jsonl").write_text("\n".join(json.dumps({"step": s, "loss": 1 / s, "lr": 0.1}) for s in (1, 2, 3)))
    (place["train.one"] / "validation.jsonl").write_text(
        '{"step": 0, "loss": 1.25, "psnr": 11.0}\n{"step": 3, "loss": 0.75, "psnr": 12.0}\n'
    )
    return place


def make_page(steps: dict[str, Location], out: Location, config: ReportConfig) -> tuple[Summary, str]:
    """The page of these steps, and the summary of making it."""
    summary = report.run(
        config, scores=steps["score"], generated=steps["generate"], reference=steps["render"], meshes=steps["reconstruct"],
        decision=steps["gate"], model=steps["register"], histories={"one": steps["train.one"]}, fetched=steps["fetch"],
        curated=steps["curate"], out=out, job=Job(),
    )  # fmt: skip
    return summary, (out / "report.html").read_text()


@pytest.fixture(scope="session")
def report_page(report_steps: dict[str, Location], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of all of it, as a file."""
    folder = tmp_path_factory.mktemp("report")
    config = ReportConfig(title="A & B", note=f"tiny {EVIL}", recipe="tiny", command="mvforge run tiny --label 'a b'")
    summary, text = make_page(report_steps, Location(str(folder)), config)
    assert summary.completed == 2 and summary.facts["bytes"] == len(text.encode()) < 2_000_000
    return folder / "report.html"
