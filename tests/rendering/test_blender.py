"""Real renders. Every expected value is computed here, from the file that was written or from a closed form."""

import base64
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import trimesh
from PIL import Image
from scipy import ndimage

from infra.errors import UserError
from rendering.blender import BlenderLimits, BlenderWorker, Rendered, RenderFailure, RenderRequest, coverage, touches_border
from rendering.cameras import orbit
from rendering.lights import lights_for
from rendering.rigs import RigViews
from rendering.view_set import TARGET, ViewSet
from tests.rendering import glbs

pytestmark = pytest.mark.blender
MATTE = glbs.each_material(KHR_materials_specular={"specularFactor": 0.0})
UNLIT = glbs.each_material(KHR_materials_unlit={})


@pytest.fixture(scope="module")
def worker() -> Iterator[BlenderWorker]:
    with BlenderWorker(BlenderLimits(deadline_s=120)) as running:
        yield running


def views_at(*azimuths: float, elevation: float = 15.0, fov: float = 60.0) -> RigViews:
    count = len(azimuths)
    angles = np.array(azimuths, float), np.full(count, elevation), np.full(count, 1.5)
    return RigViews("test", orbit(*angles, fov), (TARGET,) * count, *angles)


def request(mesh: Path, views: RigViews | None = None, **options) -> RenderRequest:
    settings = {"resolution": 48, "samples": 4, "denoise": "none", **options}
    return RenderRequest(mesh.stem, mesh, views or views_at(0, 100), **settings)


def rendered(worker: BlenderWorker, *args, **options) -> ViewSet:
    result = worker.render(request(*args, **options))
    assert isinstance(result, Rendered), result
    return result.views


def failure(worker: BlenderWorker, mesh: Path) -> RenderFailure:
    result = worker.render(request(mesh))
    assert isinstance(result, RenderFailure), "this file must not render"
    return result


@pytest.mark.parametrize(
    ("albedo", "light", "level"),
    [(1.0, "white", 255), (0.5, "white", 188), (1.0, "syncdreamer", 188), (0.2, "white", 124)],
)
def test_levels_of_a_diffuse_sphere(worker, tmp_path, albedo, light, level):
    sphere = glbs.coloured(trimesh.creation.icosphere(4), [albedo] * 3)
    views = rendered(worker, glbs.write(tmp_path / "sphere.glb", sphere, edit=MATTE), samples=16, lights=lights_for(light, "u"))
    solid = views.rgba[views.rgba[..., 3] == 255][:, :3].astype(int)
    assert len(solid) > 500
    assert np.abs(solid - level).max() <= 1


def test_alpha_is_straight_and_colour_is_nothing_where_alpha_is_zero(worker, tmp_path):
    sphere = glbs.write(tmp_path / "sphere.glb", glbs.coloured(trimesh.creation.icosphere(4), [0.5, 0.2, 0.8]), edit=UNLIT)
    plain = rendered(worker, sphere, samples=16).rgba
    smooth = rendered(worker, sphere, samples=16, denoise="balanced").rgba
    np.testing.assert_array_equal(plain[..., 3], smooth[..., 3])  # the denoiser never touches alpha
    for rgba, tolerance in ((plain, 1), (smooth, 15)):
        alpha = rgba[..., 3]
        core = np.median(rgba[alpha == 255][:, :3], axis=0)
        edge = rgba[(alpha > 60) & (alpha < 200)][:, :3].astype(float)
        assert len(edge) > 20
        assert np.abs(edge - core).mean() <= tolerance  # premultiplied colour would be darker by half
        assert (rgba[alpha == 0] == 0).all()


def test_an_object_is_centred_scaled_and_returned_in_the_frame_of_its_views(worker, tmp_path):
    cone = trimesh.creation.cone(radius=30.0, height=80.0).apply_translation([1000.0, -500.0, 20.0])
    views = rendered(worker, glbs.write(tmp_path / "cone.glb", glbs.coloured(cone, [0.1, 0.1, 0.1])), want_mesh=True)
    assert views.mesh is not None
    low, high = views.mesh.vertices.min(0), views.mesh.vertices.max(0)
    np.testing.assert_allclose(low + high, 0, atol=1e-3)
    np.testing.assert_allclose(np.sort(high - low), [0.75, 0.75, 1.0], atol=0.01)
    assert np.argmax(high - low) == 1  # glTF z is Blender -y
    for index, rgba in enumerate(views.rgba):
        image, _ = views.camera[index].project(views.mesh.vertices)
        hull = trimesh.convex.ConvexHull(image * 48)
        pixels = np.mgrid[:48, :48].reshape(2, -1).T[:, ::-1] + 0.5
        inside = (pixels @ hull.equations[:, :2].T + hull.equations[:, 2] <= 0).all(1).reshape(48, 48)
        assert np.abs(inside - rgba[..., 3] / 255.0).mean() < 0.02


