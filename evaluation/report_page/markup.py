"""HTML and SVG by plain calls. Everything is escaped unless it is `Markup`, so text from files can never become markup.

The page also forbids itself everything but its own parts: its content policy allows no network at all, and no script but
the ones with the right hashes.
"""

import base64
import hashlib
from collections.abc import Sequence
from html import escape
from importlib import resources
from string import Template

SCRIPTS = ("table.js", "sheet.js", "viewer.js")


class Markup(str):
    """Text that is HTML already."""


def element(name: str, *children: object, **attributes: object) -> Markup:
    """`<name attributes>children</name>`; lists are flattened, None is left out, other children are escaped.

    Attribute names lose a trailing underscore (`class_`) and turn others into dashes (`data_value`, `stroke_width`); an
    attribute that is None is left out.
    """
    text = "".join(f' {_attribute(key)}="{escape(str(value))}"' for key, value in attributes.items() if value is not None)
    if name in ("img", "meta", "br", "input"):
        return Markup(f"<{name}{text}>")
    return Markup(f"<{name}{text}>{join(*children)}</{name}>")


def _attribute(key: str) -> str:
    return "viewBox" if key == "viewBox" else key.rstrip("_").replace("_", "-")


def join(*children: object) -> Markup:
    """Children one after the other, escaped where needed."""
    parts: list[str] = []
    for child in children:
        if isinstance(child, list | tuple):
            parts.append(join(*child))
        elif child is not None:
            parts.append(child if isinstance(child, Markup) else escape(str(child)))
    return Markup("".join(parts))


def data_uri(data: bytes, kind: str) -> str:
    """`data:<kind>;base64,...`: a file inside an attribute."""
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def picture(data: bytes, alt: str, kind: str = "webp", **attributes: object) -> Markup:
    """An `<img>` that carries its data."""
    return element("img", src=data_uri(data, f"image/{kind}"), alt=alt, **attributes)


def download(text: str, name: str, data: bytes, kind: str, **attributes: object) -> Markup:
    """A link that saves `data` as a file called `name`; the file is inside the page."""
    return element("a", text, href=data_uri(data, kind), download=name, **attributes)


def definitions(pairs: Sequence[tuple[str, object]]) -> Markup:
    """A list of terms; pairs whose value is empty are left out."""
    return element("dl", [join(element("dt", key), element("dd", value)) for key, value in pairs if value not in (None, "", [])])


def table(head: Sequence[object], rows: Sequence[object], **attributes: object) -> Markup:
    """A plain table inside its own horizontal scroll area.

    A cell may be ready-made `<td>` or `<th>` markup, a row ready-made `<tr>` markup.
    """
    header = element("tr", [cell if _is_cell(cell) else element("th", cell, scope="col") for cell in head])
    body = [row if isinstance(row, Markup) else element("tr", [_cell(cell) for cell in row]) for row in rows]  # type: ignore[attr-defined]
    return element("div", element("table", element("thead", header), element("tbody", body), **attributes), class_="scroll", tabindex="0")


def _cell(cell: object) -> Markup:
    return Markup(cell) if isinstance(cell, Markup) and _is_cell(cell) else element("td", cell)


def _is_cell(cell: object) -> bool:
    return isinstance(cell, Markup) and cell.startswith(("<td", "<th"))


def number(text: str, value: float | None = None) -> Markup:
    """A right-aligned cell; `value` is what the table sorts by."""
    return element("td", text, class_="number", data_value=None if value is None else repr(float(value)))


def right(text: str) -> Markup:
    """The head of a column of numbers."""
    return element("th", text, class_="number", scope="col")


def page(title: str, body: Markup) -> str:
    """The whole document, style and scripts inline."""
    here = resources.files(__package__)
    scripts = [here.joinpath(name).read_text() for name in SCRIPTS]
    hashes = " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'" for script in scripts)
    policy = f"default-src 'none'; img-src data: blob:; style-src 'unsafe-inline'; script-src {hashes}; base-uri 'none'; form-action 'none'"
    return Template(here.joinpath("page.html").read_text()).substitute(
        title=escape(title),
        policy=escape(policy),
        style=here.joinpath("style.css").read_text(),
        scripts="\n".join(f"<script>{script}</script>" for script in scripts),
        body=body,
    )
