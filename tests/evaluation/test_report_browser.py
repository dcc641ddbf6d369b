"""The page in a real headless Chromium, by real clicks: sorting, filtering, sheets, viewer, phone, dark; no network, no errors.

Skipped, saying so, where no browser is installed.
"""

import base64
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trimesh
from PIL import Image

from evaluation.mesh_io import glb_bytes
from evaluation.mesh_preview import BACKGROUND, cast, load_glb
from evaluation.report_page.figures import metric
from evaluation.report_page.markup import element, page
from evaluation.report_page.meshes import viewer
from infra.storage import Location
from rendering.cameras import orbit
from rendering.view_set import Mesh
from tests.evaluation.browser import Browser, installed
from tests.evaluation.traced import chair

LAPTOP, PHONE = (1440, 900), (390, 844)
# The viewer's camera before anyone touches it, as viewer.js states it.
AZIMUTH, ELEVATION, ZOOM, FOV_DEG = 0.6, 0.35, 0.95, 40.0


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    program = installed()
    if program is None:
        pytest.skip("no Chromium is installed: the report page was not opened in a browser (Debian: apt-get install chromium)")
    with Browser(program) as opened:
        yield opened


@pytest.fixture
def laptop(browser: Browser, report_page: Path) -> Browser:
    return opened(browser, report_page, LAPTOP)


def opened(browser: Browser, path: Path, size: tuple[int, int], phone: bool = False) -> Browser:
    browser.problems.clear()
    browser.requests.clear()
    browser.size(*size, phone=phone)
    browser.open(f"file://{path}")
    return browser


def test_it_opens_without_an_error_and_asks_for_nothing(laptop: Browser, report_page: Path) -> None:
    # Bring every part into view, so that whatever is done lazily is done.
    laptop.value("(async () => { for (let y = 0; y < document.body.scrollHeight; y += 600) "
                 "{ scrollTo(0, y); await new Promise(requestAnimationFrame); } })()")  # fmt: skip
    laptop.wait("[...document.querySelectorAll('.viewer canvas')].every((canvas) => canvas.dataset.drawn)")
    assert laptop.problems == []
    assert set(laptop.requests) == {f"file://{report_page}"}
    assert laptop.value("[...document.images].every((image) => image.complete && image.naturalWidth > 0)")


def test_the_policy_stops_what_should_not_be_there(laptop: Browser) -> None:
    """The page's own rules at work: an injected script does not run, an injected picture is not fetched."""
    laptop.value(
        "(() => { const script = document.createElement('script'); script.textContent = 'window.injected = 1';"
        "const image = new Image(); image.src = 'http://127.0.0.1:9/spy.png'; document.body.append(script, image); })()"
    )
    laptop.wait("document.images.length > 0")
    assert laptop.value("window.injected") is None and any("Content Security Policy" in told for told in laptop.problems)
    assert laptop.blocked == ["http://127.0.0.1:9/spy.png"]


def test_the_table_sorts_and_filters(laptop: Browser, report_steps: dict[str, Location]) -> None:
    rows = (report_steps["score"] / "scores.parquet").read_table().to_pylist()
    exact = {row["uid"]: row["value"] for row in rows if row["view"] is None and row["metric"] == "psnr_foreground"}
    rising = sorted((uid for uid in exact if exact[uid] is not None), key=lambda uid: exact[uid])
    heads = laptop.value("[...document.querySelectorAll('table.sortable th')].map((head) => head.textContent)")
    button = f"table.sortable th:nth-child({heads.index(metric('psnr_foreground').head) + 1}) button"
    order = "[...document.querySelectorAll('table.sortable tbody tr')].filter((row) => !row.hidden).map((row) => row.cells[0].textContent)"
    laptop.click(button)
    assert laptop.value(order) == [*rising, "lost"]
    laptop.click(button)
    assert laptop.value(order) == [*rising[::-1], "lost"]  # what has no figure stays at the end
    laptop.click("input[type=search]")
    laptop.call("Input.insertText", text="chair_B scored")
    assert laptop.value(order) == ["chair_b"]
    assert laptop.value("document.querySelector('.tools output').value") == "1 of 3"
    laptop.value("document.querySelector('input[type=search]').value = ''")
    laptop.call("Input.insertText", text="failed")
    assert laptop.value(order) == ["lost"]


