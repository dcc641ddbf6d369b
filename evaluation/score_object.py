"""The figures of one object: generated views and mesh against the truth, in the frame of the generated views."""

import hashlib
import io
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from evaluation.hull import HullFailure, HullSettings, visual_hull
from evaluation.mesh_io import check_mesh, load_mesh, world_from_gltf
from evaluation.metrics.alignment import aligned, aligned_name
from evaluation.metrics.consistency import silhouette_iou
from evaluation.metrics.geometry import Figures, compare_surfaces
from evaluation.metrics.hull_consistency import HULL_METRICS, hull_consistency
from evaluation.metrics.learned import PAIR_METRICS, LearnedMetrics, LocalWeights
from evaluation.metrics.visible_points import VISIBLE_METRICS, compare_visible
from evaluation.metrics.warp import OVERLAP_METRICS, hull_warp_psnr, overlap_figures
from evaluation.pieces import Pieces, key_of
from evaluation.protocols.base import MESH_CONSISTENCY, OPTIONAL_METRICS, VISIBLE, Protocol
from evaluation.protocols.coverage import Seen
from evaluation.score_pictures import BASELINE_METRICS, Comparison, baseline_figures, comparison_of, picture_figures
from evaluation.statistics import mean_known
from infra.errors import UserError
from infra.storage import Location
from rendering.cameras import Camera, orbit
from rendering.gso30 import FOV_DEG
from rendering.view_set import TARGET, Mesh, ViewSet
from rendering.views import ViewStore

__all__ = ["BASELINE_METRICS", "TRUTH_HULL_METRICS", "ObjectScores", "ScoreInputs", "finished_scores", "score_object", "truth_digest"]

TRUTH_HULL_METRICS = ("chamfer_truth_hull", "volume_iou_truth_hull", "hull_warp_psnr_truth_hull")
ALIGNED = ("accuracy", "completeness", "chamfer", "volume_iou")
NO_DEPTH = "the truth was rendered without depth"
# Raised when the same inputs would give other figures than before.
ALGORITHM_VERSION = 2


@dataclass
class ObjectScores:
    """Figures of one object.

    Attributes:
        uid: the object.
        rows: a None has its reason beside it.
        seen: its rig, number of input views and the like.
        worst: metric -> generated view with the lowest figure.
        features: of the scored pictures, `reference` and `generated` `[V, D]` and `probabilities` `[V, C]`, where there is a network.
    """

    uid: str
    rows: list[dict[str, Any]] = field(default_factory=list)
    seen: Seen = Seen()
    worst: dict[str, int] = field(default_factory=dict)
    features: dict[str, np.ndarray] = field(default_factory=dict)

    def add(self, metric: str, value: float | None, view: int | None = None, reason: str = "") -> None:
        number = None if value is None else float(value)
        self.rows.append({"uid": self.uid, "metric": metric, "view": view, "value": number, "reason": reason})

    def add_missing(self, metrics: Iterable[str], reason: str) -> None:
        for metric in metrics:
            self.add(metric, None, reason=reason)


@dataclass(frozen=True)
class ScoreInputs:
    """Where one object's truth and results are, and how they are measured.

    Attributes:
        reference, generated: view stores.
        meshes: folder of `<uid>.glb`, if there is one.
        failures: uid -> why the reconstruct step made no mesh.
        truth_hull_resolution: cells of the hull of the true views; 0 leaves it out.
        weights: local weights of learned metrics; `weights_id` stands for their content.
        align: `bbox` or `icp` measures the mesh so aligned as well; empty for not.
    """

    reference: Location
    generated: Location
    meshes: Location | None
    failures: dict[str, str]
    protocol: Protocol
    truth_hull_resolution: int
    weights: LocalWeights = LocalWeights()
    weights_id: str = ""
    align: str = ""


@lru_cache(maxsize=1)
def learned_metrics(weights: LocalWeights) -> LearnedMetrics:
    """Loaded once per process."""
    return LearnedMetrics.load(weights)


def finished_scores(uid: str, *, inputs: ScoreInputs, pieces: Pieces) -> ObjectScores:
    """The figures of one object, from its piece where there is one. Raises what `score_object` raises."""
    mesh = inputs.meshes / f"{uid}.glb" if inputs.meshes is not None else None
    views = ViewStore(inputs.generated).row(uid)
    key = key_of(
        [
            ALGORITHM_VERSION,
            uid,
            inputs.protocol.described(),
            inputs.truth_hull_resolution,
            inputs.weights_id,
            inputs.align,
            inputs.failures.get(uid),
            truth_digest(uid, ViewStore(inputs.reference)),
            views["c2w"],
            views["intrinsics"],
            views["roles"],
            views["facts"],
        ],
        [*views["images"], mesh.read_bytes() if mesh is not None and mesh.exists() else b""],
    )
    row = pieces.row(key)
    if row is None:
        scores = score_object(uid, inputs=inputs)
        failed = any(one["value"] is None and one["metric"] not in OPTIONAL_METRICS for one in scores.rows)
        row = {"status": "failed" if failed else "ok", "rows": scores.rows, "seen": asdict(scores.seen), "worst": scores.worst}
        pieces.write(key, row, _packed(scores.features) if scores.features else None)
        return scores
    file = pieces.file(key)
    return ObjectScores(uid, row["rows"], Seen(**row["seen"]), row["worst"], _unpacked(file.read_bytes()) if file.exists() else {})


