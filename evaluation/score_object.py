"""The figures of one object: generated views and mesh against the truth, in the frame of the generated views."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from evaluation.hull import HullFailure, HullSettings, visual_hull
from evaluation.mesh_io import check_mesh, load_mesh, world_from_gltf
from evaluation.metrics.consistency import silhouette_iou
from evaluation.metrics.geometry import compare_surfaces
from evaluation.metrics.image import IMAGE_METRICS, SSIM_MIN_SIZE_PX, compare_images
from evaluation.pieces import Pieces, key_of
from evaluation.protocol import Protocol
from evaluation.statistics import mean_known
from infra.errors import UserError
from infra.storage import Location
from rendering.cameras import Camera
from rendering.view_set import TARGET, Mesh, ViewSet
from rendering.views import ViewStore

CONSISTENCY_METRICS = ("silhouette_iou", "silhouette_iou_min")
BASELINE_METRICS = ("psnr_blank", "psnr_foreground_blank", "psnr_input_copied", "psnr_foreground_input_copied")
TRUTH_HULL_METRICS = ("chamfer_truth_hull", "volume_iou_truth_hull")
CAMERA_TOLERANCE = 1e-3
# Raised when the same inputs would give other figures than before.
ALGORITHM_VERSION = 1


@dataclass
class ObjectScores:
    """Rows of one object: figures (a None has its reason beside it), and how many views the model was given."""

    uid: str
    conditions: int = 0
    rows: list[dict[str, Any]] = field(default_factory=list)

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
    """

    reference: Location
    generated: Location
    meshes: Location | None
    failures: dict[str, str]
    protocol: Protocol
    truth_hull_resolution: int


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
        failed = any(one["value"] is None for one in scores.rows)
        row = {"status": "failed" if failed else "ok", "conditions": scores.conditions, "rows": scores.rows}
        pieces.write(key, row)
    return ObjectScores(uid, row["conditions"], row["rows"])


def score_object(uid: str, *, inputs: ScoreInputs) -> ObjectScores:
    """All figures of one object.

    Raises KeyError when either store lacks the object and ValueError when the generated views do not say how they are turned.
    """
    views = ViewStore(inputs.generated).read(uid)
    if "reference_azimuth_deg" not in views.facts:
        raise ValueError("the generated views do not tell their reference azimuth")
    conditions = [int(i) for i in views.facts.get("conditions", [])]
    scores = ObjectScores(uid, len(conditions))
    rendered = ViewStore(inputs.reference).read(uid).turned(-float(views.facts["reference_azimuth_deg"]))
    pictures, truth = views.with_role(TARGET), rendered.with_role(TARGET)
    pairs = matching_views(truth, pictures)
    _score_pictures(scores, truth, pictures, pairs)
    _score_baselines(scores, truth, [j for j in pairs if j is not None], rendered.rgba[conditions[0]] if conditions else None)
    mesh, reason = _generated_mesh(uid, inputs.meshes, inputs.failures)
    _score_mesh(scores, rendered.mesh, mesh, reason, inputs.protocol)
    _score_consistency(scores, pictures, mesh, reason)
    if inputs.truth_hull_resolution:
        _score_truth_hull(scores, rendered.mesh, truth, HullSettings(inputs.truth_hull_resolution), inputs.protocol)
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


def matching_views(truth: ViewSet, generated: ViewSet) -> list[int | None]:
    """For each generated view the index of the true view from the same camera, or None.

    Same camera: all entries of pose and intrinsics within `CAMERA_TOLERANCE`.
    """

    def vectors(camera: Camera) -> np.ndarray:
        return np.concatenate([camera.c2w.reshape(len(camera), 16), camera.intrinsics], axis=1)

    if len(truth) == 0:
        return [None] * len(generated)
    difference = np.abs(vectors(generated.camera)[:, None] - vectors(truth.camera)[None]).max(-1)
    nearest = difference.argmin(1)
    return [int(j) if difference[i, j] < CAMERA_TOLERANCE else None for i, j in enumerate(nearest)]


