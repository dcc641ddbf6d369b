"""Which way each figure is good. Names not listed here, such as PSNR, IoU and F-scores, are better when higher."""

_DISTANCES = ("accuracy", "completeness", "chamfer", "p95_distance", "max_distance")
_OF_PICTURES = ("lpips", "fid", "kid")
# The same measure of something else: after an alignment, of the visible surface only, or of a baseline.
_VARIANTS = ("", "_bbox_aligned", "_icp_aligned", "_visible", "_truth_hull", "_blank", "_input_copied")

LOWER_IS_BETTER: frozenset[str] = frozenset(f"{name}{variant}" for name in (*_DISTANCES, *_OF_PICTURES) for variant in _VARIANTS)


def is_better(metric: str, a: float, b: float) -> bool:
    """Whether `a` is strictly better than `b`; never so when either is NaN."""
    return a < b if metric in LOWER_IS_BETTER else a > b
