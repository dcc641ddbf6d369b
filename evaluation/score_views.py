"""The `score-views` tool: folders of pictures by anyone's method, paired by file name."""

import fnmatch
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from evaluation.best_of import best_of
from evaluation.metrics.image import PSNR_CAP_DB, SSIM_MIN_SIZE_PX
from evaluation.metrics.learned import LearnedMetrics, LocalWeights, set_figures
from evaluation.picture_folder import WHITE, PictureFolder, pictures_in
from evaluation.protocols import protocol_named
from evaluation.protocols.base import Protocol
from evaluation.protocols.coverage import drawn_views
from evaluation.protocols.framing import framing_scale, refit
from evaluation.score import usable_weights
from evaluation.score_pictures import picture_figures
from evaluation.statistics import aggregate, mean_known
from infra.errors import UserError
from rendering.view_set import on_white

SHOWN_NAMES = 5
MASKED_METRICS = ("psnr_foreground", "mask_iou")
NO_MASK = "a picture has no alpha, and no masks were given"
Pair = tuple[str, np.ndarray, np.ndarray, bool]


@dataclass(frozen=True)
class FolderOptions:
    """How folders are read and which of their pictures count.

    Attributes:
        protocol: name of the protocol.
        include, exclude: file name patterns (`00[1-9]`, `shoe/*`); with `include` only what matches one counts, never what
            matches an `exclude`: for the views that the model was given.
        background: `white` for pictures without alpha that have white behind the object; None refuses them.
        reference_masks, generated_masks: folders of masks under the pictures' names, instead of alpha.
        reference_fov_deg, generated_fov_deg: where both are given, generated pictures are cropped or padded to the reference's.
        object_name: name of the object whose views a protocol draws by name; None takes the pictures' folder as its name.
        weights: local weights of learned metrics.
    """

    protocol: str = "default"
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    background: str | None = None
    reference_masks: Path | None = None
    generated_masks: Path | None = None
    reference_fov_deg: float | None = None
    generated_fov_deg: float | None = None
    object_name: str | None = None
    weights: LocalWeights = LocalWeights()


def score_views(reference: Path, generated: Path | Sequence[Path], options: FolderOptions | None = None) -> dict[str, Any]:
    """Mean figures, those of every view, and every convention behind them.

    With several `generated` folders (seeds of one model) the figures are means over views and seeds, and `best_of` tells the best of
    n apart. A mean is None when no view has the figure. Pictures in folders below are objects of those names (`objects`).

    Raises:
        UserError: naming the files when the folders do not pair up, a picture is unreadable or has no alpha, sizes differ, or a
            side is under 11 px; for unknown protocols, weights that cannot be used and options that contradict each other.
    """
    options = options or FolderOptions()
    protocol, learned = protocol_named(options.protocol), _checked(options)
    folders = [generated] if isinstance(generated, Path) else list(generated)
    truth = PictureFolder(reference, options.reference_masks, options.background)
    seeds = []
    for folder in folders:
        source = PictureFolder(folder, options.generated_masks, options.background)
        seeds.append(_scored(_pairs(truth, source, protocol, options), protocol, learned))
    views = [view for seed in seeds for view in seed.views]
    metrics = protocol.image_metrics()
    means = {metric: mean_known(view[metric] for view in views) for metric in metrics}
    reasons = {metric: reason for seed in seeds for metric, reason in seed.reasons.items() if means[metric] is None}
    objects = _of_objects(seeds[0].views, metrics)
    left_out = sorted(set(pictures_in(reference)) - {view["name"] for view in seeds[0].views})
    result = means | {
        "completed": len(views),
        "failed": 0,
        "rejected": 0,
        "identical_views": sum(view["psnr"] == PSNR_CAP_DB for view in views),
        "views": seeds[0].views if len(seeds) == 1 else [seed.views for seed in seeds],
        "objects": objects,
        "over_objects": {metric: aggregate([one[metric] for one in objects.values()]) for metric in metrics} if len(objects) > 1 else {},
        "left_out": left_out,
        "reasons": reasons,
        "sets": _set_figures(seeds, learned),
        "protocol": protocol.described() | {"learned": learned.described()} | _told(options, left_out, protocol),
    }
    if len(seeds) > 1:
        of_objects = [_of_objects(seed.views, metrics) for seed in seeds]
        result["best_of"] = {
            metric: best_of([{name: figures[metric] for name, figures in objects.items()} for objects in of_objects], metric)
            for metric in metrics
            if means[metric] is not None
        }
    return result


