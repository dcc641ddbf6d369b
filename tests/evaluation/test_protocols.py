"""Named protocols: what they hold, which views they score, how they fit fields of view, and the objects that a user fetched."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import trimesh
from PIL import Image

from evaluation.metrics.image import psnr
from evaluation.metrics.learned import LearnedMetrics
from evaluation.protocols import PROTOCOLS, protocol_named
from evaluation.protocols.base import EXCLUDED, Protocol, evaluation_set_of
from evaluation.protocols.coverage import Seen, coverage, drawn_views
from evaluation.protocols.framing import framing_scale, refit
from evaluation.protocols.objects import import_objects
from evaluation.protocols.refit_folder import refit_folder
from evaluation.score import ScoreConfig
from evaluation.score_pictures import comparison_of, picture_figures
from infra.errors import UserError
from rendering.cameras import Camera, orbit
from rendering.gso30 import FOV_DEG, NAMES, input_azimuth_deg, object_name, sparse_views
from rendering.gso30 import drawn_views as frozen_draw
from rendering.rigs import RIGS, RigConfig, RigViews
from rendering.view_set import CONDITION, TARGET, ViewSet, on_white
from tests.evaluation.shapes import colored_box, photograph

BOX = colored_box((0.7, 0.5, 0.6))


def views_of(rig: RigViews, uid: str, size_px: int, fov_deg: float | None = None) -> ViewSet:
    camera = rig.camera if fov_deg is None else orbit(rig.azimuth_deg, rig.elevation_deg, rig.radius, fov_deg)
    rgba = photograph(BOX, camera, size_px)
    return ViewSet(uid, rgba, camera, rig.roles, rig.azimuth_deg, rig.elevation_deg, rig.radius, rig.name, "raycast")


def generated_ring(truth: ViewSet, elevations, fov_deg: float, size_px: int) -> ViewSet:
    """Perfect views at 45 degrees steps in the frame where the input has azimuth 0."""
    elevation, azimuth = (grid.ravel() for grid in np.meshgrid(elevations, np.arange(8) * 45.0, indexing="ij"))
    here = orbit(azimuth + truth.azimuth_deg[-1], elevation, 1.5, fov_deg)
    camera = orbit(azimuth, elevation, 1.5, fov_deg)
    radius = np.full(len(azimuth), 1.5)
    return ViewSet(truth.uid, photograph(BOX, here, size_px), camera, (TARGET,) * len(azimuth), azimuth, elevation, radius, "x", "y")


# What a protocol is


def test_unknown_names_are_refused_with_the_nearest():
    with pytest.raises(UserError, match="unknown protocol 'syncdreamer'") as error:
        protocol_named("syncdreamer")
    assert "did you mean 'syncdreamer-gso30'" in error.value.mend
    with pytest.raises(UserError, match="unknown protocol 'gso'"):
        ScoreConfig(protocol="gso")


def test_names_tell_every_number_that_differs():
    assert Protocol().name == "default" and ScoreConfig().resolved().name == "default"
    assert ScoreConfig(points=100_000).resolved().name == "default"
    assert ScoreConfig(points=2000, seed=3).resolved().name == "default(points=2000, seed=3)"
    assert ScoreConfig(protocol="syncdreamer-gso30", points=2000).resolved().name == "syncdreamer-gso30(points=2000)"
    assert ScoreConfig(protocol="syncdreamer-gso30", volume_resolution=64).resolved().name == "syncdreamer-gso30"


def test_protocols_are_told_in_full_and_no_two_make_comparable_sets():
    texts = {name: json.dumps(one.described(), sort_keys=True) for name, one in PROTOCOLS.items()}
    assert len({evaluation_set_of(one.described(), {}) for one in PROTOCOLS.values()}) == len(PROTOCOLS) == 4
    for words in ("64", "eval_mesh.py", "mario 270", "0.7918", "voxel of 0.01", "stucking_cups", "input views are included", "[-1, 1]^3"):
        assert words in texts["syncdreamer-gso30"], words
    assert (
        "gso30_sparse_views.json" in texts["mvdiffusionpp-sparse"] and '"condition_counts": [1, 2, 4, 10]' in texts["mvdiffusionpp-sparse"]
    )
    assert "input views are excluded" in texts["instant3d-gso64"] and "1030 objects" in texts["instant3d-gso64"]
    for one in PROTOCOLS.values():  # what the published columns are compared with is measured
        assert set(one.published.values()) <= set(one.metric_names())


def test_every_field_that_changes_a_figure_changes_the_evaluation_set():
    first = evaluation_set_of(Protocol().described(), {"a": "1"})
    for change in (
        {"picture_px": 64},
        {"fits_fov": True},
        {"input_views": "included"},
        {"volume_box": (-1.0, 1.0)},
        {"draws": 3, "scored_views": "3"},
    ):
        assert evaluation_set_of(replace(Protocol(), **change).described(), {"a": "1"}) != first
    assert evaluation_set_of(Protocol().described(), {"a": "2"}) != first


# GSO-30: names, angles, frozen views


def test_the_list_and_its_azimuth_table():
    """Angles as `get_gt_rotate_angle` gives them; a camera on +X there is our azimuth 90."""
    assert len(NAMES) == len(set(NAMES)) == 30 and list(NAMES) == sorted(NAMES)
    their_angles = {"sofa": -90, "blocks": 270, "oil": 270, "elephant": 180, "turtle": 225, "sorter": 112.5, "teapot": 0}
    for name, angle in their_angles.items():
        assert input_azimuth_deg(name) == pytest.approx((angle + 90) % 360)
        # Their frame: the mesh turned by minus the angle about Z, seen from a camera on +X at elevation 30.
        turn = trimesh.transformations.rotation_matrix(-np.radians(angle), (0, 0, 1))[:3, :3]
        place = turn @ RIGS["gso30"](name, RigConfig()).camera.position[0]
        np.testing.assert_allclose(place, 1.5 * np.array([np.cos(np.radians(30)), 0, np.sin(np.radians(30))]), atol=1e-9)
    assert (object_name("shoe-0123abcd"), object_name("shoe3"), object_name("shoes"), object_name("shoe-x")) == (
        "shoe",
        "shoe3",
        None,
        None,
    )


def test_gso30_counts_its_views_from_the_input():
    rig = RIGS["gso30"]("sorter-00000000", RigConfig())
    assert rig.roles == (TARGET,) * 16 + (CONDITION,)
    np.testing.assert_allclose((rig.azimuth_deg[:16] - rig.azimuth_deg[16]) % 360, np.arange(16) * 22.5)
    assert set(rig.elevation_deg) == {30.0} and rig.camera.intrinsics[0, 0] * 256 == pytest.approx(280.0)  # camera-16.pkl: 280 px of 256


def test_sparse_views_are_frozen_and_targets_stand_relative_to_the_first():
    views = {name: np.array(sparse_views(name)) for name in NAMES}
    stacked = np.stack(list(views.values()))
    assert stacked.shape == (30, 10, 3) and len(np.unique(stacked[..., 0])) == 300
    for column, (low, high) in enumerate(((0, 360), (-10, 45), (1.5, 2.2))):
        assert low <= stacked[..., column].min() and stacked[..., column].max() <= high
        assert np.ptp(stacked[..., column]) > 0.95 * (high - low)
    assert sparse_views("alarm")[0] == [338.5267, 14.3952, 2.1484]  # as committed
    assert sparse_views("alarm-01234567", seed=5) == sparse_views("alarm") and sparse_views("mine", 1) == frozen_draw(1, "mine")
    rig = RIGS["gso30_sparse"]("alarm", RigConfig())
    np.testing.assert_allclose((rig.azimuth_deg[:8] - 338.5267) % 360, np.arange(8) * 45.0, atol=1e-9)
    assert len(rig) == 42 and rig.roles.count(TARGET) == 32


# Fields of view


def test_trap_t2_is_the_published_number():
    assert framing_scale(60.0, FOV_DEG) == pytest.approx(0.7918, abs=5e-5)
    assert framing_scale(60.0, FOV_DEG) * 512 == pytest.approx(405.4, abs=0.05)


@pytest.mark.parametrize(("made_with", "wanted"), [(60.0, FOV_DEG), (FOV_DEG, 60.0)])
def test_refitted_pictures_are_those_of_the_other_lens(made_with, wanted):
    """Against the same object seen through the other lens by a ray caster; a lens 3 degrees off is clearly worse."""
    cameras = [orbit(30.0, 30.0, 1.5, fov)[None] for fov in (made_with, wanted, wanted - 3.0)]
    made, truth, near = (photograph(BOX, Camera(one.c2w.reshape(1, 4, 4), one.intrinsics.reshape(1, 4)), 96)[0] for one in cameras)
    fitted = refit(made, framing_scale(made_with, wanted), 96)
    right, wrong = psnr(on_white(truth), on_white(fitted)), psnr(on_white(near), on_white(fitted))
    assert right > 27 and right > wrong + 6


def test_refit_leaves_no_colour_behind_and_refuses_other_shapes():
    picture = np.zeros((20, 20, 4), np.uint8)
    picture[6:14, 6:14] = (200, 10, 90, 255)
    wider = refit(picture, 1.6, 40)
    assert (wider[wider[..., 3] == 0] == 0).all() and (wider[0] == 0).all()
    inside = wider[..., 3] == 255
    assert inside.any() and np.abs(wider[inside][:, :3].astype(int) - (200, 10, 90)).max() <= 1
    # Half-covered pixels keep the colour: premultiplied before, divided after.
    edge = (wider[..., 3] > 60) & ~inside
    assert np.abs(wider[edge][:, :3].astype(int) - (200, 10, 90)).max() <= 3
    assert refit(picture, 1.0, 20) is picture
    with pytest.raises(ValueError, match="square"):
        refit(picture[:, :10], 1.0, 20)


def test_refit_folder(tmp_path):
    (tmp_path / "in").mkdir()
    Image.fromarray(np.full((32, 32, 4), 255, np.uint8)).save(tmp_path / "in" / "000.png")
    result = refit_folder(tmp_path / "in", FOV_DEG, 60.0, tmp_path / "out", 64)
    alpha = np.asarray(Image.open(tmp_path / "out" / "000.png"))[..., 3]
    assert result["completed"] == 1 and np.count_nonzero(alpha[32] > 127) == pytest.approx(64 * 0.7918, abs=1)
    with pytest.raises(UserError, match="field of view of 0"):
        refit_folder(tmp_path / "in", 0.0, 60.0, tmp_path / "out")


# Which views are scored


def compared(truth: ViewSet, made: ViewSet, protocol: Protocol):
    rendered = truth.turned(-float(truth.azimuth_deg[-1]))
    return comparison_of(rendered.with_role(TARGET), made, rendered.with_role(CONDITION), protocol)


def test_syncdreamer_scores_the_eight_of_mvdiffusionpp_with_the_input_among_them():
    """32 views at fov 60 against 16 true ones at 49.13: the ring of elevation 30 counts, cropped; every figure is of the right view."""
    protocol = protocol_named("syncdreamer-gso30")
    truth = views_of(RIGS["gso30"]("sorter", RigConfig()), "sorter", 64)
    made = generated_ring(truth, [-30.0, 0.0, 30.0, 60.0], 60.0, 96)
    found, problem = compared(truth, made, protocol)
    assert found is not None and problem == ""
    assert found.views == tuple(range(16, 24)) and found.of_truth == tuple(range(0, 16, 2))
    assert found.seen == Seen("gso30", 1, 8, 1, pytest.approx(FOV_DEG), pytest.approx(60.0), pytest.approx(FOV_DEG), fitted=True)
    assert found.generated.shape == found.truth.shape == (8, 64, 64, 4)
    assert min(psnr(on_white(a), on_white(b)) for a, b in zip(found.truth, found.generated, strict=True)) > 27
    excluded, _ = compared(truth, made, replace(protocol, input_views=EXCLUDED))
    assert excluded is not None and len(excluded.views) == 7 and 0 not in excluded.of_truth
    # Without the adapter nothing is comparable: the lenses differ.
    assert compared(truth, made, replace(protocol, fits_fov=False))[0] is None
    figures, reasons = picture_figures(found.truth[1], found.generated[1], protocol, LearnedMetrics())
    assert set(figures) == set(protocol.image_metrics()) and set(reasons) == {"lpips", "clip_similarity"}


def test_sixteen_views_of_the_same_lens_are_all_scored_as_they_are():
    truth = views_of(RIGS["gso30"]("lion", RigConfig()), "lion", 48)
    targets = truth.turned(-float(truth.azimuth_deg[-1])).with_role(TARGET)
    found, _ = compared(truth, targets, protocol_named("syncdreamer-gso30"))
    assert found is not None and len(found.views) == 16 and not found.seen.fitted
    assert np.array_equal(found.truth, targets.rgba) and np.array_equal(found.generated, targets.rgba)


def test_gso64_draws_ten_of_the_sixty_that_are_no_input_by_the_objects_name():
    protocol = protocol_named("instant3d-gso64")
    camera = RIGS["gso64"]("u", RigConfig())
    blank = np.zeros((64, 16, 16, 4), np.uint8)
    truth = ViewSet("u", blank, camera.camera, camera.roles, camera.azimuth_deg, camera.elevation_deg, camera.radius, "gso64", "x")
    everything = replace(truth, roles=(TARGET,) * 64)
    found, _ = comparison_of(truth.with_role(TARGET), everything, truth.with_role(CONDITION), protocol)
    assert found is not None and len(found.views) == 10 and found.seen.of_inputs == 0
    again, _ = comparison_of(everything, everything, truth.with_role(CONDITION), protocol)  # the inputs stored as targets too
    assert again is not None and len(again.views) == 10 and not set(again.of_truth) & set(range(60, 64))
    few, why = comparison_of(truth.with_role(TARGET), everything.select(range(20)), truth.with_role(CONDITION), protocol)
    assert few is None and "views to be scored" in why
    draws = {name: tuple(drawn_views(protocol, name, 60)) for name in ("shoe", "shoe-0123abcd", "lion", "another")}
    assert draws["shoe"] == draws["shoe-0123abcd"] and len(set(draws.values())) == 3
    assert drawn_views(Protocol(), "shoe", 5) == [0, 1, 2, 3, 4]


def test_coverage_tells_what_was_not_kept():
    protocol = protocol_named("mvdiffusionpp-sparse")
    kept = {f"{name}-0123abcd": Seen("gso30_sparse", 2, 32) for name in NAMES}
    assert coverage(protocol, kept, kept)["keeps_protocol"] is True
    other = {"shoe": Seen("mvdiffusionpp", 3, 32), "mine": Seen("mvdiffusionpp", 3, 32)}
    told = coverage(protocol, other, [*other, "lost"])
    assert told["keeps_protocol"] is False and told["objects_of_the_list"] == 1 and len(told["missing_objects"]) == 29
    assert [word in " | ".join(told["departures"]) for word in ("29 of 30", "2 objects are not", "not gso30_sparse", "3 input views")] == [
        True
    ] * 4
    assert coverage(Protocol(), other, other)["keeps_protocol"] is None


# Objects that a user fetched


def scan(folder: Path, name: str, extents=(1.0, 2.0, 3.0), colour=(200, 30, 20)) -> None:
    """As the official scans are: meshes/model.obj, Z up, its texture in another folder."""
    box = trimesh.creation.box(extents)
    uv = box.vertices[:, :2] - box.vertices[:, :2].min(0)
    box.visual = trimesh.visual.TextureVisuals(uv / uv.max(), image=Image.new("RGB", (8, 8), colour))
    for part in ("meshes", "materials/textures"):
        (folder / name / part).mkdir(parents=True)
    obj, files = trimesh.exchange.obj.export_obj(box, return_texture=True)
    mtl = next(key for key in files if key.endswith(".mtl"))
    picture = next(key for key in files if not key.endswith(".mtl"))
    (folder / name / "meshes" / "model.obj").write_text(obj)
    (folder / name / "meshes" / mtl).write_bytes(files[mtl])
    (folder / name / "materials" / "textures" / picture).write_bytes(files[picture])


def test_import_sets_the_axes_right_keeps_the_texture_and_names_what_is_missing(tmp_path):
    for name in ("shoe", "lion", "not_of_the_list"):
        scan(tmp_path / "in", name)
    protocol = protocol_named("syncdreamer-gso30")
    result = import_objects(protocol, tmp_path / "in", tmp_path / "out")
    assert (result["completed"], result["failed"], result["rejected"], len(result["missing"])) == (2, 0, 1, 28)
    loaded = trimesh.load_mesh(tmp_path / "out" / "shoe.glb")
    np.testing.assert_allclose(loaded.extents, (1.0, 3.0, 2.0), atol=1e-6)  # Z up became Y up
    assert np.asarray(loaded.visual.material.baseColorTexture.convert("RGB"))[0, 0] == pytest.approx((200, 30, 20), abs=3)
    assert result["checksums"] == "written" and import_objects(protocol, tmp_path / "in", tmp_path / "out")["checksums"] == "as before"


def test_objects_that_changed_since_the_first_fetch_are_refused(tmp_path):
    scan(tmp_path / "in", "shoe")
    protocol = protocol_named("syncdreamer-gso30")
    import_objects(protocol, tmp_path / "in", tmp_path / "out")
    model = tmp_path / "in" / "shoe" / "meshes" / "model.obj"
    model.write_text(model.read_text() + "\nv 9 9 9\n")
    with pytest.raises(UserError, match="1 objects are not those of the first fetch: shoe"):
        import_objects(protocol, tmp_path / "in", tmp_path / "out")


def test_what_cannot_be_imported_is_said(tmp_path):
    protocol = protocol_named("syncdreamer-gso30")
    with pytest.raises(UserError, match="no such folder"):
        import_objects(protocol, tmp_path / "absent", tmp_path / "out")
    scan(tmp_path / "in", "mine")
    with pytest.raises(UserError, match="none of the 30 objects"):
        import_objects(protocol, tmp_path / "in", tmp_path / "out")
    (tmp_path / "in" / "shoe.obj").write_text("nothing of the kind")
    result = import_objects(protocol, tmp_path / "in", tmp_path / "out")
    assert (result["completed"], result["failed"]) == (0, 1) and "shoe.obj" in result["reasons"]["shoe"]
    assert import_objects(protocol_named("instant3d-gso64"), tmp_path / "in", tmp_path / "other")["count"].startswith(
        "2 objects, the set has 1030"
    )
