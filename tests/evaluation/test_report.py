"""The page as a browser gets it: complete, self-contained, escaped, and with the right pictures in the right places."""

import base64
import csv
import hashlib
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from evaluation import report
from evaluation.report import ReportConfig, chosen_objects
from evaluation.report_page.consistency import odd_view
from evaluation.report_page.figures import in_order, metric
from evaluation.report_page.headline import headline, paper_column
from evaluation.report_page.inputs import ReportInputs, read_inputs
from evaluation.report_page.meshes import GLB
from evaluation.report_page.plots import Series, curves, spread, ticks
from evaluation.report_page.sections import decision
from evaluation.report_page.sheets import contact_sheet, layout_of
from evaluation.strips import AGREED, INVENTED, LOST, mask_overlay, sheet, tile
from infra.errors import UserError
from infra.job import Job
from infra.storage import Location
from rendering.view_set import TARGET, ViewSet
from tests.evaluation.conftest import REPORT_PX, make_page

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
def made(report_page: Path) -> str:
    return report_page.read_text()


def data_of(uri: str | None, kind: str) -> bytes:
    assert uri is not None and uri.startswith(f"data:{kind};base64,"), (uri or "")[:60]
    return base64.b64decode(uri.partition(",")[2])


def test_nothing_is_fetched_and_nothing_injected(made: str) -> None:
    page = Page(made)
    for tag, attrs in page.tags:
        for name in ("src", "href", "xlink:href", "data", "action"):
            value = attrs.get(name) or ""
            assert value == "" or value.startswith(("data:", "#")), (tag, value[:80])
            assert tag != "a" or not value.startswith("data:") or "download" in attrs
        assert not any(name.startswith("on") for name in attrs)
    assert "url(" not in made and "@import" not in made
    assert page.text.count("alert('x')") >= 4  # note (twice), failure detail, attribution: as text
    targets = {attrs["id"] for _, attrs in page.tags if "id" in attrs}
    assert {(attrs["href"] or "")[1:] for tag, attrs in page.tags if tag == "a" and (attrs["href"] or "").startswith("#")} <= targets


