"""[step] One self-contained page about one evaluation: figures, pictures, meshes, failures, and how to repeat it.

No network, no files beside it: pictures, meshes and results are data URIs, plots are inline SVG, scripts are inline.
"""

from dataclasses import dataclass, field
from datetime import UTC, datetime

import numpy as np

from evaluation.report_page import sections
from evaluation.report_page.consistency import consistency
from evaluation.report_page.data import data
from evaluation.report_page.downloads import downloads
from evaluation.report_page.failures import failures
from evaluation.report_page.headline import cards, headline
from evaluation.report_page.inputs import ReportInputs, read_inputs
from evaluation.report_page.markup import Markup, definitions, element, join, page
from evaluation.report_page.meshes import Room
from evaluation.report_page.objects import object_block
from evaluation.report_page.objects_table import per_object
from evaluation.report_page.training_curves import training
from evaluation.report_page.worst import ranked, worst
from evaluation.version_page import attach
from infra.job import Job, Summary
from infra.storage import Location

CONTENTS = (
    ("figures", "Figures"),
    ("gate", "Gate"),
    ("objects", "Objects"),
    ("worst", "Worst five"),
    ("table", "All objects"),
    ("consistency", "Consistency"),
    ("distributions", "Distributions"),
    ("training", "Training"),
    ("failures", "Failures"),
    ("data", "Data and licences"),
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
        shown_by: the metric that orders them, and that the worst five are the worst by.
        paper_figures: put the published figures of MVDiffusion++ beside ours.
        embedded_mb: how many megabytes of GLB files the page carries for its viewers; further ones are linked.
    """

    title: str = "Evaluation"
    note: str = ""
    recipe: str = ""
    # Where and how it was typed does not change the page's figures.
    command: str = field(default="", metadata={"identity": False})
    max_objects_shown: int = 6
    shown_by: str = "psnr_foreground"
    paper_figures: bool = True
    embedded_mb: float = 5.0


def run(
    config: ReportConfig,
    *,
    scores: Location,
    out: Location,
    job: Job,
    generated: Location | None = None,
    reference: Location | None = None,
    meshes: Location | None = None,
    decision: Location | None = None,
    model: Location | None = None,
    histories: dict[str, Location] | None = None,
    fetched: Location | None = None,
    curated: Location | None = None,
) -> Summary:
    """Write `report.html` into `out` and attach it to the tracking run. Counts are objects shown.

    Only the scores must be there; the page says what else is missing.

    Raises:
        UserError: there are no scores.
    """
    place = out / "report.html"
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
    return write_page(config, inputs, place, job)


def write_page(config: ReportConfig, inputs: ReportInputs, place: Location, job: Job) -> Summary:
    """The page of `inputs` as the file `place`; counts are objects shown."""
    shown, room = chosen_objects(inputs, config), Room(round(config.embedded_mb * 1e6))
    blocks = []
    with job.progress("report", len(shown)) as progress:
        for uid in shown:
            blocks.append(object_block(uid, inputs, room, place))
            progress.update()
    text = page(config.title, _body(config, inputs, shown, blocks))
    place.write_text(text)
    job.run.artifact("report/report.html", text.encode())
    attach(text.encode(), inputs.made_by, job)
    return Summary(len(shown), facts={"page": place.name, "bytes": len(text.encode())})


def chosen_objects(inputs: ReportInputs, config: ReportConfig) -> list[str]:
    """At most `max_objects_shown` objects with generated views, evenly spread from the best to the worst figure."""
    with_views = [uid for uid in sorted(inputs.figures) if inputs.generated is not None and uid in inputs.generated]
    best_first = [uid for uid in ranked(inputs, config.shown_by) if uid in with_views]
    order = best_first + [uid for uid in with_views if uid not in best_first]
    if len(order) <= config.max_objects_shown:
        return order
    return [order[round(place)] for place in np.linspace(0, len(order) - 1, config.max_objects_shown)]


def _body(config: ReportConfig, inputs: ReportInputs, shown: list[str], blocks: list[Markup]) -> Markup:
    caution = element("div", config.note, class_="note", role="note") if config.note else None
    made = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    about = {"title": config.title, "note": config.note, "recipe": config.recipe, "command": config.command, "made": made}
    results = downloads(inputs, about)
    contents = {
        "figures": join(cards(inputs), headline(inputs, config.paper_figures)),
        "gate": sections.decision(inputs),
        "objects": join(_shown_how(config, inputs, shown), caution, blocks),
        "worst": worst(inputs, config.shown_by, shown),
        "table": per_object(inputs, shown),
        "consistency": consistency(inputs),
        "distributions": sections.distributions(inputs),
        "training": training(inputs.curves),
        "failures": failures(inputs),
        "data": data(inputs),
        "protocol": sections.protocol(inputs),
        "repeat": join(_repeat(config, inputs), results),
    }
    links = element("nav", [element("a", title, href=f"#{identity}") for identity, title in CONTENTS], aria_label="contents")
    return join(
        _header(config, inputs, made),
        caution,
        links,
        [sections.section(identity, title, contents[identity]) for identity, title in CONTENTS],
    )


def _header(config: ReportConfig, inputs: ReportInputs, made: str) -> Markup:
    made_by, version, summary = inputs.made_by, inputs.version, inputs.summary
    uri = made_by.get("uri") or version.get("uri") or summary.get("model") or "unknown"
    asked = f" (asked for as {made_by['requested']})" if made_by.get("requested") else ""
    settings = made_by.get("settings") or {}
    sampling = ", ".join(
        f"{settings[key]} {name}"
        for key, name in (("conditions", "condition view(s)"), ("steps", "steps"))
        if settings.get(key) is not None
    )
    counts = summary.get("counts", {})
    done, lost = counts.get("completed", "?"), counts.get("failed", "?")
    objects = f"{counts.get('objects', len(inputs.figures))} objects to score, {done} completed, {lost} failed"
    overlap = summary.get("overlap") or {}
    checked = (
        f"none of the {overlap['trained_objects']} trained objects is among them" if overlap.get("checked") else overlap.get("reason", "")
    )
    return join(
        element("h1", config.title),
        definitions(
            [
                ("model", uri + asked),
                ("recipe", config.recipe),
                ("protocol", element("a", inputs.protocol.get("name") or "unnamed", href="#protocol")),
                ("evaluated", objects),
                ("held out", checked),
                ("sampling", ", ".join(filter(None, [sampling, settings.get("sampler", "")]))),
                ("made", made),
            ]
        ),
    )


def _shown_how(config: ReportConfig, inputs: ReportInputs, shown: list[str]) -> Markup:
    if not shown:
        return element("p", "No object has generated views; see Failures.")
    spread = "; the choice is evenly spread over that order" if len(shown) == config.max_objects_shown < len(inputs.figures) else ""
    order = f"from best to worst {config.shown_by.replace('_', ' ')}{spread}"
    hint = "Point at a cell of a sheet, or touch it, to see that view of all four side by side."
    return element("p", f"{len(shown)} of {len(inputs.figures)} objects, {order}. {hint}", class_="soft")


def _repeat(config: ReportConfig, inputs: ReportInputs) -> Markup:
    if not config.command:
        return element("p", "The command was not recorded.")
    alone = element("code", f"{config.command} --rerun report") if config.command.startswith("mvforge run ") else ""
    return join(
        element("pre", element("code", config.command)),
        definitions(
            [
                ("this page alone", alone),
                ("registered by run", inputs.version.get("run_id")),
                ("registered by build", inputs.version.get("build_id")),
            ]
        ),
    )