def _score_pictures(scores: ObjectScores, truth: ViewSet, generated: ViewSet, pairs: list[int | None]) -> None:
    problem = _picture_problem(truth, generated, pairs)
    if problem:
        scores.add_missing(IMAGE_METRICS, problem)
        return
    of_views = []
    for i, j in enumerate(pairs):
        figures = compare_images(truth.rgba[j], generated.rgba[i])
        of_views.append(figures)
        for metric, value in figures.items():
            scores.add(metric, value, view=i, reason="" if value is not None else "the reference's mask is empty")
    for metric in IMAGE_METRICS:
        mean = mean_known(figures[metric] for figures in of_views)
        scores.add(metric, mean, reason="" if mean is not None else "no view has a foreground")


def _picture_problem(truth: ViewSet, generated: ViewSet, pairs: list[int | None]) -> str:
    """Why the views cannot be compared; empty when they can."""
    if len(generated) == 0:
        return "there is no generated target view"
    if None in pairs:
        return f"view {pairs.index(None)} of the generated ones has no true view from the same camera"
    if truth.rgba.shape[1:] != generated.rgba.shape[1:]:
        (h, w), (gh, gw) = truth.rgba.shape[1:3], generated.rgba.shape[1:3]
        return f"sizes differ: reference {w} x {h}, generated {gw} x {gh} px"
    return f"views are under {SSIM_MIN_SIZE_PX} px" if min(truth.rgba.shape[1:3]) < SSIM_MIN_SIZE_PX else ""


def _score_baselines(scores: ObjectScores, truth: ViewSet, matched: list[int], given: np.ndarray | None) -> None:
    """What no model scores: an empty picture in every place, and the given view copied to every place."""
    for name, picture in (("blank", np.zeros_like(truth.rgba[0])), ("input_copied", given)):
        figures = []
        if picture is not None and min(picture.shape[:2]) >= SSIM_MIN_SIZE_PX:
            figures = [compare_images(truth.rgba[j], picture) for j in matched]
        for metric in ("psnr", "psnr_foreground"):
            mean = mean_known(of_view[metric] for of_view in figures)
            scores.add(f"{metric}_{name}", mean, reason="" if mean is not None else "no picture to compare")


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


def _score_mesh(scores: ObjectScores, truth: Mesh | None, mesh: Mesh | None, reason: str, protocol: Protocol) -> None:
    names = protocol.geometry.metric_names()
    if mesh is None or truth is None:
        scores.add_missing(names, reason or "the reference holds no mesh")
        return
    try:
        figures = compare_surfaces(check_mesh(truth, "the reference mesh"), mesh, protocol.geometry)
    except UserError as error:
        scores.add_missing(names, error.message)
        return
    for metric in names:
        scores.add(metric, figures[metric], reason="" if figures[metric] is not None else "neither mesh encloses a volume")


def _score_consistency(scores: ObjectScores, views: ViewSet, mesh: Mesh | None, reason: str) -> None:
    if mesh is None or len(views) == 0:
        scores.add_missing(CONSISTENCY_METRICS, reason or "there is no generated target view")
        return
    of_views = silhouette_iou(mesh, views.rgba, views.camera)
    for i, value in enumerate(of_views):
        scores.add("silhouette_iou", value, view=i)
    scores.add("silhouette_iou", of_views.mean())
    scores.add("silhouette_iou_min", of_views.min())


def _score_truth_hull(scores: ObjectScores, truth: Mesh | None, views: ViewSet, settings: HullSettings, protocol: Protocol) -> None:
    """What the reconstruct step would score with perfect views: the ceiling of the mesh figures."""
    try:
        if truth is None:
            raise HullFailure("no_mesh", "the reference holds no mesh")
        hull, _ = visual_hull(views.rgba, views.camera, settings)
        figures = compare_surfaces(check_mesh(truth, "the reference mesh"), hull, protocol.geometry)
    except (HullFailure, UserError) as error:
        scores.add_missing(TRUTH_HULL_METRICS, str(error))
        return
    for metric in TRUTH_HULL_METRICS:
        scores.add(metric, figures[metric.removesuffix("_truth_hull")])