def test_a_cell_of_a_sheet_is_enlarged(laptop: Browser) -> None:
    """A click in row 1, column 3 of the truth shows that very cell of all four sheets."""
    sheet = "#object-chair_a .sheet:first-child .cells"
    x, y = laptop.middle(sheet)
    box = laptop.value(f"(() => {{ const b = document.querySelector('{sheet}').getBoundingClientRect(); return [b.width, b.height]; }})()")
    at = {"x": x - box[0] / 2 + 3.5 / 8 * box[0], "y": y - box[1] / 2 + 1.5 / 4 * box[1]}
    for kind in ("mousePressed", "mouseReleased"):
        laptop.call("Input.dispatchMouseEvent", type=kind, **at, button="left", clickCount=1)
    assert "azimuth 135\u00b0, elevation +30\u00b0" in laptop.value("document.querySelector('#object-chair_a .glass p').textContent")
    panes = "#object-chair_a .glass canvas"
    laptop.wait(
        f"document.querySelectorAll('{panes}').length === 4 && [...document.querySelectorAll('{panes}')].every((c) => c.width === 64)"
    )
    for number in range(4):
        shown = picture(laptop.value(f"document.querySelectorAll('{panes}')[{number}].toDataURL()"))
        source = laptop.value(f"document.querySelectorAll('#object-chair_a .cells img')[{number}].src")
        whole = np.asarray(picture(source).convert("RGB"), int)
        # Two decoders of one lossy picture differ by rounding.
        assert np.abs(np.asarray(shown.convert("RGB"), int) - whole[64:128, 192:256]).max() <= 3


def test_nothing_is_wider_than_a_phone(browser: Browser, report_page: Path) -> None:
    phone = opened(browser, report_page, PHONE, phone=True)
    phone.value("document.querySelectorAll('details').forEach((one) => one.open = true)")
    assert phone.value("[innerWidth, document.documentElement.scrollWidth, document.body.scrollWidth]") == [PHONE[0]] * 3
    sticking_out = phone.value(
        "[...document.querySelectorAll('main *')].filter((e) => !e.closest('.scroll, nav, pre, svg') && e.getClientRects().length"
        " && e.getBoundingClientRect().right > innerWidth + 0.5).map((e) => e.outerHTML.slice(0, 80))"
    )
    assert sticking_out == []
    # Wide tables scroll within their box.
    assert phone.value("[...document.querySelectorAll('.scroll')].some((box) => box.scrollWidth > box.clientWidth + 100)")
    assert phone.problems == []


def test_a_dark_page_is_dark_and_readable(browser: Browser, report_page: Path) -> None:
    """Contrast of text to page as WCAG 2 defines it, both ways; 4.5 is its level AA."""
    for scheme in ("light", "dark"):
        browser.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        page_ = opened(browser, report_page, LAPTOP)
        colours = page_.value(
            "[getComputedStyle(document.body).backgroundColor, ...['body', '.soft', 'a', 'dt', 'figcaption', '.verdict']"
            ".map((name) => getComputedStyle(document.querySelector(name)).color)]"
        )
        ground, *inks = [luminance(colour) for colour in colours]
        assert (ground < 0.05) == (scheme == "dark")
        for ink in inks:
            assert (max(ground, ink) + 0.05) / (min(ground, ink) + 0.05) >= 4.5
    browser.call("Emulation.setEmulatedMedia", features=[])


def luminance(colour: str) -> float:
    """Relative luminance of `rgb(r, g, b)` (WCAG 2)."""
    srgb = np.array([int(part) for part in colour.removeprefix("rgb(").rstrip(")").split(",")]) / 255
    return float(np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4) @ (0.2126, 0.7152, 0.0722))


def picture(uri: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))


def vertex_coloured() -> bytes:
    mesh = chair()
    loose = trimesh.Trimesh(mesh.triangles.reshape(-1, 3), np.arange(3 * len(mesh.faces)).reshape(-1, 3), process=False)
    return glb_bytes(Mesh(loose.vertices, loose.faces), mesh.visual.face_colors[:, :3].repeat(3, 0))


def textured() -> bytes:
    """A box under a picture of four plain quarters, moved and turned by a node: whatever can be swapped would show."""
    box = trimesh.creation.box((1.0, 0.6, 0.4))
    loose = box.triangles.reshape(-1, 3)
    # A planar map along X and Y of the box, whose four quarters differ: mirrored or flipped, the colours change places.
    uv = 0.9 * loose[:, [0, 1]] / (1.0, 0.6) + 0.5
    quarters = np.zeros((64, 64, 3), np.uint8)
    for row, column, colour in ((0, 0, (200, 40, 40)), (0, 1, (40, 170, 60)), (1, 0, (50, 70, 200)), (1, 1, (230, 200, 50))):
        quarters[32 * row : 32 * row + 32, 32 * column : 32 * column + 32] = colour
    material = trimesh.visual.material.PBRMaterial(baseColorTexture=Image.fromarray(quarters), metallicFactor=0.0, roughnessFactor=1.0)
    visual = trimesh.visual.TextureVisuals(uv=uv, material=material)
    mesh = trimesh.Trimesh(loose, np.arange(len(loose)).reshape(-1, 3), visual=visual, process=False)
    scene = trimesh.Scene()
    place = trimesh.transformations.rotation_matrix(0.5, (1, 2, 3)) @ trimesh.transformations.translation_matrix((3.0, -1.0, 0.5))
    scene.add_geometry(mesh, transform=place)
    data = scene.export(file_type="glb")
    assert isinstance(data, bytes)
    return data


