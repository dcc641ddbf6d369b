"""The page as a browser gets it: complete, self-contained, escaped, and with the right pictures in the right places."""

import base64
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from evaluation import reconstruct, report, score
from evaluation.report import ReportConfig, chosen_objects
from evaluation.report_page.inputs import ReportInputs, read_inputs
from evaluation.report_page.plots import Series, curves, spread, ticks
from evaluation.strips import tile
from infra.errors import UserError
from infra.job import Job, Summary
from infra.storage import Location
from rendering.view_set import ViewSet
from tests.evaluation.traced import chair, imagined, ledger, rendered, store

EVIL = "</td><script>alert('x')</script><img src=http://example.org/a.png>"
SIZE = 64
VOID = {"meta", "img", "br", "link", "input"}


class Page(HTMLParser):
    """What a browser would see; fails on tags that do not match."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("script", "style"):
            self.text += data

    def pictures(self, alt: str) -> list[Image.Image]:
        sources = [attrs["src"] or "" for tag, attrs in self.tags if tag == "img" and attrs["alt"] == alt]
        return [Image.open(io.BytesIO(base64.b64decode(source.partition("base64,")[2]))) for source in sources]


@pytest.fixture(scope="module")
def truth() -> list[ViewSet]:
    return [rendered(uid, chair(0.3 + 0.2 * number), SIZE, 2) for number, uid in enumerate(("chair_a", "chair_b"))]


@pytest.fixture(scope="module")
def steps(tmp_path_factory: pytest.TempPathFactory, truth: list[ViewSet]) -> dict[str, Location]:
    """Outputs of all earlier steps: chair_a generated perfectly, chair_b badly, two more lost on the way."""
    root = Location(str(tmp_path_factory.mktemp("store")))
    place = {
        name: root / name for name in ("render", "generate", "reconstruct", "score", "gate", "register", "fetch", "curate", "train.one")
    }
    store(truth, place["render"])
    known = {"category": "chair", "licence": "CC-BY-4.0", "attribution": f"Jane {EVIL}", "split": "test"}
    rows = [{"uid": uid, **known} for uid in ("chair_a", "chair_b", "lost")] + [
        {"uid": "hung", **known, "status": "failed", "reason": "timeout"}
    ]
    ledger(rows, place["render"] / "ledger.parquet")
    store([imagined(truth[0], 0.0), imagined(truth[1], 60.0)], place["generate"])
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


def make(steps: dict[str, Location], out: Location, config: ReportConfig) -> tuple[Summary, str]:
    summary = report.run(
        config, scores=steps["score"], generated=steps["generate"], reference=steps["render"], meshes=steps["reconstruct"],
        decision=steps["gate"], model=steps["register"], histories={"one": steps["train.one"]}, fetched=steps["fetch"],
        curated=steps["curate"], out=out, job=Job(),
    )  # fmt: skip
    return summary, (out / "report.html").read_text()


@pytest.fixture(scope="module")
def made(steps: dict[str, Location], tmp_path_factory: pytest.TempPathFactory) -> str:
    config = ReportConfig(title="A & B", note=f"tiny {EVIL}", recipe="tiny", command="mvforge run tiny --label 'a b'")
    summary, text = make(steps, Location(str(tmp_path_factory.mktemp("report"))), config)
    assert summary.completed == 2 and summary.facts["bytes"] == len(text.encode()) < 2_000_000
    return text


def test_nothing_is_fetched_and_nothing_injected(made: str) -> None:
    page = Page(made)
    for tag, attrs in page.tags:
        for name in ("src", "href", "xlink:href", "data", "action"):
            value = attrs.get(name) or ""
            assert value == "" or value.startswith(("data:image/webp;base64,", "#")), (tag, value[:80])
        assert not any(name.startswith("on") for name in attrs)
    assert sum(tag == "script" for tag, _ in page.tags) == 1 and "url(" not in made and "@import" not in made
    assert page.text.count("alert('x')") >= 4  # note (twice), failure detail, attribution: as text
    targets = {attrs["id"] for _, attrs in page.tags if "id" in attrs}
    assert {(attrs["href"] or "")[1:] for tag, attrs in page.tags if tag == "a"} <= targets


def test_everything_is_told(made: str, steps: dict[str, Location]) -> None:
    text = Page(made).text
    mean = (steps["score"] / "summary.json").read_json()["metrics"]["psnr_foreground"]["mean"]
    for fact in (
        "A & B", "models:/mv/3", "models:/mv@chosen", "mvforge run tiny --label 'a b'", f"{mean:.2f}", "default(points=500", "Promoted",
        "there was no champion", "21.45", "protocols differ", "Held-out loss 1.25 before training, 0.75 after 3 steps", "CC-BY-4.0",
        "timeout", "unsupported_texture", "duplicate", "of chair_a", "none of the 2 trained objects",
    ):  # fmt: skip
        assert fact in text, fact
    for uid in ("ktx", "hung", "twin", "lost"):
        assert uid in text


def test_truth_and_generated_stand_side_by_side(made: str, truth: list[ViewSet]) -> None:
    page = Page(made)
    # chair_a comes first (it is best) and was generated perfectly, so aligned rows differ by compression only.
    for elevation in ("-30", "0", "+30", "+60"):
        shown, generated, gap = (
            np.asarray(page.pictures(f"{name}, elevation {elevation} degrees")[0], float)
            for name in ("truth", "generated", "|difference| \u00d7 2")
        )
        assert shown.shape == (SIZE, 8 * SIZE, 3) and gap.max() <= 16 and np.abs(shown - generated).mean() < 1
    # Column k of the truth row is the rendered view 45 k degrees on from the given one.
    reference = truth[0].azimuth_deg[32]
    row = np.asarray(page.pictures("truth, elevation 0 degrees")[0], float)
    for column in range(8):
        azimuth = (reference + 45 * column) % 360
        (index,) = np.flatnonzero((truth[0].elevation_deg[:32] == 0) & (np.abs(truth[0].azimuth_deg[:32] - azimuth) < 1e-6))
        expected = tile(truth[0].rgba[index], SIZE).astype(float)
        assert np.abs(row[:, column * SIZE : (column + 1) * SIZE] - expected).mean() < 4
    # chair_b is noise.
    assert np.asarray(page.pictures("|difference| \u00d7 2, elevation 0 degrees")[1]).max() > 100
    turning = page.pictures("generated")[0]
    assert getattr(turning, "n_frames", 1) == 8 and turning.info["loop"] == 0


def test_the_table_sorts_by_exact_figures(made: str, steps: dict[str, Location]) -> None:
    rows = (steps["score"] / "scores.parquet").read_table().to_pylist()
    exact = {row["value"] for row in rows if row["view"] is None and row["metric"] == "psnr_foreground" and row["value"] is not None}
    stored = {float(value) for value in re.findall(r'data-value="([^"]+)"', made)}
    assert len(exact) == 2 and exact <= stored


def test_missing_parts_leave_gaps_not_crashes(steps: dict[str, Location], tmp_path: Path) -> None:
    empty, out = Location(str(tmp_path / "empty")), Location(str(tmp_path))
    summary = report.run(ReportConfig(), scores=steps["score"], generated=empty, reference=empty, out=out, job=Job())
    page = Page((out / "report.html").read_text())
    assert summary.completed == 0 and "No object has generated views" in page.text and "No gate was part" in page.text
    with pytest.raises(UserError, match="no scores"):
        report.run(ReportConfig(), scores=empty, generated=empty, reference=empty, out=out, job=Job())


def test_shown_objects_reach_from_best_to_worst(steps: dict[str, Location]) -> None:
    names = ("fetched", "curated", "decision", "model", "meshes")
    inputs = read_inputs(
        scores=steps["score"], generated=steps["generate"], reference=steps["render"], histories={}, **dict.fromkeys(names)
    )
    figures = {f"o{number}": {"psnr_foreground": float(number)} for number in range(11)} | {"odd": {"psnr_foreground": None}}
    wide = ReportInputs(**{**vars(inputs), "figures": figures, "generated": figures})
    assert chosen_objects(wide, ReportConfig(max_objects_shown=3)) == ["o10", "o4", "odd"]
    assert chosen_objects(wide, ReportConfig(max_objects_shown=1)) == ["o10"]
    assert len(chosen_objects(wide, ReportConfig(max_objects_shown=50))) == 12


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (-3.2, 17.0), (0.0119, 0.0263), (1e-7, 3e-7), (5.0, 123456.0)])
def test_ticks_are_few_round_and_inside(low: float, high: float) -> None:
    found = ticks(low, high)
    assert 2 <= len(found) <= 6 and all(low - 1e-12 <= tick <= high + 1e-12 for tick in found)
    gaps = np.diff(found)
    np.testing.assert_allclose(gaps, gaps[0])
    assert min(abs(np.log10(gaps[0] / m) % 1 - bound) for m in (1, 2, 5) for bound in (0, 1)) < 1e-6


def test_plots_survive_odd_values() -> None:
    nan = float("nan")
    Page(curves("one point", [Series("a", [1.0], [2.0])]))
    Page(curves("a gap", [Series("a", [1, 2, 3, 4, 5], [1.0, 2.0, nan, 3.0, 4.0])]))
    assert curves("a gap", [Series("a", [1, 2, 3, 4, 5], [1.0, 2.0, nan, 3.0, 4.0])]).count("<polyline") == 2
    assert "nothing was logged" in curves("empty", [Series("a", [], [])])
    assert spread("equal", [1.0, 1.0, 1.0]).count("<circle") == 3 and "no value" in spread("none", [nan])
