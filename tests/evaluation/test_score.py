"""The score step on perfect, wrong, missing and broken objects; overlap with the training set; its files."""

import csv
import io
import json
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
import trimesh

from evaluation import reconstruct, score
from evaluation.metrics.distribution import kernel_distance
from evaluation.metrics.learned import LearnedMetrics, LocalWeights
from evaluation.pieces import Pieces
from evaluation.protocols import Protocol
from evaluation.reconstruct import ReconstructConfig
from evaluation.score import ScoreConfig
from evaluation.score_object import ScoreInputs, finished_scores, score_object
from evaluation.statistics import aggregate, mean_known
from infra.errors import UserError
from infra.job import Job, Resources
from infra.storage import Location
from pipelines.fingerprint import canonical
from rendering.cameras import orbit
from rendering.view_set import on_white
from rendering.views import to_table, write_shards
from tests.evaluation.shapes import colored_box, generated, rendered
from tests.evaluation.test_learned_metrics import Scripted, scripted

CONFIG = ScoreConfig(points=2000, volume_resolution=24, truth_hull_resolution=24, consistency_resolution=24)
FAST = ScoreConfig(points=500, volume_resolution=16, truth_hull_resolution=0, consistency_resolution=0)
NO_WEIGHTS = json.dumps(LearnedMetrics().described(), sort_keys=True)


class Recorder:
    """A tracking run that keeps what it is told."""

    run_id = tracking_uri = None

    def __init__(self) -> None:
        self.kept: dict = {}

    def params(self, values):
        self.kept |= values

    def metrics(self, values, step=0):
        self.kept |= values

    def tags(self, values):
        self.kept |= values

    def artifact(self, name, data):
        self.kept[name] = data


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> dict[str, Location]:
    """`perfect`: the truth itself; `grey`: right shape, wrong colour; `blank`: nothing generated; `lost`: generation failed;
    `small`: another size; `moved`: a camera that the truth does not know."""
    base = Location(str(tmp_path_factory.mktemp("score")))
    truth = rendered("perfect", colored_box(), size_px=32)
    made = generated(truth)
    grey, small = made.rgba.copy(), np.ascontiguousarray(made.rgba[:, ::2, ::2])
    grey[..., :3] = 128
    moved_camera = orbit(made.azimuth_deg + 3.0, made.elevation_deg, 1.5, 60.0)
    results = [
        made,
        replace(made, uid="grey", rgba=grey),
        replace(made, uid="blank", rgba=np.zeros_like(made.rgba)),
        replace(made, uid="small", rgba=small),
        replace(made, uid="moved", camera=moved_camera),
    ]
    uids = [one.uid for one in results] + ["lost"]
    places = {name: base / name for name in ("reference", "generated", "meshes", "model")}
    write_shards((to_table(replace(truth, uid=uid)) for uid in uids), places["reference"])
    rows = [{"uid": uid, "category": "box", "status": "ok"} for uid in uids]
    (places["reference"] / "ledger.parquet").write_table(pa.Table.from_pylist(rows))
    write_shards(map(to_table, results), places["generated"])
    rows = [{"uid": one.uid, "status": "ok", "reason": ""} for one in results]
    rows.append({"uid": "lost", "status": "failed", "reason": "out_of_memory"})
    (places["generated"] / "ledger.parquet").write_table(pa.Table.from_pylist(rows))
    (places["generated"] / "model.json").write_json({"uri": "models:/toy/1"})
    (places["model"] / "version.json").write_json({"uri": "models:/toy/1", "uids": ["x", "y"]})
    reconstruct.run(ReconstructConfig(resolution=24), views=places["generated"], out=places["meshes"], job=Job())
    return places


@pytest.fixture(scope="module")
def scored(world, tmp_path_factory) -> tuple[Location, object, Recorder]:
    out, recorder = Location(str(tmp_path_factory.mktemp("scored"))), Recorder()
    summary = score.run(CONFIG, **world, out=out, job=Job(run=recorder))
    return out, summary, recorder


def figures(out: Location) -> dict[tuple[str, str], dict]:
    rows = (out / "scores.parquet").read_table().to_pylist()
    return {(row["uid"], row["metric"]): row for row in rows if row["view"] is None}


def test_counts(scored):
    out, summary, _ = scored
    assert (summary.completed, summary.failed) == (3, 3)
    assert summary.facts["without_mesh"] == 2  # blank: empty hull; lost: never generated
    counts = (out / "summary.json").read_json()["counts"]
    assert counts == {"objects": 6, "completed": 3, "failed": 3, "identical_views": 32, "without_mesh": 2}


