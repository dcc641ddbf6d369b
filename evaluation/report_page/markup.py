"""HTML and SVG by plain calls. Everything is escaped unless it is `Markup`, so text from files can never become markup."""

import base64
from collections.abc import Sequence
from html import escape
from importlib import resources
from string import Template


class Markup(str):
    """Text that is HTML already."""


def element(name: str, *children: object, **attributes: object) -> Markup:
    """`<name attributes>children</name>`; lists are flattened, None is left out, other children are escaped.

    Attribute names lose a trailing underscore (`class_`) and turn others into dashes (`data_value`, `stroke_width`).
    """
    text = "".join(f' {_attribute(key)}="{escape(str(value))}"' for key, value in attributes.items() if value is not None)
    if name in ("img", "meta", "br"):
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


def picture(data: bytes, alt: str, kind: str = "webp", **attributes: object) -> Markup:
    """An `<img>` that carries its data."""
    source = f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
    return element("img", src=source, alt=alt, **attributes)


def table(head: Sequence[object], rows: Sequence[Sequence[object]], **attributes: object) -> Markup:
    """A plain table inside its own horizontal scroll area; a cell may be ready-made `<td>` or `<th>` markup."""
    header = element("tr", [cell if _is_cell(cell) else element("th", cell, scope="col") for cell in head])
    body = [element("tr", [cell if _is_cell(cell) else element("td", cell) for cell in row]) for row in rows]
    return element("div", element("table", element("thead", header), element("tbody", body), **attributes), class_="scroll", tabindex="0")


def _is_cell(cell: object) -> bool:
    return isinstance(cell, Markup) and cell.startswith(("<td", "<th"))


def number(text: str, value: float | None = None) -> Markup:
    """A right-aligned cell; `value` is what the table sorts by."""
    return element("td", text, class_="number", data_value=None if value is None else repr(float(value)))


def page(title: str, body: Markup) -> str:
    """The whole document, style and script inline."""
    here = resources.files(__package__)
    return Template(here.joinpath("page.html").read_text()).substitute(
        title=escape(title), style=here.joinpath("style.css").read_text(), script=here.joinpath("sort.js").read_text(), body=body
    )