def _checked(options: FolderOptions) -> LearnedMetrics:
    if options.background not in (None, WHITE):
        raise UserError(f"unknown background '{options.background}'", "only white needs no mask; give masks for any other")
    if (options.reference_fov_deg is None) != (options.generated_fov_deg is None):
        raise UserError("one field of view alone says nothing", "give --reference-fov and --generated-fov, or neither")
    for value in (options.reference_fov_deg, options.generated_fov_deg):
        if value is not None and not 1.0 <= value <= 170.0:
            raise UserError(f"a field of view of {value:g} degrees cannot be", "give degrees between 1 and 170")
    return usable_weights(options.weights)


def _told(options: FolderOptions, left_out: list[str], protocol: Protocol) -> dict[str, Any]:
    """What the call added to the protocol: which views were left out, what stood behind the object, and how pictures were fitted."""
    fitted = options.reference_fov_deg is not None and options.reference_fov_deg != options.generated_fov_deg
    scale = framing_scale(options.generated_fov_deg, options.reference_fov_deg) if fitted else 1.0  # type: ignore[arg-type]
    count = (
        f"{len(left_out)} pictures of the reference folder are left out"
        if left_out
        else "every picture counts, inputs too if there are any"
    )
    return {
        "input_views": f"the protocol has them {protocol.input_views}; which pictures were inputs the folders do not tell: {count}",
        "include": list(options.include),
        "exclude": list(options.exclude),
        "masks": "given folders" if options.reference_masks or options.generated_masks else "alpha",
        "without_alpha": "taken as on white" if options.background else "refused",
        "fov_fit": f"generated {options.generated_fov_deg:g} deg brought to {options.reference_fov_deg:g} deg: {scale:.4f} of the side"
        if fitted
        else "none",
    }


def _pairs(truth: PictureFolder, source: PictureFolder, protocol: Protocol, options: FolderOptions) -> list[Pair]:
    """Name, both pictures at one size, and whether both have masks."""
    reference, generated = (_chosen(pictures_in(one.folder), options) for one in (truth, source))
    if protocol.draws is not None:
        reference = _drawn(reference, protocol, options)
        generated = {name: path for name, path in generated.items() if name in reference}
    for here, there, missing_from in ((reference, generated, "generated"), (generated, reference, "reference")):
        alone = sorted(set(here) - set(there))
        if alone:
            shown = ", ".join(str(here[name]) for name in alone[:SHOWN_NAMES]) + (" ..." if len(alone) > SHOWN_NAMES else "")
            message = f"{len(alone)} pictures have no partner in the {missing_from} folder: {shown}"
            raise UserError(message, "pictures pair up by file name; give both folders the same names, or leave views out with --exclude")
    return [_pair(name, reference[name], generated[name], truth, source, protocol, options) for name in sorted(reference)]


def _chosen(pictures: dict[str, Path], options: FolderOptions) -> dict[str, Path]:
    """What the patterns leave; a pattern matches a name or its last part."""

    def matches(name: str, patterns: tuple[str, ...]) -> bool:
        return any(fnmatch.fnmatchcase(text, pattern) for text in (name, name.rpartition("/")[2]) for pattern in patterns)

    chosen = {
        name: path
        for name, path in pictures.items()
        if (not options.include or matches(name, options.include)) and not matches(name, options.exclude)
    }
    if not chosen:
        raise UserError("the patterns leave no picture", f"there are {', '.join(list(pictures)[:SHOWN_NAMES])} ...")
    return chosen


def _object_of(name: str) -> str:
    return name.rpartition("/")[0].removesuffix("/images") if "/" in name and name.rpartition("/")[0] != "images" else ""


def _drawn(pictures: dict[str, Path], protocol: Protocol, options: FolderOptions) -> dict[str, Path]:
    """Each object's drawn views, counted in the order of their names among those that are no input."""
    objects: dict[str, list[str]] = {}
    for name in sorted(pictures):
        objects.setdefault(_object_of(name), []).append(name)
    chosen = []
    for name, views in objects.items():
        known = options.object_name or name
        if not known:
            raise UserError(f"{protocol.base} draws views by the object's name, which is not known", "give it with --object")
        chosen += [views[i] for i in drawn_views(protocol, known.rpartition("/")[2], len(views))]
    return {name: pictures[name] for name in chosen}