def test_perfect_views_score_perfectly_in_the_turned_frame(scored):
    """The condition view stood at azimuth 90: only a truth turned the right way matches."""
    of = figures(scored[0])
    assert of["perfect", "psnr"]["value"] == 100.0 and of["perfect", "ssim"]["value"] == pytest.approx(1.0)
    assert of["perfect", "mask_iou"]["value"] == 1.0
    assert of["perfect", "volume_iou"]["value"] > 0.7 and of["perfect", "chamfer"]["value"] < 0.03
    assert of["perfect", "silhouette_iou"]["value"] > 0.9
    assert of["perfect", "silhouette_iou_min"]["value"] <= of["perfect", "silhouette_iou"]["value"]


def test_wrong_colour_hurts_pictures_but_not_the_mesh(scored):
    of = figures(scored[0])
    assert of["grey", "psnr_foreground"]["value"] < of["grey", "psnr"]["value"] < 15
    assert of["grey", "mask_iou"]["value"] == 1.0
    assert of["grey", "chamfer"]["value"] == pytest.approx(of["perfect", "chamfer"]["value"], abs=1e-9)


def test_nothing_generated_scores_what_the_blank_baseline_scores(scored):
    of = figures(scored[0])
    assert of["blank", "psnr"]["value"] == pytest.approx(of["perfect", "psnr_blank"]["value"])
    assert of["blank", "mask_iou"]["value"] == 0.0
    assert of["blank", "chamfer"]["value"] is None and "empty_hull" in of["blank", "chamfer"]["reason"]


def test_the_hull_of_true_views_bounds_a_perfect_generation(scored):
    of = figures(scored[0])
    assert of["perfect", "chamfer_truth_hull"]["value"] < 0.04
    baselines = [of["perfect", name]["value"] for name in score.baseline_names(CONFIG) if name.startswith("psnr")]
    assert len(baselines) == 4 and max(baselines) < 20


def test_every_object_has_every_row_with_a_figure_or_a_reason(scored):
    of = figures(scored[0])
    names = {*score.metric_names(CONFIG), *score.baseline_names(CONFIG)}
    assert set(of) == {(uid, name) for uid in ("perfect", "grey", "blank", "small", "moved", "lost") for name in names}
    assert all((row["value"] is None) == bool(row["reason"]) for row in of.values())
    assert of["lost", "psnr"]["reason"] == of["lost", "chamfer"]["reason"] == "not generated: out_of_memory"
    assert "sizes differ" in of["small", "psnr"]["reason"]
    assert "no true view from the same camera" in of["moved", "psnr"]["reason"]


def test_rows_of_views(scored):
    rows = [r for r in (scored[0] / "scores.parquet").read_table().to_pylist() if r["uid"] == "grey" and r["metric"] == "ssim"]
    views = [row for row in rows if row["view"] is not None]
    assert sorted(row["view"] for row in views) == list(range(32))
    (of_object,) = (row for row in rows if row["view"] is None)
    assert of_object["value"] == pytest.approx(np.mean([row["value"] for row in views]))


def test_summary_holds_protocol_means_and_failures(scored):
    out, _, recorder = scored
    text = (out / "summary.json").read_text()
    summary = json.loads(text)
    assert (
        summary["protocol"]["name"] == "default(points=2000, volume_resolution=24, consistency_resolution=24)"
        and summary["protocol"]["condition_views"] == 1
    )
    stats, of = summary["metrics"]["psnr"], figures(out)
    known = [of[uid, "psnr"]["value"] for uid in ("perfect", "grey", "blank")]
    assert (stats["objects"], stats["missing"]) == (3, 3)
    assert stats["mean"] == pytest.approx(np.mean(known)) and stats["median"] == pytest.approx(np.median(known))
    assert stats["ci95"][0] < stats["mean"] < stats["ci95"][1]
    assert summary["overlap"] == {"checked": True, "trained_objects": 2, "reason": ""} and summary["model"] == "models:/toy/1"
    assert {row["uid"] for row in summary["missing"]} == {"blank", "small", "moved", "lost"}
    assert set(summary["baselines"]) == set(score.baseline_names(CONFIG))
    # What no object can have without weights or depth is no failure of an object, and is said once.
    assert summary["unavailable"]["lpips"] == {"reason": "no weights were given", "objects": 3}
    assert "depth" in summary["unavailable"]["overlap_psnr_ratio"]["reason"]
    assert not any("lpips" in row["metrics"] for row in summary["missing"] if row["uid"] == "blank")
    assert summary["sets"]["fid"] == {"value": None, "pictures": 0, "note": "no weights were given"}
    assert summary["coverage"]["keeps_protocol"] is None and summary["coverage"]["scored_views_per_object"] == [32]
    assert "input views are excluded" in summary["protocol"]["views"] and summary["protocol"]["learned"]["lpips"]["unavailable"]
    assert recorder.kept["score/psnr"] == pytest.approx(np.mean(known))
    assert recorder.kept["score/f_score_at_0.01"] == summary["metrics"]["f_score@0.01"]["mean"]


