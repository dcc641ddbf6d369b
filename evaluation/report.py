"""[step] One self-contained page about one evaluation: figures, pictures, failures, and how to repeat it.

No network, no files beside it: pictures are data URIs, plots are inline SVG.
"""

from dataclasses import dataclass, field
from datetime import UTC, datetime

import numpy as np

from evaluation.report_page import sections
from evaluation.report_page.inputs import ReportInputs, read_inputs
from evaluation.report_page.markup import Markup, element, join, page
from evaluation.report_page.objects import object_block
from infra.job import Job, Summary
from infra.storage import Location

CONTENTS = (
    ("figures", "Figures"),
    ("gate", "Gate"),
    ("objects", "Objects"),
    ("table", "All objects"),
    ("distributions", "Distributions"),
    ("training", "Training"),
    ("failures", "Failures"),
    ("licences", "Licences"),
    ("protocol", "Protocol"),
    ("repeat", "Repeat"),
)


@dataclass(frozen=True)
class ReportConfig:
    """What the page says beyond the figures.

    Attributes:
        title: of the page.
        note: a caution shown at the top and with every picture section, for example `tiny: not trained to quality`.
        recipe: name of the recipe.
        command: the exact command that repeats the run.
        max_objects_shown: objects with pictures; they are spread evenly from the best to the worst.
        shown_by: the metric that orders them.
        paper_figures: put the published figures of MVDiffusion++ beside ours.
    """

    title: str = "Evaluation"
    note: str = ""
    recipe: str = ""
    # Where and how it was typed does not change the page's figures.
    command: str = field(default="", metadata={"identity": False})
    max_objects_shown: int = 6
    shown_by: str = "psnr_foreground"
    paper_figures: bool = True


def run(
    config: ReportConfig,
    *,
    scores: Location,
    generated: Location,
    reference: Location,
    out: Location,
    job: Job,
    meshes: Location | None = None,
    decision: Location | None = None,
    model: Location | None = None,
    histories: dict[str, Location] | None = None,
    fetched: Location | None = None,
    curated: Location | None = None,
) -> Summary:
    """Write `report.html` into `out` and attach it to the tracking run. Counts are objects shown.

    Raises:
        UserError: there are no scores.
    """
    inputs = read_inputs(
        scores=scores,
        generated=generated,
        reference=reference,
        meshes=meshes,
        decision=decision,
        model=model,
        histories=histories or {},
        fetched=fetched,
        curated=curated,
    )
    shown = chosen_objects(inputs, config)
    blocks = []
    with job.progress("report", len(shown)) as progress:
        for uid in shown:
            blocks.append(object_block(uid, inputs))
            progress.update()
    text = page(config.title, _body(config, inputs, shown, blocks))
    (out / "report.html").write_text(text)
    job.run.artifact("report/report.html", text.encode())
    return Summary(len(shown), facts={"page": "report.html", "bytes": len(text.encode())})


def chosen_objects(inputs: ReportInputs, config: ReportConfig) -> list[str]:
    """At most `max_objects_shown` objects with generated views, evenly spread from the best to the worst figure."""
    with_views = [uid for uid in sorted(inputs.figures) if inputs.generated is not None and uid in inputs.generated]
    lost = [uid for uid in with_views if inputs.figures[uid].get(config.shown_by) is None]
    ranked = (
        sorted((uid for uid in with_views if uid not in lost), key=lambda uid: -float(inputs.figures[uid][config.shown_by] or 0.0)) + lost
    )
    if len(ranked) <= config.max_objects_shown:
        return ranked
    return [ranked[round(place)] for place in np.linspace(0, len(ranked) - 1, config.max_objects_shown)]


def _body(config: ReportConfig, inputs: ReportInputs, shown: list[str], blocks: list[Markup]) -> Markup:
    caution = element("div", config.note, class_="note", role="note") if config.note else None
    contents = {
        "figures": sections.headline(inputs, config.paper_figures),
        "gate": sections.decision(inputs),
        "objects": join(_shown_how(config, inputs, shown), caution, blocks),
        "table": sections.per_object(inputs, shown),
        "distributions": sections.distributions(inputs),
        "training": sections.training(inputs.curves),
        "failures": sections.failures(inputs),
        "licences": sections.licences(inputs),
        "protocol": sections.protocol(inputs),
        "repeat": _repeat(config, inputs),
    }
    links = element("nav", [element("a", title, href=f"#{identity}") for identity, title in CONTENTS])
    return join(
        _header(config, inputs), caution, links, [sections.section(identity, title, contents[identity]) for identity, title in CONTENTS]
    )


def _header(config: ReportConfig, inputs: ReportInputs) -> Markup:
    made_by, version, summary = inputs.made_by, inputs.version, inputs.summary
    uri = made_by.get("uri") or version.get("uri") or "unknown"
    asked = f" (asked for as {made_by['requested']})" if made_by.get("requested") else ""
    settings = made_by.get("settings", {})
    sampling = ", ".join(
        f"{settings[key]} {name}" for key, name in (("conditions", "condition view(s)"), ("steps", "steps")) if key in settings
    )
    counts = summary.get("counts", {})
    done, lost = counts.get("completed", "?"), counts.get("failed", "?")
    objects = f"{counts.get('objects', len(inputs.figures))} objects to score, {done} completed, {lost} failed"
    protocol = summary["protocol"]
    overlap = summary.get("overlap") or {}
    checked = (
        f"none of the {overlap['trained_objects']} trained objects is among them" if overlap.get("checked") else overlap.get("reason", "")
    )
    return join(
        element("h1", config.title),
        sections.definitions(
            [
                ("model", uri + asked),
                ("recipe", config.recipe),
                ("made", datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")),
                ("evaluated", objects),
                ("held out", checked),
                ("sampling", ", ".join(filter(None, [sampling, settings.get("sampler", "")]))),
                ("protocol", protocol["name"] if isinstance(protocol, dict) else protocol),
            ]
        ),
    )


def _shown_how(config: ReportConfig, inputs: ReportInputs, shown: list[str]) -> Markup:
    if not shown:
        return element("p", "No object has generated views; see Failures.")
    spread = "; the choice is evenly spread over that order" if len(shown) == config.max_objects_shown < len(inputs.figures) else ""
    order = f"from best to worst {config.shown_by.replace('_', ' ')}{spread}"
    return element("p", f"{len(shown)} of {len(inputs.figures)} objects, {order}.", class_="soft")


def _repeat(config: ReportConfig, inputs: ReportInputs) -> Markup:
    run_id = inputs.version.get("run_id")
    return join(
        element("pre", element("code", config.command)) if config.command else element("p", "The command was not recorded."),
        sections.definitions([("registered by run", run_id), ("registered by build", inputs.version.get("build_id"))]),
    )