def seen_by_the_ray_caster(data: bytes, size_px: int) -> tuple[np.ndarray, np.ndarray]:
    """Colours and mask of the mesh from the viewer's first camera, by other code: rays, and trimesh's reading of the file."""
    mesh = load_glb(data)
    centre = mesh.bounds.mean(axis=0)
    distance = 1.05 * ZOOM * float(np.linalg.norm(mesh.vertices - centre, axis=1).max()) / np.sin(np.radians(FOV_DEG / 2))
    camera = orbit([np.degrees(AZIMUTH)], np.degrees(ELEVATION), distance, FOV_DEG)
    camera.c2w[:, :3, 3] += centre
    colours, normals = cast(mesh, camera[0], size_px)
    return colours, (normals != round(BACKGROUND * 255)).any(-1)


@pytest.mark.parametrize("make", [vertex_coloured, textured])
def test_the_viewer_draws_what_a_ray_caster_sees(browser: Browser, tmp_path: Path, make: Any) -> None:
    """Outline and colours, so that axes, handedness, perspective, node transforms, texture rows and colour spaces are all right."""
    data = make()
    (tmp_path / "viewer.html").write_text(page("viewer", element("main", viewer("it", data, "", None))))
    opened(browser, tmp_path / "viewer.html", LAPTOP)
    browser.wait("document.querySelector('canvas').dataset.drawn === 'yes'")
    drawn = pixels(browser)
    size = min(drawn.shape[:2])
    left = (drawn.shape[1] - size) // 2
    square = drawn[:size, left : left + size]
    colours, mask = seen_by_the_ray_caster(data, size)
    there = square[..., 3] > 127
    assert (there & mask).sum() / (there | mask).sum() > 0.97
    inner = trimmed(there & mask)
    # The viewer shades by the angle, the ray caster does not; shading scales the channels alike, so their shares agree.
    gap = np.abs(shares(square[..., :3]) - shares(colours))[inner].mean()
    mirrored = np.abs(shares(square[..., :3]) - shares(colours[:, ::-1]))[inner].mean()
    assert gap < 0.01 and mirrored > 0.05

    browser.click("button[data-mode=normals]")
    settle(browser)
    normals = pixels(browser)
    assert np.abs(normals.astype(int) - drawn).mean() > 3
    browser.drag("canvas", 90, 40)
    settle(browser)
    assert np.abs(pixels(browser).astype(int) - normals).mean() > 3
    assert browser.problems == []


def shares(pixels: np.ndarray) -> np.ndarray:
    """Each channel's share of its pixel's sum."""
    return pixels / np.maximum(pixels.sum(-1, keepdims=True, dtype=float), 1)


def settle(browser: Browser) -> None:
    """Until what was asked for before is drawn: it is done with the next frame."""
    browser.value("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => setTimeout(done, 50))))")


def pixels(browser: Browser) -> np.ndarray:
    return np.asarray(picture(browser.value("document.querySelector('canvas').toDataURL()")).convert("RGBA"))


def trimmed(mask: np.ndarray, by: int = 3) -> np.ndarray:
    """The mask without its border of `by` pixels, where two ways of drawing may differ."""
    for _ in range(by):
        mask = mask & np.roll(mask, 1, 0) & np.roll(mask, -1, 0) & np.roll(mask, 1, 1) & np.roll(mask, -1, 1)
    return mask


def test_a_file_that_cannot_be_drawn_is_told(browser: Browser, tmp_path: Path) -> None:
    (tmp_path / "broken.html").write_text(page("viewer", element("main", viewer("it", b"no mesh at all, but some bytes", "", None))))
    opened(browser, tmp_path / "broken.html", LAPTOP)
    browser.wait("document.querySelector('.hint').textContent.includes('cannot be drawn')")
    assert "not a GLB" in browser.value("document.querySelector('.hint').textContent") and browser.problems == []