def test_the_policy_allows_the_scripts_of_the_page_alone(made: str) -> None:
    """As a browser reads it: the hash of the text between the tags, and no source of anything but data."""
    policy = next(attrs["content"] or "" for tag, attrs in Page(made).tags if attrs.get("http-equiv") == "Content-Security-Policy")
    rules = {name: values for name, *values in (rule.split() for rule in policy.split(";"))}
    assert rules["default-src"] == ["'none'"] and set(rules["img-src"]) == {"data:", "blob:"}
    scripts = re.findall("<script>(.*?)</script>", made, re.S)
    hashes = [f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'" for script in scripts]
    assert rules["script-src"] == hashes and len(hashes) == 3


def test_everything_is_told(made: str, report_steps: dict[str, Location]) -> None:
    text = Page(made).text
    summary = (report_steps["score"] / "summary.json").read_json()
    mean, low = summary["metrics"]["psnr_foreground"]["mean"], summary["metrics"]["psnr_foreground"]["ci95"][0]
    for fact in (
        "A & B", "models:/mv/3", "models:/mv@chosen", "mvforge run tiny --label 'a b'", f"{mean:.2f}", f"{low:.2f} \u2013",
        "default(points=500", "Promoted", "there was no champion", "21.45", "protocols differ", "not comparable",
        "CC-BY-4.0", "none of the 2 trained objects",
        "Held-out loss 1.25 before training, 0.75 after 3 steps", "timeout", "unsupported_texture", "duplicate", "of chair_a",
        "By PSNR foreground, the worst first", "mvforge run tiny --label 'a b' --rerun report", summary["evaluation_set"],
    ):  # fmt: skip
        assert fact in text, fact
    for uid in ("ktx", "hung", "twin", "lost"):
        assert uid in text
    for name in summary["metrics"]:  # those without any figure too
        assert metric(name).head in text, name
    for name in (name for name, stats in summary["metrics"].items() if stats["mean"] is None):
        assert summary["unavailable"][name]["reason"] in text


def test_truth_and_generated_stand_side_by_side(made: str, report_truth: list[ViewSet]) -> None:
    page = Page(made)
    where = ", azimuths across, elevations down"
    # chair_a comes first (it is best) and was generated perfectly, so aligned sheets differ by compression only.
    shown, generated, gap, masks = (
        [np.asarray(one, float) for one in page.pictures(name + where)] for name in ("truth", "generated", "difference \u00d7 4", "masks")
    )
    assert shown[0].shape == (4 * REPORT_PX, 8 * REPORT_PX, 3) and gap[0].max() <= 32 and np.abs(shown[0] - generated[0]).mean() < 1
    # Row r, column k of the truth is the rendered view 45 k degrees on from the given one, the highest elevation on top.
    reference = report_truth[0].azimuth_deg[32]
    for row, elevation in enumerate((60, 30, 0, -30)):
        for column in (0, 3, 7):
            azimuth = (reference + 45 * column) % 360
            apart = np.abs((report_truth[0].azimuth_deg[:32] - azimuth + 180) % 360 - 180)
            (index,) = np.flatnonzero((report_truth[0].elevation_deg[:32] == elevation) & (apart < 1e-6))
            expected = tile(report_truth[0].rgba[index], REPORT_PX).astype(float)
            cell = shown[0][row * REPORT_PX : (row + 1) * REPORT_PX, column * REPORT_PX : (column + 1) * REPORT_PX]
            assert np.abs(cell - expected).mean() < 4, (row, column)
    # chair_b is noise in colour, not in outline: no pixel is in one mask only.
    assert gap[1].max() > 200
    for colour in (LOST, INVENTED):
        assert np.abs(masks[1] - colour).max(-1).min() > 40
    turning = page.pictures("generated")[0]
    assert getattr(turning, "n_frames", 1) == 8 and turning.info["loop"] == 0
    assert "hull \u2192 clean" in page.text  # how the reconstruct step made the mesh
    mesh = page.pictures("mesh of chair_a, turning")[0]
    assert getattr(mesh, "n_frames", 1) == 18 and mesh.width == 2 * mesh.height


def test_the_files_inside_are_the_results(made: str, report_steps: dict[str, Location]) -> None:
    links = {attrs["download"]: attrs["href"] for tag, attrs in Page(made).tags if tag == "a" and "download" in attrs}
    results = json.loads(data_of(links["results.json"], "application/json"))
    assert results["schema_version"] == 1 and results["command"].startswith("mvforge run tiny")
    assert results["summary"] == (report_steps["score"] / "summary.json").read_json()
    scored = (report_steps["score"] / "scores.parquet").read_table().to_pylist()
    of_objects = {(row["uid"], row["metric"]): row["value"] for row in scored if row["view"] is None}
    told = {(uid, name): value for uid, one in results["objects"].items() for name, value in one["figures"].items()}
    assert told == of_objects and {uid for uid, _ in told} == {"chair_a", "chair_b", "lost"}
    assert {(row["step"], row["uid"]) for row in results["failures"]} >= {("fetch", "ktx"), ("render", "hung"), ("generate", "lost")}
    table = list(csv.DictReader(io.StringIO(data_of(links["objects.csv"], "text/csv").decode())))
    assert {(row["uid"], name): value for row in table for name, value in row.items() if name not in ("uid", "category")} == {
        key: "" if value is None else repr(value) for key, value in of_objects.items()
    }
    views = list(csv.DictReader(io.StringIO(data_of(links["views.csv"], "text/csv").decode())))
    exact = {
        (row["uid"], row["metric"], row["view"]): row["value"] for row in scored if row["view"] is not None and row["value"] is not None
    }
    assert {(r["uid"], n, int(r["view"])): float(v) for r in views for n, v in r.items() if n not in ("uid", "view") and v} == exact
    for uid in ("chair_a", "chair_b"):
        assert data_of(links[f"{uid}.glb"], GLB) == (report_steps["reconstruct"] / f"{uid}.glb").read_bytes()


def test_meshes_beyond_the_room_are_linked(report_steps: dict[str, Location], tmp_path: Path) -> None:
    size = len((report_steps["reconstruct"] / "chair_a.glb").read_bytes())
    out = Location(str(tmp_path))
    _, text = make_page(report_steps, out, ReportConfig(embedded_mb=(size + 10) / 1e6))
    links = [attrs for tag, attrs in Page(text).tags if tag == "a" and "GLB" in text]
    assert [attrs["download"] for attrs in links if (attrs.get("download") or "").endswith(".glb")] == ["chair_a.glb"]
    (away,) = [attrs["href"] or "" for attrs in links if (attrs["href"] or "").endswith(".glb")]
    assert (tmp_path / away).resolve() == (report_steps["reconstruct"] / "chair_b.glb").local_path().resolve()


def test_the_odd_view_is_the_lowest_of_the_score(made: str, report_steps: dict[str, Location]) -> None:
    inputs = inputs_of(report_steps)
    found = odd_view(inputs.views["chair_b"])
    assert found is not None
    key, view = found
    rows = (report_steps["score"] / "scores.parquet").read_table().to_pylist()
    figures = {r["view"]: r["value"] for r in rows if (r["uid"], r["metric"]) == ("chair_b", key) and r["view"] is not None}
    assert figures[view] == min(figures.values()) and len(figures) == 32
    marks = [attrs["style"] or "" for tag, attrs in Page(made).tags if tag == "i" and attrs.get("class") == "odd" and "style" in attrs]
    # The generated views are elevation by elevation, -30 first; the sheet has the highest on top.
    left, top = 100 * (view % 8) / 8, 100 * (3 - view // 8) / 4
    assert f"left:{left:.3f}%;top:{top:.3f}%;" in marks[1]
    assert f"view {view}, azimuth {45 * (view % 8)}\u00b0" in Page(made).text


def test_the_table_sorts_by_exact_figures(made: str, report_steps: dict[str, Location]) -> None:
    rows = (report_steps["score"] / "scores.parquet").read_table().to_pylist()
    exact = {row["value"] for row in rows if row["view"] is None and row["metric"] == "psnr_foreground" and row["value"] is not None}
    stored = {float(value) for value in re.findall(r'data-value="([^"]+)"', made)}
    assert len(exact) == 2 and exact <= stored


def inputs_of(steps: dict[str, Location]) -> ReportInputs:
    return read_inputs(
        scores=steps["score"], generated=steps["generate"], reference=steps["render"], meshes=None, decision=None, model=None,
        histories={}, fetched=None, curated=None,
    )  # fmt: skip


def test_missing_parts_leave_gaps_not_crashes(report_steps: dict[str, Location], tmp_path: Path) -> None:
    empty, out = Location(str(tmp_path / "empty")), Location(str(tmp_path))
    for places in ({}, {"generated": empty, "reference": empty, "meshes": empty}):
        summary = report.run(ReportConfig(), scores=report_steps["score"], out=out, job=Job(), **places)
        page = Page((out / "report.html").read_text())
        assert summary.completed == 0 and "No object has generated views" in page.text and "No gate was part" in page.text
    with pytest.raises(UserError, match="no scores"):
        report.run(ReportConfig(), scores=empty, out=out, job=Job())


def test_shown_objects_reach_from_best_to_worst(report_steps: dict[str, Location]) -> None:
    figures = {f"o{number}": {"psnr_foreground": float(number), "chamfer": float(number)} for number in range(11)}
    figures |= {"odd": {"psnr_foreground": None, "chamfer": None}}
    wide = ReportInputs(**{**vars(inputs_of(report_steps)), "figures": figures, "generated": figures})
    assert chosen_objects(wide, ReportConfig(max_objects_shown=3)) == ["o10", "o4", "odd"]
    assert chosen_objects(wide, ReportConfig(max_objects_shown=1)) == ["o10"]
    assert chosen_objects(wide, ReportConfig(max_objects_shown=1, shown_by="chamfer")) == ["o0"]
    assert len(chosen_objects(wide, ReportConfig(max_objects_shown=50))) == 12


def test_the_gate_tells_the_paired_difference(report_steps: dict[str, Location]) -> None:
    inputs = inputs_of(report_steps)
    paired = {
        "objects": 12,
        "mean_difference": -0.0031,
        "ci95": [-0.0052, -0.001],
        "p_value": 0.0213,
        "higher": 3,
        "lower": 9,
        "left_out": {"x": "why"},
    }
    inputs.decision = {
        "decision": "promoted", "reason": "it is better", "metric": "chamfer", "minimum": 0.05, "alias": "champion", "paired": paired,
        "champion_before": "models:/mv/2", "champion_after": "models:/mv/3", "champion_scored_again": True,
    }  # fmt: skip
    text = Page(decision(inputs)).text
    for fact in (
        "Chamfer -0.0031, 95 % interval -0.0052 to -0.0010, p = 0.0213; higher on 3, lower on 9 of 12 objects, 1 left out",
        "floor 0.05", "models:/mv/2", "scored again", "Promoted: it is better.",
    ):  # fmt: skip
        assert fact in text, text


def test_the_paper_is_compared_only_under_its_own_protocol(report_steps: dict[str, Location]) -> None:
    inputs = inputs_of(report_steps)
    columns = {"Chamfer": "chamfer_visible", "PSNR": "psnr", "SSIM": "ssim_auto_range"}

    def under(name: str, kept: bool | None) -> tuple[dict[str, float], bool]:
        inputs.summary["protocol"] = {"name": name, "published_columns": columns}
        inputs.summary["coverage"] = {"keeps_protocol": kept, "departures": [] if kept else ["29 of 30 objects are missing"]}
        return paper_column(inputs)

    assert under("syncdreamer-gso30", True) == ({"chamfer_visible": 0.0165, "psnr": 21.45, "ssim_auto_range": 0.844}, True)
    assert "not comparable" not in Page(headline(inputs, True)).text
    assert not under("syncdreamer-gso30(points=7)", True)[1] and not under("syncdreamer-gso30", False)[1]
    assert "29 of 30 objects are missing" in Page(headline(inputs, True)).text and "not comparable" in Page(headline(inputs, True)).text
    assert under("default", None) == ({"chamfer": 0.0165, "volume_iou": 0.6973, "psnr": 21.45, "ssim": 0.844, "lpips": 0.129}, False)
    assert "21.45" not in headline(inputs, False)


def test_metrics_that_nobody_announced_are_shown(report_steps: dict[str, Location]) -> None:
    assert (
        metric("chamfer_bbox_aligned").head == "Chamfer, bbox aligned\u00a0\u2193"
        and metric("f_score@0.02").head == "F-score @\u00a00.02\u00a0\u2191"
    )
    order = in_order(["zeta", "chamfer_visible", "f_score@0.05", "psnr", "chamfer", "f_score@0.01"])
    assert order == ["psnr", "chamfer_visible", "chamfer", "f_score@0.05", "f_score@0.01", "zeta"]
    inputs = inputs_of(report_steps)
    inputs.summary["metrics"]["zeta"] = {"mean": 0.25, "ci95": None, "objects": 3}
    inputs.summary["sets"] = {
        "fid": {"value": None, "pictures": 0, "note": "no weights here"},
        "kid": {"value": 0.5, "pictures": 64, "note": ""},
    }
    text = Page(headline(inputs, True)).text
    assert "zeta" in text and "0.250" in text and "no weights here" in text and "64 pictures" in text


def test_a_grid_is_laid_out_by_camera_and_anything_else_in_order(report_truth: list[ViewSet]) -> None:
    targets = report_truth[0].with_role(TARGET)
    shuffled = targets.select(np.random.default_rng(3).permutation(32))
    layout = layout_of(shuffled)
    assert (layout.columns, layout.azimuths[1], layout.elevations) == (8, "45\u00b0", ["+60\u00b0", "+30\u00b0", "0\u00b0", "-30\u00b0"])
    where = [(shuffled.elevation_deg[i], shuffled.azimuth_deg[i]) for i in layout.cells if i is not None]
    np.testing.assert_allclose(where, [(e, 45 * a) for e in (60, 30, 0, -30) for a in range(8)], atol=1e-6)
    ragged = layout_of(targets.select(range(11)))
    assert (ragged.columns, ragged.cells, ragged.azimuths) == (8, [*range(11), *[None] * 5], [])
    page = Page(contact_sheet(targets.select(range(11)), None, {}, None))
    (picture,) = page.pictures("generated")
    assert picture.size == (8 * REPORT_PX, 2 * REPORT_PX)


def test_a_mask_overlay_names_every_pixel() -> None:
    rng = np.random.default_rng(0)
    truth, made = (rng.integers(0, 256, (9, 9, 4), dtype=np.uint8) for _ in range(2))
    overlay = mask_overlay(truth, made, 9)
    for y in range(9):
        for x in range(9):
            there, here = truth[y, x, 3] > 127, made[y, x, 3] > 127
            expected = AGREED if there and here else LOST if there else INVENTED if here else (255, 255, 255)
            assert tuple(overlay[y, x]) == expected
    tiles = [np.full((2, 2, 3), value, np.uint8) for value in (10, 20)]
    np.testing.assert_array_equal(
        sheet([tiles[0], None, tiles[1]], 2, 2)[:, :, 0], np.repeat(np.repeat([[10, 224], [20, 224]], 2, 0), 2, 1)
    )


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