def test_lights_and_cameras_of_the_file_change_nothing(worker, tmp_path):
    ball = glbs.coloured(trimesh.creation.icosphere(2).apply_translation([0.2, 0.1, 0]), [0.5, 0.5, 0.5])

    def add_lamp(description: dict) -> None:
        """The mesh becomes the child of a red lamp, and a camera stands beside it."""
        description.setdefault("extensionsUsed", []).append("KHR_lights_punctual")
        description["extensions"] = {"KHR_lights_punctual": {"lights": [{"type": "point", "intensity": 5000.0, "color": [1, 0, 0]}]}}
        description["cameras"] = [{"type": "perspective", "perspective": {"yfov": 0.3, "znear": 0.1}}]
        description["nodes"] += [
            {"name": "lamp", "translation": [3.0, 4.0, 0.0], "extensions": {"KHR_lights_punctual": {"light": 0}}, "children": []},
            {"name": "Camera", "camera": 0, "translation": [9.0, 9.0, 9.0]},
            {"name": "below", "translation": [-1.0, -2.0, -3.0], "children": list(description["scenes"][0]["nodes"])},
        ]
        lamp = len(description["nodes"]) - 3
        description["nodes"][lamp]["children"] = [lamp + 2]
        description["scenes"][0]["nodes"] = [lamp, lamp + 1]

    plain = rendered(worker, glbs.write(tmp_path / "plain.glb", ball), want_mesh=True)
    lit = rendered(worker, glbs.write(tmp_path / "lit.glb", ball, edit=add_lamp), want_mesh=True)
    # At the rim a ray more or less may hit: the chain of parents moves vertices by the last bit of a float.
    inside = (plain.rgba[..., 3] == 255) & (lit.rgba[..., 3] == 255)
    assert inside.sum() > 500
    assert np.abs(plain.rgba.astype(int) - lit.rgba)[inside].max() <= 8  # the lamp, left on, adds over 80
    np.testing.assert_allclose(plain.mesh.vertices, lit.mesh.vertices, atol=1e-5)


def test_an_object_never_wears_the_textures_of_those_before_it(worker, tmp_path):
    """Cycles' kept data once confused images whose addresses were reused; a fresh child is the oracle."""
    files = []
    for number in range(6):
        noise = np.random.default_rng(number).integers(0, 256, (4 << number % 3, 4 << number % 3, 3), dtype=np.uint8)
        picture = Image.fromarray(noise).resize((256, 256), Image.Resampling.NEAREST)
        files.append(glbs.write(tmp_path / f"box{number}.glb", glbs.textured_box(picture)))
    among_others = [rendered(worker, file) for file in files + files]
    for number in (1, 4):
        with BlenderWorker() as alone:
            fresh = rendered(alone, files[number])
        np.testing.assert_array_equal(fresh.rgba, among_others[number].rgba)
        np.testing.assert_array_equal(fresh.rgba, among_others[number + 6].rgba)


def test_settings_of_one_request_do_not_stick_to_the_next(worker, tmp_path):
    mesh = glbs.toy(tmp_path / "toy.glb", 3)
    before = rendered(worker, mesh)
    rendered(worker, mesh, samples=1, lights=lights_for("syncdreamer", "u"), resolution=20, denoise="balanced")
    np.testing.assert_array_equal(before.rgba, rendered(worker, mesh).rgba)


def no_scene(description: dict) -> None:
    description["nodes"] = [{"name": "nothing"}]
    description["scenes"] = [{"nodes": [0]}]


def endless(description: dict) -> None:
    description["nodes"] += [{"scale": [1e30] * 3, "children": list(description["scenes"][0]["nodes"])}]
    description["nodes"] += [{"scale": [1e30] * 3, "children": [len(description["nodes"]) - 1]}]
    description["scenes"][0]["nodes"] = [len(description["nodes"]) - 1]


def needs_ktx2(description: dict) -> None:
    description["extensionsUsed"] = description["extensionsRequired"] = ["KHR_texture_basisu"]


def lost_picture(description: dict) -> None:
    description["images"] = [{"uri": "not-there.png"}]
    description["textures"] = [{"source": 0}]
    description["materials"][0]["pbrMetallicRoughness"]["baseColorTexture"] = {"index": 0}


