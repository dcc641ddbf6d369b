"""The figures in the descriptions that MLflow's UI shows: of a version, and of the model with its champion."""

from evaluation.metrics.directions import LOWER_IS_BETTER
from evaluation.score_table import ScoreTable
from infra import tracking
from infra.tracking import ModelVersion
from training.model_card import FIGURES, with_section

HEADLINE = ("psnr_foreground", "psnr", "ssim", "lpips", "mask_iou", "chamfer", "f_score@0.02", "volume_iou", "silhouette_iou")
ROWS = 18
# MLflow draws tables without room between the columns.
GAP = "&emsp;"


def describe(uri: str, version: ModelVersion, table: ScoreTable, alias: str, decision: str) -> None:
    """Put figures and the gate's word into the version's card, and the champion's figures into the model's description."""
    facts = tracking.version_facts(uri, version)
    text = f"{figures(table)}\n\nGate ({alias}): {decision}."
    card = with_section(facts.description, FIGURES, text)
    if len(card) > tracking.DESCRIPTION_LENGTH:
        card = with_section(facts.description, FIGURES, f"{figures(table, HEADLINE)}\n\nGate ({alias}): {decision[:600]}.")
    if card != facts.description:
        tracking.describe_version(uri, version, card)
    if alias in facts.aliases:
        describe_champion(uri, version, alias, figures(table, HEADLINE))


def describe_champion(uri: str, version: ModelVersion, alias: str, text: str) -> None:
    """The model's section about who holds the alias; what a person wrote into other sections stays."""
    before = tracking.model_description(uri, version.name)
    body = f"`models:/{version.name}@{alias}` is version {version.version}.\n\n{text}"
    after = with_section(before, alias.capitalize(), body)
    if after != before:
        tracking.describe_model(uri, version.name, after)


def figures(table: ScoreTable, only: tuple[str, ...] = ()) -> str:
    """A Markdown table of means with their 95 % intervals, and what they were measured on."""
    names = [name for name in [*HEADLINE, *table.summary["metrics"]] if name in table.summary["metrics"]]
    rows = []
    for name in dict.fromkeys(names):
        stats = table.summary["metrics"][name] or {}
        if stats.get("mean") is None or (only and name not in only):
            continue
        interval = stats.get("ci95")
        shown = f"{interval[0]:.4g} to {interval[1]:.4g}" if interval else ""
        arrow = "lower" if name in LOWER_IS_BETTER else "higher"
        rows.append("".join(f"| {cell}{GAP} " for cell in (name, f"{stats['mean']:.4g}", shown, stats.get("objects", ""), arrow)) + "|")
    head = ["| metric | mean | 95 % interval | objects | better |", "|---|---|---|---|---|"]
    basis = f"On `{table.basis}` ({len(table.uids)} objects held out)."
    return "\n".join([basis, "", *head, *rows[:ROWS]])
