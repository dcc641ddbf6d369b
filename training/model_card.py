"""The card of a registered model, in Markdown: what it is, what it learned from, under which licences, what for, what not.

The same text is the version's description in MLflow and the `README.md` of the generator folder, there with the head that
model hubs read. Sections have fixed titles, so that the evaluation can put its figures into one.
"""

import re
from dataclasses import dataclass, field

FIGURES = "Figures"
NOT_EVALUATED = "Not evaluated yet."
INTENDED_USE = (
    "Many views of one object from one to ten pictures of it, cut out, as input to reconstruction; research on multi-view generation and "
    "its evaluation."
)
LIMITS = (
    "One object in the middle of the picture, no scenes and no people. What the pictures do not show is made up, and another seed makes up "
    "another. Objects unlike those it learned from come out worse."
)


@dataclass(frozen=True)
class CardFacts:
    """What a card says.

    Attributes:
        title: for example `mvforge`.
        method, recipe: by name.
        objects: how many it was trained on.
        licences: licence -> objects under it.
        data_fingerprint: stands for exactly these files.
        commit: of the code.
        losses: stage -> last validation loss.
        intended_use, limits: sentences.
        attribution: the file beside the model that names every author.
    """

    title: str
    method: str
    recipe: str
    objects: int
    licences: dict[str, int]
    data_fingerprint: str
    commit: str
    losses: dict[str, str] = field(default_factory=dict)
    intended_use: str = INTENDED_USE
    limits: str = LIMITS
    attribution: str = "attribution.csv"


def model_card(facts: CardFacts) -> str:
    """The card without its hub head; at most some 2500 characters, so that figures fit into the 5000 of a description."""
    losses = ", ".join(f"{stage} {loss}" for stage, loss in facts.losses.items())
    made = [f"- method `{facts.method}`, recipe `{facts.recipe}`, code {facts.commit}"]
    made += [f"- last validation losses: {losses}"] if losses else []
    sections = {
        FIGURES: NOT_EVALUATED,
        "Training data": f"{facts.objects} objects: {shown_licences(facts.licences)}. `{facts.attribution}` beside the model names "
        f"them all. Fingerprint of the files: `{facts.data_fingerprint}`.",
        "Licence": licence_note(facts.licences),
        "Intended use": facts.intended_use,
        "Limits": facts.limits,
        "How it was made": "\n".join(made),
    }
    summary = f"{facts.method} by recipe '{facts.recipe}', trained on {facts.objects} objects ({shown_licences(facts.licences)})."
    return "\n\n".join([summary, *(f"## {title}\n\n{text}" for title, text in sections.items())]) + "\n"


def hub_page(facts: CardFacts) -> str:
    """The card with the head that model hubs read (YAML) and a title: `README.md` of the generator folder."""
    head = ["---", "library_name: diffusers", "pipeline_tag: image-to-3d", "tags:", "- multi-view", f"- {facts.method}", "---", ""]
    return "\n".join([*head, f"# {facts.title}", "", model_card(facts)])


def shown_licences(licences: dict[str, int], most: int = 12) -> str:
    """`CC-BY-4.0 20, CC0-1.0 4`: how many objects under each, most frequent first, the rest in one."""
    ordered = sorted(licences.items(), key=lambda item: (-item[1], item[0]))
    shown = [f"{name} {count}" for name, count in ordered[:most]]
    if rest := sum(count for _, count in ordered[most:]):
        shown.append(f"{len(ordered) - most} others {rest}")
    return ", ".join(shown) or "none"


def licence_note(licences: dict[str, int]) -> str:
    """What the data's licences ask of who uses the model. States terms of the data; what follows for weights is not ours to say."""
    asks = {
        "ask for attribution or their notice (in the attribution file)": lambda name: name.startswith(("CC-BY", "MIT", "Apache")),
        "forbid commercial use": lambda name: "-NC" in name,
        "forbid changed copies": lambda name: "-ND" in name,
        "ask for the same licence on what is derived": lambda name: "-SA" in name,
        "state no known licence": lambda name: name == "unknown",
    }
    lines = [f"- {count} {text}" for text, asked in asks.items() if (count := sum(n for name, n in licences.items() if asked(name)))]
    listed = "\n".join(["Of the objects it was trained on:", "", *lines]) if lines else "All objects may be used for any purpose."
    return (
        f"{listed}\n\nWhat the licences of training data mean for weights differs between countries; no licence of the weights is implied."
    )


def with_section(markdown: str, title: str, text: str) -> str:
    """The Markdown with the text of one second-level section replaced, or the section added at the end. Nothing else changes."""
    section = re.compile(rf"(^## {re.escape(title)}[ \t]*\n)(.*?)(?=^## |\Z)", re.MULTILINE | re.DOTALL)
    if section.search(markdown):
        return section.sub(lambda found: f"{found[1]}\n{text.strip()}\n\n", markdown, count=1).rstrip() + "\n"
    return f"{markdown.rstrip()}\n\n## {title}\n\n{text.strip()}\n".lstrip()