def test_files_that_cannot_be_rendered_say_why_and_harm_nobody(worker, tmp_path):
    box = glbs.coloured(trimesh.creation.box((1, 1, 1)), [0.3, 0.3, 0.3])
    point = box.copy()
    point.vertices[:] = 0.25
    garbage = tmp_path / "garbage.glb"
    garbage.write_bytes(b"glTF" + bytes(range(100)))
    truncated = tmp_path / "truncated.glb"
    truncated.write_bytes(glbs.write(tmp_path / "whole.glb", box).read_bytes()[:-200])
    pid = worker.pid
    assert failure(worker, glbs.write(tmp_path / "empty.glb", box, edit=no_scene)).reason == "no_mesh"
    ktx2 = failure(worker, glbs.write(tmp_path / "ktx2.glb", box, edit=needs_ktx2))
    assert ktx2.reason == "unsupported_extension" and "KHR_texture_basisu" in ktx2.detail and ktx2.attempts == 1
    assert failure(worker, glbs.write(tmp_path / "lost.glb", box, edit=lost_picture)).reason == "missing_resource"
    assert failure(worker, glbs.write(tmp_path / "point.glb", point)).reason == "zero_extent"
    assert failure(worker, glbs.write(tmp_path / "endless.glb", box, edit=endless)).reason == "non_finite"
    assert failure(worker, garbage).reason == "unsupported_version"
    assert failure(worker, truncated).reason == "truncated"
    assert failure(worker, tmp_path / "absent.glb").reason == "unreadable"
    rendered(worker, tmp_path / "whole.glb")
    assert worker.pid == pid or pid is None


def test_a_text_gltf_with_an_embedded_buffer_renders(worker, tmp_path):
    positions = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0]], np.float32).tobytes()
    document = {
        "asset": {"version": "2.0"},
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0}],
        "meshes": [{"primitives": [{"attributes": {"POSITION": 0}}]}],
        "accessors": [{"bufferView": 0, "componentType": 5126, "count": 3, "type": "VEC3", "min": [0, 0, 0], "max": [1, 1, 0]}],
        "bufferViews": [{"buffer": 0, "byteLength": 36}],
        "buffers": [{"byteLength": 36, "uri": "data:application/octet-stream;base64," + base64.b64encode(positions).decode()}],
    }
    (tmp_path / "triangle.gltf").write_text(json.dumps(document))
    views = rendered(worker, tmp_path / "triangle.gltf", views_at(0, 90, elevation=0))
    assert views.facts["coverage"][0] > 0.02 and views.facts["coverage"][1] < 0.001  # edge-on is legally empty


def test_border_and_coverage_flags(worker, tmp_path):
    cube = glbs.write(tmp_path / "cube.glb", glbs.coloured(trimesh.creation.box((1, 1, 1)), [0.5] * 3))
    views = rendered(worker, cube, views_at(45, elevation=40, fov=42.0))
    assert views.facts["clipped"] == [True]
    assert rendered(worker, cube, views_at(0, elevation=0)).facts["clipped"] == [False]
    rgba = np.zeros((2, 4, 4, 4), np.uint8)
    rgba[0, 1:3, 1:3, 3], rgba[1, :, 0, 3] = 255, 255
    np.testing.assert_allclose(coverage(rgba), [0.25, 0.25])
    assert touches_border(rgba).tolist() == [False, True]


def test_a_hung_child_is_replaced_and_the_next_object_renders(tmp_path):
    mesh = glbs.toy(tmp_path / "toy.glb", 1)
    with BlenderWorker(BlenderLimits(attempts=1)) as worker:
        first = rendered(worker, mesh)
        hung = worker.pid
        os.kill(hung, signal.SIGSTOP)
        result = worker.render(request(mesh), deadline_s=0.5)
        assert isinstance(result, RenderFailure) and result.reason == "timeout"
        assert not Path(f"/proc/{hung}").exists()
        np.testing.assert_array_equal(first.rgba, rendered(worker, mesh).rgba)


def test_a_crash_is_named_and_tried_again_in_a_fresh_child(tmp_path):
    mesh = glbs.toy(tmp_path / "toy.glb", 1)
    with BlenderWorker(BlenderLimits(attempts=1)) as once:
        rendered(once, mesh)
        os.kill(once.pid, signal.SIGSEGV)
        result = once.render(request(mesh))
        assert isinstance(result, RenderFailure) and result.reason == "crash:SIGSEGV"
    with BlenderWorker(BlenderLimits(attempts=2)) as twice:
        rendered(twice, mesh)
        os.kill(twice.pid, signal.SIGKILL)
        result = twice.render(request(mesh))
        assert isinstance(result, Rendered) and result.attempts == 2