def _pair(
    name: str, reference: Path, generated: Path, truth: PictureFolder, source: PictureFolder, protocol: Protocol, options: FolderOptions
) -> Pair:
    (first, first_masked), (second, second_masked) = truth.read(name, reference), source.read(name, generated)
    (h, w), (gh, gw) = first.shape[:2], second.shape[:2]
    if min(h, w) < SSIM_MIN_SIZE_PX:
        raise UserError(f"{reference} is {w} x {h} px; SSIM needs {SSIM_MIN_SIZE_PX} px on each side", "use larger pictures")
    if protocol.picture_px is not None or options.reference_fov_deg is not None:
        size = min(h, protocol.picture_px or h)
        scale = 1.0
        if options.reference_fov_deg is not None and options.generated_fov_deg is not None:
            scale = framing_scale(options.generated_fov_deg, options.reference_fov_deg)
        try:
            return name, _fit(first, 1.0, size, first_masked), _fit(second, scale, size, second_masked), first_masked and second_masked
        except ValueError as error:
            raise UserError(f"{reference} or {generated}: {error}", "give square pictures") from error
    if (h, w) != (gh, gw):
        sizes = f"{reference} is {w} x {h} px, {generated} is {gw} x {gh} px"
        raise UserError(f"sizes differ: {sizes}", "render or resize both to one size; resizing changes the figures")
    return name, first, second, first_masked and second_masked


def _fit(rgba: np.ndarray, scale: float, size: int, masked: bool) -> np.ndarray:
    """As `refit`; a picture on white without alpha grows by white, not by nothing."""
    made = refit(rgba, scale, size)
    if masked:
        return made
    white = np.rint(on_white(made) * 255).astype(np.uint8)
    return np.concatenate([white, np.full_like(white[..., :1], 255)], -1)


@dataclass
class _Seed:
    views: list[dict[str, Any]]
    reasons: dict[str, str]
    features: list[tuple[np.ndarray, np.ndarray, np.ndarray | None]]


def _scored(pairs: list[Pair], protocol: Protocol, learned: LearnedMetrics) -> _Seed:
    seed = _Seed([], {}, [])
    for name, truth, picture, masked in pairs:
        figures, reasons = picture_figures(truth, picture, protocol, learned)
        if not masked:
            figures |= {metric: None for metric in figures if metric in MASKED_METRICS or metric.endswith("_foreground")}
            reasons |= {metric: NO_MASK for metric in figures if metric in MASKED_METRICS or metric.endswith("_foreground")}
        seed.views.append({"name": name} | figures)
        seed.reasons |= {metric: reason for metric, reason in reasons.items() if figures[metric] is None}
        white = on_white(picture)[None]
        if (features := learned.features(white)) is not None:
            seed.features.append((np.asarray(learned.features(on_white(truth)[None])), features, learned.probabilities(white)))
    return seed


def _of_objects(views: list[dict[str, Any]], metrics: Sequence[str]) -> dict[str, dict[str, float | None]]:
    """Object -> mean figures over its views; pictures that lie in no folder are one object without a name."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for view in views:
        groups.setdefault(_object_of(view["name"]), []).append(view)
    return {name: {metric: mean_known(view[metric] for view in group) for metric in metrics} for name, group in groups.items()}


def _set_figures(seeds: list[_Seed], learned: LearnedMetrics) -> dict[str, dict[str, Any]]:
    known = [entry for seed in seeds for entry in seed.features]
    if not known:
        return {name: {"value": None, "note": learned.reasons.get(name, "no picture")} for name in ("fid", "kid", "inception_score")}
    reference = np.concatenate([entry[0] for entry in known[: len(seeds[0].features)]])
    generated = np.concatenate([entry[1] for entry in known])
    probabilities = [entry[2] for entry in known if entry[2] is not None]
    values, notes = set_figures(reference, generated, np.concatenate(probabilities) if probabilities else None)
    return {name: {"value": value, "note": notes.get(name, learned.reasons.get(name, ""))} for name, value in values.items()}


def convention_table(reference: Path, generated: Path, options: FolderOptions) -> list[dict[str, Any]]:
    """What each peer's convention says of the same pictures (`evaluation.conventions.table`). Raises UserError as `score_views`."""
    from evaluation.conventions.table import picture_rows

    protocol = protocol_named(options.protocol)
    truth, source = (
        PictureFolder(folder, masks, options.background)
        for folder, masks in ((reference, options.reference_masks), (generated, options.generated_masks))
    )
    pairs = _pairs(truth, source, protocol, options)
    return picture_rows([pair[1] for pair in pairs], [pair[2] for pair in pairs])