def test_objects_csv(scored):
    rows = {row["uid"]: row for row in csv.DictReader(io.StringIO((scored[0] / "objects.csv").read_text()))}
    assert list(rows) == sorted(rows) and len(rows) == 6
    assert float(rows["grey"]["psnr"]) == figures(scored[0])["grey", "psnr"]["value"] and rows["grey"]["category"] == "box"
    assert rows["blank"]["chamfer"] == "" and "empty_hull" in rows["blank"]["reasons"]


def test_objects_json(scored):
    objects = {row["uid"]: row for row in (scored[0] / "objects.json").read_json()}
    of = figures(scored[0])
    assert list(objects) == sorted(objects) and len(objects) == 6
    for uid, row in objects.items():
        assert set(row["metrics"]) == set(score.metric_names(CONFIG)) and set(row["baselines"]) == set(score.baseline_names(CONFIG))
        assert all(of[uid, name]["value"] == value for name, value in (row["metrics"] | row["baselines"]).items())
        assert set(row["reasons"]) == {name for name, value in (row["metrics"] | row["baselines"]).items() if value is None}
    grey = objects["grey"]
    assert [view["view"] for view in grey["views"]] == list(range(32)) and len(objects["lost"]["views"]) == 0
    worst = grey["worst_view"]["silhouette_iou"]
    assert grey["views"][worst]["silhouette_iou"] == grey["metrics"]["silhouette_iou_min"]
    assert (grey["seen"]["rig"], grey["seen"]["conditions"], grey["seen"]["scored_views"]) == ("mvdiffusionpp", 1, 32)


def test_consistency_of_the_views_alone_and_its_ceiling(scored):
    """Grey pictures of the right shape agree with each other on shape and colour; the true ones' colours agree with the ceiling's."""
    of = figures(scored[0])
    assert of["grey", "hull_silhouette_iou"]["value"] == of["perfect", "hull_silhouette_iou"]["value"] > 0.9
    assert of["grey", "hull_warp_psnr"]["value"] > of["perfect", "hull_warp_psnr"]["value"]
    assert of["perfect", "hull_warp_psnr"]["value"] == pytest.approx(of["perfect", "hull_warp_psnr_truth_hull"]["value"], abs=3.0)
    assert "empty_hull" in of["blank", "hull_warp_psnr"]["reason"]


def test_figures_of_the_whole_set_come_from_all_scored_pictures(world, tmp_path):
    """A network whose features are the mean colours: KID by the formula on the pictures themselves, also from finished pieces."""
    weights = scripted(Scripted(), tmp_path / "features.pt")
    config = replace(FAST, features=str(weights))
    cache = Location(str(tmp_path / "cache"))
    summaries = []
    for name in ("first", "again"):
        score.run(config, **world, out=Location(str(tmp_path / name)), job=Job(cache=cache))
        summaries.append(json.loads((tmp_path / name / "summary.json").read_text()))
    assert summaries[0] == summaries[1] and summaries[0]["sets"]["kid"]["pictures"] == 3 * 32
    assert summaries[0]["protocol"]["learned"]["kid"]["weights_sha256"]
    network = LearnedMetrics.load(LocalWeights(features=str(weights)))
    made = {one.uid: one for one in _views(world["generated"])}
    generated = np.concatenate([network.features(on_white(made[uid].rgba)) for uid in ("blank", "grey", "perfect")])
    reference = np.concatenate([network.features(on_white(made["perfect"].rgba))] * 3)  # the perfect views are the truth
    assert summaries[0]["sets"]["kid"]["value"] == pytest.approx(kernel_distance(reference, generated), rel=1e-6)
    assert summaries[0]["sets"]["inception_score"]["value"] >= 1.0
    # Other weights are another evaluation.
    without = Location(str(tmp_path / "without"))
    score.run(FAST, **world, out=without, job=Job(cache=cache))
    assert (without / "summary.json").read_json()["evaluation_set"] != summaries[0]["evaluation_set"]


