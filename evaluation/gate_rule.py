"""Who may be champion: a pure function of two figures and their paired difference."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from evaluation.compare import verdict
from evaluation.metrics.directions import LOWER_IS_BETTER, is_better

PROMOTED, KEPT, REFUSED = "promoted", "kept", "refused"


@dataclass(frozen=True)
class GateConfig:
    """The rule of the gate.

    Attributes:
        alias: what the best version is called in the registry.
        metric: whose paired difference over objects decides; errors and distances count as better when lower.
        minimum: what the first champion must reach (for an error: the most it may be); None asks for nothing.
        min_objects: a champion falls only on at least so many objects that both versions have figures for; below five no
            interval of a mean can be trusted.
    """

    alias: str = "champion"
    metric: str = "psnr_foreground"
    minimum: float | None = None
    min_objects: int = 5


@dataclass(frozen=True)
class Figure:
    """One version's mean on the gate's metric, and what it was measured on.

    Attributes:
        basis: protocol, evaluation set and sampling; two figures compare only on one basis.
        value: None where the version has no figure on that basis, `why_not` says why.
        missing: objects without a figure, which do not enter the mean.
        seen: how many of the evaluated objects the version was trained on; None when that is not known.
        withdrawn: why a person took the version back, empty when no one did.
    """

    uri: str
    basis: str
    value: float | None
    missing: int = 0
    seen: int | None = 0
    withdrawn: str = ""
    why_not: str = ""


def decide(config: GateConfig, challenger: Figure, champion: Figure | None, difference: Mapping[str, Any] | None = None) -> tuple[str, str]:
    """-> (`promoted`, `kept` or `refused`; the reason in one sentence).

    `refused`: the challenger is not fit to be champion whoever holds the title. `kept`: the champion stays. `difference` is
    what `paired` says of the challenger against the champion.
    """
    if unfit := _unfit(config, challenger, champion):
        return REFUSED, unfit
    value, metric = challenger.value, config.metric
    if champion is None:
        floor = "no floor is set" if config.minimum is None else f"the floor is {config.minimum:g}"
        return PROMOTED, f"there was no {config.alias}; {challenger.uri} has {metric} {value:.4f} ({floor})"
    if champion.uri == challenger.uri:
        return KEPT, f"{challenger.uri} is the {config.alias} already"
    if champion.seen != 0:
        return (
            KEPT,
            f"{_trained(champion)}, so the two cannot be compared there; `mvforge models promote` changes the {config.alias} by hand",
        )
    if champion.value is None or champion.basis != challenger.basis or difference is None:
        why = f" ({champion.why_not})" if champion.why_not else ""
        return KEPT, f"{champion.uri} has no {metric} on {challenger.basis}{why}, so the two cannot be compared"
    if challenger.missing > champion.missing:
        lost = f"{challenger.missing} objects have no {metric}, {champion.missing} with {champion.uri}"
        return KEPT, f"the mean of {challenger.uri} leaves more objects out: {lost}"
    return _by_difference(config, challenger, champion, difference)


def _unfit(config: GateConfig, challenger: Figure, champion: Figure | None) -> str:
    """Why the challenger cannot be champion, whatever the champion's figures; empty when it can."""
    value, metric = challenger.value, config.metric
    if challenger.withdrawn:
        return f"{challenger.uri} was withdrawn by hand ({challenger.withdrawn}); `mvforge models promote` lifts that"
    if value is None or not math.isfinite(value):
        return f"{challenger.uri} has no finite mean {metric}" + (f" ({challenger.why_not})" if challenger.why_not else "")
    if challenger.seen != 0:
        return _trained(challenger)
    if champion is None and config.minimum is not None and value != config.minimum and not is_better(metric, value, config.minimum):
        bound = "at most" if metric in LOWER_IS_BETTER else "at least"
        return f"the first {config.alias} needs {metric} {bound} {config.minimum:g}; {challenger.uri} has {value:.4f}"
    return ""


def _trained(figure: Figure) -> str:
    if figure.seen is None:
        return f"it is not known whether {figure.uri} was trained on objects of this evaluation set"
    return f"{figure.uri} was trained on {figure.seen} objects of this evaluation set"


def _by_difference(config: GateConfig, challenger: Figure, champion: Figure, difference: Mapping[str, Any]) -> tuple[str, str]:
    metric, objects = config.metric, difference["objects"]
    figures = f"mean {metric} {challenger.value:.4f} against {champion.value:.4f} of {champion.uri} on {challenger.basis}"
    if objects < config.min_objects:
        return KEPT, f"too few objects to tell, {objects} where {config.min_objects} are asked for (gate.min_objects): {figures}"
    if difference["ci95"] is None:
        return KEPT, f"one object tells nothing of others: {figures}"
    low, high = difference["ci95"]
    interval = (
        f"paired difference {difference['mean_difference']:+.4f}, 95 % interval {low:+.4f} to {high:+.4f} over {objects} objects, "
        f"p = {difference['p_value']:.2g}"
    )
    found = verdict(metric, dict(difference))
    if found == "better":
        return PROMOTED, f"better: {figures}; {interval}"
    return KEPT, f"{'worse' if found == 'worse' else 'no difference that is sure'}: {figures}; {interval}"