def _packed(arrays: dict[str, np.ndarray]) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def _unpacked(data: bytes) -> dict[str, np.ndarray]:
    with np.load(io.BytesIO(data), allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def score_object(uid: str, *, inputs: ScoreInputs) -> ObjectScores:
    """All figures of one object.

    Raises KeyError when either store lacks the object and ValueError when the generated views do not say how they are turned.
    """
    views = ViewStore(inputs.generated).read(uid)
    if "reference_azimuth_deg" not in views.facts:
        raise ValueError("the generated views do not tell their reference azimuth")
    protocol = inputs.protocol
    conditions = [int(i) for i in views.facts.get("conditions", [])]
    rendered = ViewStore(inputs.reference).read(uid).turned(-float(views.facts["reference_azimuth_deg"]))
    pictures, truth = views.with_role(TARGET), rendered.with_role(TARGET)
    compared, problem = comparison_of(truth, pictures, rendered.select(conditions), protocol)
    scores = ObjectScores(uid, seen=Seen(rendered.rig, len(conditions)) if compared is None else compared.seen)
    _score_pictures(scores, compared, problem, inputs)
    _score_baselines(scores, compared, rendered.rgba[conditions[0]] if conditions else None)
    mesh, reason = _generated_mesh(uid, inputs.meshes, inputs.failures)
    _score_mesh(scores, rendered.mesh, mesh, reason, inputs)
    _score_mesh_consistency(scores, pictures, mesh, reason)
    _score_hull_consistency(scores, pictures, protocol.consistency_resolution)
    _score_overlap(scores, truth, pictures, compared, problem)
    if inputs.truth_hull_resolution:
        _score_truth_hull(scores, rendered.mesh, truth, HullSettings(inputs.truth_hull_resolution), protocol)
    return scores


def truth_digest(uid: str, store: ViewStore) -> str:
    """Hex SHA-256 of all that an object is measured against; empty when the store lacks it."""
    if uid not in store:
        return ""
    raw = store.row(uid, ["images", "mesh", "c2w", "intrinsics"])
    digest = hashlib.sha256(repr((raw["c2w"], raw["intrinsics"])).encode())
    for piece in [*raw["images"], raw["mesh"] or b""]:
        digest.update(hashlib.sha256(piece).digest())
    return digest.hexdigest()


def _score_pictures(scores: ObjectScores, compared: Comparison | None, problem: str, inputs: ScoreInputs) -> None:
    names = inputs.protocol.image_metrics()
    if compared is None:
        scores.add_missing(names, problem)
        return
    learned = learned_metrics(inputs.weights)
    of_views = []
    for view, truth, picture in zip(compared.views, compared.truth, compared.generated, strict=True):
        figures, reasons = picture_figures(truth, picture, inputs.protocol, learned)
        of_views.append(figures)
        for metric in names:
            if metric not in PAIR_METRICS or metric not in learned.reasons:  # no rows of views for what no view has
                scores.add(metric, figures[metric], view=view, reason=reasons.get(metric, ""))
    for metric in names:
        mean = mean_known(figures[metric] for figures in of_views)
        scores.add(metric, mean, reason="" if mean is not None else reasons.get(metric, "no view has a figure"))
    white_truth, white = compared.on_white()
    if (features := learned.features(white)) is not None:
        scores.features = {"generated": features, "reference": np.asarray(learned.features(white_truth))}
        if (probabilities := learned.probabilities(white)) is not None:
            scores.features["probabilities"] = probabilities


def _score_baselines(scores: ObjectScores, compared: Comparison | None, given: np.ndarray | None) -> None:
    """What no model scores: an empty picture in every place, and the given view copied to every place."""
    figures = {} if compared is None else baseline_figures(compared, given)
    for metric in BASELINE_METRICS:
        value = figures.get(metric)
        scores.add(metric, value, reason="" if value is not None else "no picture to compare")


def _generated_mesh(uid: str, meshes: Location | None, failures: dict[str, str]) -> tuple[Mesh | None, str]:
    """The reconstructed mesh in the frame of the generated views, or None and why there is none."""
    if meshes is None:
        return None, "no meshes were given"
    place = meshes / f"{uid}.glb"
    if not place.exists():
        return None, failures.get(uid) or "the reconstruct step left no mesh"
    try:
        with place.as_local() as path:
            return world_from_gltf(load_mesh(Path(path))), ""
    except UserError as error:
        return None, error.message


def ring_camera() -> Camera:
    """SyncDreamer's 16 evaluation cameras, whose depth maps the visible points come from."""
    return orbit(np.arange(16) * 22.5, np.full(16, 30.0), np.full(16, 1.5), np.full(16, FOV_DEG))


def mesh_figures(truth: Mesh, mesh: Mesh, protocol: Protocol, align: str = "") -> Figures:
    """All figures of a pair of meshes in one frame under a protocol; with `align` also of the mesh so aligned."""
    figures = compare_surfaces(truth, mesh, protocol.geometry)
    if VISIBLE in protocol.extras:
        figures |= compare_visible(truth, mesh, ring_camera())
    if align:
        moved = compare_surfaces(truth, aligned(truth, mesh, align)[0], protocol.geometry)
        figures |= {aligned_name(metric, align): moved[metric] for metric in ALIGNED}
    return figures


def aligned_metrics(align: str) -> tuple[str, ...]:
    """Names of what is measured after an alignment; none without one."""
    return tuple(aligned_name(metric, align) for metric in ALIGNED) if align else ()


def _score_mesh(scores: ObjectScores, truth: Mesh | None, mesh: Mesh | None, reason: str, inputs: ScoreInputs) -> None:
    names = (*inputs.protocol.mesh_metrics(), *aligned_metrics(inputs.align))
    if mesh is None or truth is None:
        scores.add_missing(names, reason or "the reference holds no mesh")
        return
    try:
        figures = mesh_figures(check_mesh(truth, "the reference mesh"), mesh, inputs.protocol, inputs.align)
    except UserError as error:
        scores.add_missing(names, error.message)
        return
    for metric in names:
        why = "no camera sees it" if metric in VISIBLE_METRICS else "neither mesh encloses a volume"
        scores.add(metric, figures[metric], reason="" if figures[metric] is not None else why)


def _score_mesh_consistency(scores: ObjectScores, views: ViewSet, mesh: Mesh | None, reason: str) -> None:
    if mesh is None or len(views) == 0:
        scores.add_missing(MESH_CONSISTENCY, reason or "there is no generated target view")
        return
    of_views = silhouette_iou(mesh, views.rgba, views.camera)
    for i, value in enumerate(of_views):
        scores.add("silhouette_iou", value, view=i)
    scores.add("silhouette_iou", of_views.mean())
    scores.add("silhouette_iou_min", of_views.min())
    scores.worst["silhouette_iou"] = int(of_views.argmin())


def _score_hull_consistency(scores: ObjectScores, views: ViewSet, resolution: int) -> None:
    if not resolution:
        return
    try:
        if len(views) < 2:
            raise HullFailure("few_views", f"{len(views)} views have no common hull")
        found = hull_consistency(views.rgba, views.camera, resolution=resolution)
    except HullFailure as error:
        scores.add_missing(HULL_METRICS, str(error))
        return
    for i, (iou, warp) in enumerate(zip(found.silhouette_iou, found.warp.of_views, strict=True)):
        scores.add("hull_silhouette_iou", iou, view=i)
        if np.isfinite(warp):
            scores.add("hull_warp_psnr", warp, view=i)
    for metric, value in found.figures().items():
        scores.add(metric, value, reason="" if value is not None else "no point of the hull is seen from two views")
    scores.worst["hull_silhouette_iou"] = found.worst_silhouette
    if found.warp.worst_view is not None:
        scores.worst["hull_warp_psnr"] = found.warp.worst_view


def _score_overlap(scores: ObjectScores, truth: ViewSet, views: ViewSet, compared: Comparison | None, problem: str) -> None:
    """Agreement of generated views on the true surface, where its depth was rendered."""
    if compared is None or truth.depth is None or compared.seen.fitted:
        reason = problem if compared is None else NO_DEPTH if truth.depth is None else "the pictures were fitted to another field of view"
        scores.add_missing(OVERLAP_METRICS, reason)
        return
    of_truth = truth.select(compared.of_truth)
    generated = views.rgba[list(compared.views)]
    if generated.shape != of_truth.rgba.shape or of_truth.depth is None:
        scores.add_missing(OVERLAP_METRICS, "truth and generated views have different sizes")
        return
    figures, _ = overlap_figures(of_truth.rgba, generated, of_truth.depth, of_truth.camera)
    for metric, value in figures.items():
        scores.add(metric, value, reason="" if value is not None else "no point of the truth is seen from two views")


def _score_truth_hull(scores: ObjectScores, truth: Mesh | None, views: ViewSet, settings: HullSettings, protocol: Protocol) -> None:
    """What the reconstruct step would score with perfect views: the ceiling of the mesh figures, and of the warped colours."""
    try:
        if truth is None:
            raise HullFailure("no_mesh", "the reference holds no mesh")
        hull, _ = visual_hull(views.rgba, views.camera, settings)
        figures = compare_surfaces(check_mesh(truth, "the reference mesh"), hull, protocol.geometry)
    except (HullFailure, UserError) as error:
        scores.add_missing(TRUTH_HULL_METRICS, str(error))
        return
    figures["hull_warp_psnr"] = hull_warp_psnr(hull, views.rgba, views.camera).psnr
    for metric in TRUTH_HULL_METRICS:
        value = figures[metric.removesuffix("_truth_hull")]
        scores.add(metric, value, reason="" if value is not None else "undefined for the hull of the true views")
