"""The generator: valid, closed, textured, deterministic, varied objects whose front is not their back."""

import colorsys
import hashlib
import io
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import trimesh
from skimage.metrics import peak_signal_noise_ratio

from infra.errors import UserError
from infra.seeds import rng_for
from rendering.blender import BlenderWorker, Rendered, RenderRequest
from rendering.cameras import orbit
from rendering.glb_header import check_file
from rendering.licences import licence_in_file
from rendering.rigs import RigViews
from rendering.sources import procedural
from rendering.sources.base import FetchError
from rendering.sources.shapes.draw import Draw
from rendering.sources.shapes.families import FAMILIES
from rendering.sources.shapes.glb import crease_normals, write_glb
from rendering.sources.shapes.paint import FACES, WIDTH_PX, Paint
from rendering.sources.shapes.parts import Part, ball, box, lathe, rod, slab, tube, wedge
from rendering.view_set import on_white

ROOT = Path(__file__).resolve().parents[2]
GREY = Paint((0.5, 0.5, 0.5), (0.2, 0.2, 0.2))


def solid(part: Part) -> trimesh.Trimesh:
    """The part as trimesh sees it, corners at equal positions joined."""
    mesh = trimesh.Trimesh(part.vertices.round(4), part.faces, process=True)
    mesh.merge_vertices(merge_tex=True, merge_norm=True)
    return mesh


def loaded(data: bytes) -> trimesh.Trimesh:
    return trimesh.load(io.BytesIO(data), file_type="glb").to_geometry()


SLOPE = np.column_stack([np.linspace(0, 1, 9), np.linspace(0, 1, 9), np.zeros(9)])


@pytest.mark.parametrize(
    ("part", "volume"),
    [
        (box(2, 3, 4, GREY), 24.0),
        (box(2, 3, 2, GREY, top=0.5), 3 / 3 * (4 + 1 + 2)),  # frustum: h/3 (A + a + sqrt(A a))
        (slab(2, 0.5, 1, GREY), 1.0),
        (rod(1.0, 2.0, GREY, segments=6), 2.0 * 6 / 2 * np.sin(np.radians(60))),
        (ball(1.0, GREY, segments=64, rows=48), 4 / 3 * np.pi),
        (lathe([(1.0, 0.0), (1.0, 2.0), (0.5, 2.0), (0.5, 1.0)], GREY, 4), 2.0 * 2.0 - 0.5 * 1.0),
        (tube(SLOPE, 0.1, GREY, segments=64), np.pi * 0.01 * np.sqrt(2)),
        (wedge([(-1, 0), (1, 0), (0, 1)], 3.0, GREY), 3.0),
        (wedge([(0, 1), (1, 0), (-1, 0)], 3.0, GREY), 3.0),
    ],
)
def test_every_primitive_is_closed_outward_and_of_the_right_volume(part, volume):
    mesh = solid(part)
    assert mesh.is_watertight and mesh.is_winding_consistent
    assert mesh.volume == pytest.approx(volume, rel=0.01)
    for turned in (part.rotated("x", 30), part.rotated("y", 130).moved(1, 2, 3), part.rotated("z", -70)):
        assert solid(turned).volume == pytest.approx(volume, rel=0.01)


def test_rotations_are_right_handed():
    x, y, z = np.eye(3)
    corner = Part(np.eye(3), np.zeros((3, 2)), np.array([[0, 1, 2]]), GREY)
    np.testing.assert_allclose(corner.rotated("y", 90).vertices, [-z, y, x], atol=1e-12)
    np.testing.assert_allclose(corner.rotated("x", 90).vertices, [x, z, -y], atol=1e-12)
    np.testing.assert_allclose(corner.rotated("z", 90).vertices, [y, -x, z], atol=1e-12)