def test_weights_that_cannot_be_used_are_refused_before_work(world, tmp_path):
    with pytest.raises(UserError, match="lpips: .*absent.safetensors"):
        score.run(replace(FAST, lpips=str(tmp_path / "absent.safetensors")), **world, out=Location(str(tmp_path / "out")), job=Job())
    assert not (tmp_path / "out").exists()
    with pytest.raises(UserError, match="score.*absent|absent.*does not exist|lpips: .*absent"):
        canonical(replace(FAST, lpips=str(tmp_path / "absent.safetensors")))
    for content in (b"one", b"two"):
        (tmp_path / "vgg.safetensors").write_bytes(content)
        assert "sha256:" in canonical(replace(FAST, lpips=str(tmp_path / "vgg.safetensors")))["lpips"]


def test_another_protocol_on_the_same_views(world, tmp_path):
    """The sparse-view table's measures on other objects from another rig: figures, and a plain word that it is not that table."""
    two = Location(str(tmp_path / "generated"))
    write_shards((to_table(one) for one in _views(world["generated"]) if one.uid in ("perfect", "small")), two)
    config = replace(FAST, protocol="mvdiffusionpp-sparse")
    score.run(config, **(world | {"generated": two}), out=Location(str(tmp_path)), job=Job())
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["protocol"]["name"].startswith("mvdiffusionpp-sparse(points=500")
    assert summary["metrics"]["chamfer_visible"]["objects"] == 2 and summary["metrics"]["ssim_auto_range"]["objects"] == 2
    told = summary["coverage"]
    assert told["keeps_protocol"] is False and len(told["missing_objects"]) == 30 and told["rigs"] == {"mvdiffusionpp": 2}
    # Pictures are brought to one size, so that the object of half the size has figures, near the perfect ones.
    of = figures(Location(str(tmp_path)))
    assert 20 < of["small", "psnr"]["value"] < of["perfect", "psnr"]["value"] == 100.0


def test_an_interrupted_scoring_goes_on_and_nothing_is_doubled(scored, world, tmp_path):
    cache, out = Location(str(tmp_path / "cache")), Location(str(tmp_path / "out"))

    def times() -> dict[str, float]:
        return {entry.name: entry.mtime for entry in (cache / "pieces").children()}

    inputs = ScoreInputs(
        world["reference"], world["generated"], world["meshes"], {"blank": "x"}, CONFIG.resolved(), 24, weights_id=NO_WEIGHTS
    )
    finished_scores("perfect", inputs=inputs, pieces=Pieces(cache / "pieces"))  # as if killed after the first
    before = times()
    score.run(CONFIG, **world, out=out, job=Job(cache=cache))
    assert len(before) == 1 and len(times()) == 5 and before.items() <= times().items()
    assert (out / "scores.parquet").read_table().equals((scored[0] / "scores.parquet").read_table())
    between = times()
    score.run(CONFIG, **world, out=out, job=Job(cache=cache, retry_failed=True))
    assert sum(times()[name] != between[name] for name in between) == 3  # blank, small, moved
    assert (out / "summary.json").read_text() == (scored[0] / "summary.json").read_text()


@pytest.mark.ray
def test_on_ray_gives_the_same_files(scored, world, tmp_path, ray_cluster):
    out = Location(str(tmp_path))
    score.run(CONFIG, **world, out=out, job=Job(Resources(workers=2)))
    for name in ("summary.json", "objects.csv", "objects.json"):
        assert (out / name).read_text() == (scored[0] / name).read_text()
    assert (out / "scores.parquet").read_table().equals((scored[0] / "scores.parquet").read_table())


def test_a_model_trained_on_scored_objects_is_refused(world, tmp_path):
    model = Location(str(tmp_path / "model"))
    (model / "version.json").write_json({"uri": "models:/toy/1", "uids": ["other", "grey", "lost"]})
    with pytest.raises(UserError, match="2 of the objects to be scored: grey, lost"):
        score.run(CONFIG, **(world | {"model": model}), out=Location(str(tmp_path / "out")), job=Job())
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("version", "reason"),
    [
        (None, "no registered model"),
        ({"uri": "models:/toy/2", "uids": ["grey"]}, "made by models:/toy/1"),
        ({"uri": "models:/toy/1"}, "does not tell"),
    ],
)
def test_an_unchecked_overlap_is_said(world, version, reason, tmp_path):
    model = Location(str(tmp_path))
    if version is not None:
        (model / "version.json").write_json(version)
    answer = score.check_overlap(["grey"], world["generated"], model)
    assert answer["checked"] is False and reason in answer["reason"]