def test_a_child_is_recycled_and_leaves_nothing_behind(tmp_path):
    mesh = glbs.toy(tmp_path / "toy.glb", 1)
    with BlenderWorker(BlenderLimits(recycle_objects=2)) as worker:
        scratch = worker._scratch
        rendered(worker, mesh)
        pid = worker.pid
        rendered(worker, mesh)
        assert worker.pid is None and not Path(f"/proc/{pid}").exists()
        assert not list(scratch.root.rglob("object-*"))
    assert not scratch.root.exists()


def test_too_little_memory_is_a_failure_with_a_reason(tmp_path):
    big = trimesh.creation.icosphere(7)  # 330,000 triangles
    mesh = glbs.write(tmp_path / "big.glb", glbs.coloured(big, [0.5] * 3))
    with BlenderWorker(BlenderLimits(attempts=1, address_space_mb=1150, deadline_s=60)) as worker:
        result = worker.render(request(mesh))
    assert isinstance(result, RenderFailure)
    assert result.reason.partition(":")[0] in ("out_of_memory", "crash", "render_failed", "import_failed"), result


def test_the_child_dies_with_its_parent(tmp_path):
    script = (
        "import os, signal; from pathlib import Path; from rendering.blender import *; from tests.rendering.test_blender import *\n"
        f"w = BlenderWorker(); rendered(w, Path({str(glbs.toy(tmp_path / 'toy.glb', 1))!r})); print(os.getpid(), w.pid, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    parent = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": os.getcwd()})
    assert parent.returncode == -signal.SIGKILL, parent.stderr
    parent_pid, child_pid = parent.stdout.split()
    child = Path(f"/proc/{child_pid}")
    for _ in range(100):
        if not child.exists() or "\nState:\tZ" in (child / "status").read_text():
            break
        time.sleep(0.1)
    else:
        pytest.fail("the child outlived its parent")
    with BlenderWorker() as worker:  # starting one sweeps the scratch folders of the dead
        owners = [folder.name.split("-")[2] for folder in worker._scratch.root.parent.glob("mvforge-blender-*")]
        assert parent_pid not in owners and str(os.getpid()) in owners


@pytest.mark.parametrize(("text", "mend"), [("libXi.so.6: cannot open shared object file", "libxi6"), ("No module named 'bpy'", "3.11")])
def test_without_bpy_the_message_says_what_to_install(tmp_path, monkeypatch, text, mend):
    (tmp_path / "bpy.py").write_text(f"raise ImportError({text!r})")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with BlenderWorker() as worker, pytest.raises(UserError, match=mend):
        worker.render(request(glbs.toy(tmp_path / "toy.glb", 1)))


def test_real_files_render_whole(worker, assets):
    """The skinned lumberjack comes apart into shards under the importer's defaults; so its silhouette must be one piece."""
    lumberjack = rendered(worker, assets / "lumberjack_skinned.glb", views_at(0, 90, 180, 270), resolution=96, want_mesh=True)
    for rgba in lumberjack.rgba:
        sizes = np.bincount(ndimage.label(rgba[..., 3] > 64)[0].ravel())[1:]
        assert sizes.max() > 0.98 * sizes.sum()
    assert lumberjack.mesh is not None
    edges = lumberjack.mesh.vertices[lumberjack.mesh.faces] - lumberjack.mesh.vertices[np.roll(lumberjack.mesh.faces, 1, axis=1)]
    assert np.percentile(np.linalg.norm(edges, axis=-1), 99.5) < 0.25  # shards have edges as long as the object
    assert lumberjack.facts["actions"] == ["Walk"]


def test_ktx2_is_a_recorded_failure(worker, assets):
    result = failure(worker, assets / "agi_ktx2.glb")
    assert result.reason == "unsupported_extension" and "KHR_texture_basisu" in result.detail


def test_a_white_truck_is_white(worker, assets):
    views = rendered(worker, assets / "milk_truck.glb", views_at(0, 90, elevation=10), resolution=96, samples=16)
    solid = views.rgba[views.rgba[..., 3] == 255][:, :3]
    assert (solid.min(-1) >= 250).mean() > 0.2  # under the factory's AgX transform no pixel of it is