@pytest.mark.parametrize("part", [box(1, 1, 1, GREY), wedge([(-0.5, 0), (0.5, 0), (0.5, 1), (-0.5, 1)], 1.0, GREY)], ids=["box", "wedge"])
def test_each_side_of_a_box_shows_its_own_face_of_the_picture(part):
    mesh = solid(part)
    normals = np.cross(*(part.vertices[part.faces[:, i]] - part.vertices[part.faces[:, 0]] for i in (1, 2)))
    middle = part.uv[part.faces].mean(1)[:, 0]
    for face, direction in {"front": [0, 0, 1], "back": [0, 0, -1], "left": [-1, 0, 0], "right": [1, 0, 0]}.items():
        looks = normals @ np.array(direction) > 0.5
        assert looks.sum() == 2 and np.all((middle[looks] > FACES[face]) & (middle[looks] < FACES[face] + 0.25)), face
    assert mesh.volume == pytest.approx(1.0)


def test_pictures_are_not_mirrored():
    """A mark on the right of the front face must lie at +X, which is on the right of somebody looking at the front."""
    part = box(1, 1, 1, Paint((1, 1, 1), (1, 1, 1)).patch("front", 0.6, 0.6, 1.0, 1.0, (1, 0, 0)))
    picture = part.paint.pixels()
    v, u = np.argwhere((picture == [255, 0, 0]).all(-1)).mean(0)
    u, v = (u + 0.5) / WIDTH_PX, 1 - (v + 0.5) / len(picture)
    on_front = np.flatnonzero(np.isclose(part.vertices[:, 2], 0.5))
    at = {
        name: on_front[np.isclose(part.vertices[on_front, 0], x) & np.isclose(part.vertices[on_front, 1], y)]
        for name, x, y in (("right top", 0.5, 1.0), ("left top", -0.5, 1.0), ("right foot", 0.5, 0.0))
    }
    distance = {name: np.min(np.hypot(*(part.uv[rows] - [u, v]).T)) for name, rows in at.items()}
    assert distance["right top"] == min(distance.values())


def test_normals_are_sharp_on_a_box_and_radial_on_a_ball():
    part = box(1, 2, 3, GREY)
    _, normals = crease_normals(part.vertices.round(4), part.faces)
    np.testing.assert_allclose(np.abs(normals).max(1), 1.0, atol=1e-9)
    sphere = ball(1.0, GREY, segments=48, rows=32)
    index, normals = crease_normals(sphere.vertices.round(4), sphere.faces)
    assert np.min(np.einsum("ij,ij->i", normals, sphere.vertices[index])) > 0.99


@pytest.mark.parametrize("family", FAMILIES)
def test_objects_of_every_family_are_valid_closed_and_textured(tmp_path, family):
    for index in range(4):
        data = procedural.make_glb(f"procedural://{procedural.VERSION}/{family}/7/{index}")
        (tmp_path / "x.glb").write_bytes(data)
        document = check_file(tmp_path / "x.glb")
        assert licence_in_file(document)[0] == "CC0-1.0"
        mesh = loaded(data)
        assert mesh.visual.material.baseColorTexture.size[0] == WIDTH_PX
        assert 0 <= mesh.visual.uv.min() and mesh.visual.uv.max() <= 1 and len(mesh.faces) > 40
        assert mesh.extents.min() > 0.2 * mesh.extents.max()
        lengths = np.linalg.norm(mesh.vertex_normals, axis=1)
        np.testing.assert_allclose(lengths, 1.0, atol=1e-3)
        for part in FAMILIES[family](Draw(rng_for("closed", family, index))):
            mesh = solid(part)
            assert mesh.is_watertight and mesh.is_winding_consistent and mesh.volume > 0


