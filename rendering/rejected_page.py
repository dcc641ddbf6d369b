"""`rejected.html`: what curation left out and why, with examples, as one file that needs nothing beside it."""

import base64
import html
import io
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from rendering.fingerprint import ring_views
from rendering.view_set import ViewSet
from rendering.views import ViewStore

EXAMPLES = 12
VIEWS = 4
CELL_PX = 96

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 72rem; padding: 0 1rem; color: #222; }
h2 { margin-top: 2.5rem; border-bottom: 1px solid #ddd; }
.examples { display: flex; flex-wrap: wrap; gap: 1rem; }
figure { margin: 0; padding: .5rem; border: 1px solid #ddd; border-radius: 6px; max-width: 25rem; overflow-wrap: anywhere; }
figure img { max-width: 100%; background: repeating-conic-gradient(#e8e8e8 0 25%, #fff 0 50%) 0 0 / 16px 16px; }
figcaption small { color: #666; }
table { border-collapse: collapse; } td, th { text-align: left; padding: .15rem 1rem .15rem 0; }
"""


@dataclass(frozen=True)
class Rejection:
    """One row of `rejected.parquet`; `like` is the object that a duplicate repeats."""

    uid: str
    split: str
    reason: str
    detail: str
    like: str | None = None


def rejected_page(rejected: Sequence[Rejection], store: ViewStore, objects: int) -> str:
    """The page: counts, and up to `EXAMPLES` objects of each reason with some of their views."""
    groups: dict[str, list[Rejection]] = defaultdict(list)
    for one in rejected:
        groups[one.reason].append(one)
    order = sorted(groups, key=lambda reason: (-len(groups[reason]), reason))
    rows = "".join(f'<tr><td><a href="#{_text(r)}">{_text(r)}</a></td><td>{len(groups[r])}</td></tr>' for r in order)
    counts = f"<table><tr><th>Reason</th><th>Objects</th></tr>{rows}</table>" if order else "<p>Nothing was rejected.</p>"
    sections = "".join(_section(reason, groups[reason], store) for reason in order)
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>Rejected objects</title><style>{STYLE}</style></head><body><h1>Rejected objects</h1>"
        f"<p>{len(rejected)} of {objects} rendered objects were left out. All of them: <code>rejected.parquet</code>.</p>"
        f"{counts}{sections}</body></html>\n"
    )


def _section(reason: str, rows: list[Rejection], store: ViewStore) -> str:
    shown = rows[:EXAMPLES]
    more = f"<p>and {len(rows) - len(shown)} more</p>" if len(rows) > len(shown) else ""
    figures = "".join(_figure(one, store) for one in shown)
    return f'<section><h2 id="{_text(reason)}">{_text(reason)} ({len(rows)})</h2><div class="examples">{figures}</div>{more}</section>'


def _figure(one: Rejection, store: ViewStore) -> str:
    uids = [one.uid, *([one.like] if one.like else [])]
    pictures = "".join(_picture(store.read(uid)) for uid in uids)
    caption = f"{_text(one.uid)} ({_text(one.split)})<br><small>{_text(one.detail)}</small>"
    return f"<figure>{pictures}<figcaption>{caption}</figcaption></figure>"


def _picture(views: ViewSet) -> str:
    """Some views of the ring side by side, as a data URL."""
    ring = ring_views(views)
    chosen = [ring[index] for index in np.linspace(0, len(ring), min(VIEWS, len(ring)), endpoint=False).astype(int)]
    strip = Image.new("RGBA", (CELL_PX * len(chosen), CELL_PX))
    for place, index in enumerate(chosen):
        strip.paste(Image.fromarray(views.rgba[index], "RGBA").resize((CELL_PX, CELL_PX), Image.Resampling.BOX), (place * CELL_PX, 0))
    buffer = io.BytesIO()
    strip.save(buffer, "WEBP", quality=80)
    data = base64.b64encode(buffer.getvalue()).decode()
    return f'<img alt="views of {_text(views.uid)}" src="data:image/webp;base64,{data}" width="{strip.width}" height="{strip.height}">'


def _text(value: str) -> str:
    return html.escape(value, quote=True)