def test_the_evaluation_set_tells_comparable_from_incomparable(world, scored, tmp_path):
    def fingerprint(config: ScoreConfig, **changes: Location) -> str:
        out = Location(str(tmp_path / "out"))
        score.run(config, **(world | changes), out=out, job=Job())
        return (out / "summary.json").read_json()["evaluation_set"]

    first = (scored[0] / "summary.json").read_json()["evaluation_set"]
    fast = FAST
    assert fingerprint(fast) != first
    # Another model's results, worse by one lost object, on the same truth under the same protocol: comparable.
    worse = Location(str(tmp_path / "worse"))
    write_shards((to_table(one) for one in _views(world["generated"]) if one.uid != "perfect"), worse)
    failed = [{"uid": uid, "status": "failed", "reason": "error"} for uid in ("perfect", "lost")]
    (worse / "ledger.parquet").write_table(pa.Table.from_pylist(failed))
    assert fingerprint(fast, generated=worse) == fingerprint(fast)
    fewer = Location(str(tmp_path / "fewer"))
    write_shards((to_table(one) for one in _views(world["generated"]) if one.uid == "grey"), fewer)
    assert fingerprint(fast, generated=fewer) != fingerprint(fast)


def _views(place: Location):
    from rendering.views import ViewStore

    return list(ViewStore(place))


def test_a_broken_mesh_file_is_a_reason(world, tmp_path):
    meshes = Location(str(tmp_path / "meshes"))
    (meshes / "grey.glb").write_bytes(b"glTF, but broken")
    one = score_object(
        "grey",
        inputs=ScoreInputs(
            world["reference"], world["generated"], meshes, {}, Protocol(points=500, volume_resolution=16, consistency_resolution=0), 0
        ),
    )
    of = {row["metric"]: row for row in one.rows if row["view"] is None}
    assert of["psnr"]["value"] is not None and of["chamfer"]["value"] is None
    assert "grey.glb" in of["chamfer"]["reason"]


def test_a_mirrored_mesh_or_a_wrong_turn_would_show(world, tmp_path):
    """The figures of the perfect object depend on the frame: a mesh turned by 90 degrees scores worse."""
    from evaluation.mesh_io import glb_bytes, load_mesh, world_from_gltf
    from rendering.view_set import Mesh

    mesh = world_from_gltf(load_mesh((world["meshes"] / "perfect.glb").local_path()))
    quarter = trimesh.transformations.rotation_matrix(np.pi / 2, (0, 0, 1))[:3, :3]
    meshes = Location(str(tmp_path))
    (meshes / "perfect.glb").write_bytes(glb_bytes(Mesh(mesh.vertices @ quarter.T, mesh.faces)))
    ious = []
    for place in (world["meshes"], meshes):
        one = score_object(
            "perfect",
            inputs=ScoreInputs(
                world["reference"], world["generated"], place, {}, Protocol(points=2000, volume_resolution=32, consistency_resolution=0), 0
            ),
        )
        ious += [row["value"] for row in one.rows if row["metric"] == "volume_iou"]
    assert ious[0] > ious[1] + 0.05


def test_aggregate_closed_forms():
    stats = aggregate([1.0, 2.0, 3.0, None])
    assert (stats["mean"], stats["median"], stats["std"], stats["objects"], stats["missing"]) == (2.0, 2.0, 1.0, 3, 1)
    assert aggregate([None, None]) == {"objects": 0, "missing": 2, "mean": None, "median": None, "std": None, "ci95": None}
    assert aggregate([5.0])["ci95"] is None and aggregate([4.0, 4.0])["ci95"] == [4.0, 4.0]
    assert mean_known([None, 1.0, 3.0]) == 2.0 and mean_known([None]) is None


def test_bootstrap_interval_agrees_with_the_normal_one():
    values = np.random.default_rng(0).normal(10.0, 2.0, 400)
    low, high = aggregate(list(values))["ci95"]
    half = 1.96 * values.std(ddof=1) / 20
    assert low == pytest.approx(values.mean() - half, abs=0.03) and high == pytest.approx(values.mean() + half, abs=0.03)
    assert aggregate(list(values)) == aggregate(list(values))