def test_files_are_the_same_in_every_process():
    uris = [ref.uri for ref in procedural.list_objects(len(FAMILIES), 3)]
    imports = "import hashlib\nfrom rendering.sources.procedural import make_glb\n"
    code = f"{imports}for uri in {uris!r}: print(hashlib.sha256(make_glb(uri)).hexdigest())"
    mine = [hashlib.sha256(procedural.make_glb(uri)).hexdigest() for uri in uris]
    for hash_seed in ("1", "2"):
        run = subprocess.run(
            [sys.executable, "-c", code],
            cwd=ROOT,
            env={"PYTHONPATH": str(ROOT), "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        )
        assert run.stdout.split() == mine


def test_many_objects_are_distinct():
    refs = procedural.list_objects(1200, 0)
    assert len({ref.group for ref in refs}) == len({ref.uid for ref in refs}) == 1200
    assert set(Counter(ref.category for ref in refs)) == set(FAMILIES) and len(FAMILIES) >= 8
    shapes = {hashlib.sha256(procedural.make_glb(ref.uri)).hexdigest() for ref in refs[:60]}
    assert len(shapes) == 60


def test_another_seed_gives_other_objects_and_families_can_be_chosen():
    first, second = procedural.list_objects(6, 0, ("mug", "car")), procedural.list_objects(6, 1, ("mug", "car"))
    assert [ref.category for ref in first] == ["mug", "car"] * 3
    assert not {ref.group for ref in first} & {ref.group for ref in second}


def test_harmonious_objects_have_the_same_shapes_in_shades_of_one_hue():
    plain, calm = procedural.list_objects(30, 0), procedural.list_objects(30, 0, (), "harmonious")
    assert not {ref.group for ref in plain} & {ref.group for ref in calm} and not {ref.uid for ref in plain} & {ref.uid for ref in calm}
    for one, other in zip(plain, calm, strict=True):
        np.testing.assert_array_equal(loaded(procedural.make_glb(one.uri)).vertices, loaded(procedural.make_glb(other.uri)).vertices)
    for index in range(40):
        palette = Draw(np.random.default_rng(index), "harmonious").palette()
        hues = [colorsys.rgb_to_hsv(*colour)[0] for colour in (palette.front, palette.back, palette.accent, palette.trim)]
        assert max(abs((hue - hues[0] + 0.5) % 1 - 0.5) for hue in hues) < 0.06
    with pytest.raises(UserError, match="unknown procedural colours 'grey'"):
        procedural.list_objects(1, 0, (), "grey")
    with pytest.raises(FetchError):
        procedural.make_glb("procedural://1/vase/0/0/grey")


def test_equal_parameters_share_a_group_and_a_parameter_is_drawn_once():
    draws = [Draw(np.random.default_rng(5)) for _ in range(2)]
    files = [write_glb(FAMILIES["vase"](draw), "vase") for draw in draws]
    assert draws[0].digest() == draws[1].digest() and files[0] == files[1]
    with pytest.raises(ValueError, match="drawn twice"):
        draws[0].whole("hue", 0, 3)


def test_a_file_of_another_generator_version_is_refused():
    with pytest.raises(FetchError) as caught:
        procedural.make_glb("procedural://999/vase/0/0")
    assert caught.value.reason == "unknown_generator"


@pytest.mark.blender
def test_front_and_back_differ_and_no_two_objects_look_alike(tmp_path):
    """On 100 objects rendered by Blender from the front and from behind."""
    azimuth_deg, elevation_deg = np.array([0.0, 180.0]), np.zeros(2)
    cameras = RigViews(
        "front and back", orbit(azimuth_deg, elevation_deg, 1.5, 60.0), ("target",) * 2, azimuth_deg, elevation_deg, np.full(2, 1.5)
    )
    fronts, front_back_db = [], []
    with BlenderWorker() as blender:
        for ref in procedural.list_objects(100, 0):
            path = tmp_path / f"{ref.uid}.glb"
            path.write_bytes(procedural.make_glb(ref.uri))
            result = blender.render(RenderRequest(ref.uid, path, cameras, resolution=32, samples=4, denoise="none"))
            assert isinstance(result, Rendered), result
            views = on_white(result.views.rgba)
            seen = (result.views.rgba[..., 3] > 127).any(0)
            fronts.append(views[0])
            front_back_db.append(peak_signal_noise_ratio(views[0][seen], views[1][seen], data_range=1.0))
    assert np.mean(np.array(front_back_db) < 22) >= 0.9
    alike_db = max(peak_signal_noise_ratio(fronts[i], fronts[j], data_range=1.0) for i in range(100) for j in range(i))
    assert alike_db < 35
