"""Runs inside the Blender child process: one JSON line in is one object to render, one JSON line out is its result.

Standard library, NumPy and bpy only; nothing of ours is imported. Started by `rendering.blender.BlenderWorker` as
`python blender_script.py REQUEST_FD REPLY_FD PARENT_PID MEMORY_MB`; the two descriptors are private pipes, so nothing
that Blender prints can reach the protocol. The first line out says whether `bpy` could be imported.
"""

import ctypes
import importlib
import json
import os
import resource
import signal
import sys
import time
from typing import Any

import numpy as np

bpy: Any = None  # imported by `main`, after the limits are set

PR_SET_PDEATHSIG = 1
# Sub-path of data collections that belong to one object and go when it is done.
PER_OBJECT_DATA = (
    "objects",
    "meshes",
    "armatures",
    "cameras",
    "lights",
    "curves",
    "materials",
    "textures",
    "images",
    "actions",
    "shape_keys",
    "node_groups",
    "collections",
    "particles",
    "pointclouds",
    "volumes",
    "texts",
    "fonts",
    "sounds",
)
SENSOR_MM = 36.0
SMALLEST_EXTENT = 1e-9
BOUNDS_TOLERANCE = 1e-3


class Refused(Exception):
    """The object cannot be rendered, and trying again would not help."""

    def __init__(self, reason, detail):
        super().__init__(detail)
        self.reason, self.detail = reason, detail


def die_with_parent(parent_pid):
    """Ask the kernel to kill this process when its parent ends, and end now if that has already happened."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent_pid:
        os._exit(0)


def prepare_scene():
    """An empty scene with our world and our camera; everything that stays the same for all objects."""
    bpy.ops.wm.read_factory_settings(use_empty=True)
    scene = bpy.context.scene
    world = bpy.data.worlds.new("mvforge")
    world.use_nodes = True
    scene.world = world
    lens = bpy.data.cameras.new("mvforge")
    lens.sensor_fit, lens.sensor_width, lens.clip_start, lens.clip_end = "HORIZONTAL", SENSOR_MM, 0.01, 100.0
    camera = bpy.data.objects.new("mvforge", lens)
    scene.collection.objects.link(camera)
    scene.camera = camera
    render, cycles = scene.render, scene.cycles
    render.engine, cycles.device = "CYCLES", "CPU"
    render.threads_mode, render.threads = "FIXED", 1
    render.film_transparent = True
    render.dither_intensity = 0.0
    render.use_compositing = render.use_sequencer = False
    render.resolution_percentage = 100
    render.pixel_aspect_x = render.pixel_aspect_y = 1.0
    render.image_settings.file_format, render.image_settings.color_mode = "PNG", "RGBA"
    render.image_settings.color_depth, render.image_settings.compression = "8", 15
    view = scene.view_settings
    # The factory default is AgX, which darkens whites; Standard writes plain sRGB.
    view.view_transform, view.look, view.exposure, view.gamma = "Standard", "None", 0.0, 1.0
    cycles.use_adaptive_sampling = False
    cycles.max_bounces, cycles.diffuse_bounces, cycles.glossy_bounces = 4, 2, 4
    cycles.transmission_bounces, cycles.transparent_max_bounces = 4, 8
    cycles.caustics_reflective = cycles.caustics_refractive = False
    cycles.pixel_filter_type, cycles.filter_width = "BLACKMAN_HARRIS", 1.5
    cycles.use_auto_tile = False


def apply_settings(request):
    """Resolution, samples, light and denoiser of this request."""
    scene = bpy.context.scene
    scene.render.resolution_x = scene.render.resolution_y = request["resolution"]
    cycles = scene.cycles
    cycles.samples, cycles.seed = request["samples"], request["seed"]
    cycles.film_transparent_glass = request["transparent_glass"]
    cycles.use_denoising = request["denoise"] is not None
    if request["denoise"] is not None:
        cycles.denoiser, cycles.denoising_input_passes = "OPENIMAGEDENOISE", "RGB_ALBEDO_NORMAL"
        cycles.denoising_quality, cycles.denoising_prefilter = request["denoise"]
    background = scene.world.node_tree.nodes["Background"]
    background.inputs["Color"].default_value = (*[request["radiance"]] * 3, 1.0)
    background.inputs["Strength"].default_value = 1.0


def clear():
    """Remove everything an object brought in, by data blocks: two milliseconds, against forty for a factory reset."""
    scene = bpy.context.scene
    keep = {scene.camera, scene.camera.data}
    for other in [s for s in bpy.data.scenes if s != scene]:
        bpy.data.scenes.remove(other)
    blocks = []
    for name in PER_OBJECT_DATA:
        for block in getattr(bpy.data, name, ()):
            if block not in keep and getattr(block, "type", "") not in ("RENDER_RESULT", "COMPOSITING"):
                blocks.append(block)
    bpy.data.batch_remove(blocks)
    bpy.ops.outliner.orphans_purge(do_local_ids=True, do_linked_ids=True, do_recursive=True)


def load(path):
    """Import a glTF file with the options that keep skinned models whole and bounds honest."""
    try:
        bpy.ops.import_scene.gltf(
            filepath=path,
            guess_original_bind_pose=False,  # the guess turns skinned Sketchfab exports into shards
            disable_bone_shape=True,  # else a hidden icosphere per rig enters the scene
        )
    except RuntimeError as error:
        text = str(error).strip()
        reason = "unsupported_extension" if "extension" in text.lower() and "not available" in text else "import_failed"
        raise Refused(reason, text[-2000:]) from error
    missing = [image.name for image in bpy.data.images if image.source == "FILE" and 0 in image.size]
    if missing:
        raise Refused("missing_image", "no pixels for: " + ", ".join(missing[:8]))


def switch_off_lights():
    """Lamps of the file would make the light differ per object. They stay where they are, for what hangs below them.

    Cameras of the file need no care: the scene's camera is ours, by reference and not by name.
    """
    for thing in bpy.context.scene.objects:
        if thing.type in ("LIGHT", "LIGHT_PROBE"):
            thing.hide_render = True


def pose(frame):
    """Freeze the animation at `frame`; returns the names of the actions in force."""
    scene = bpy.context.scene
    actions = sorted({o.animation_data.action.name for o in scene.objects if o.animation_data and o.animation_data.action})
    scene.frame_set(frame)
    return actions


def triangles():
    """All triangles that will be rendered, in world space: float64 `[N, 3]` vertices and int32 `[F, 3]` faces."""
    depsgraph = bpy.context.evaluated_depsgraph_get()
    vertices, faces, start = [], [], 0
    for instance in depsgraph.object_instances:
        thing = instance.object
        if thing.type != "MESH" or thing.hide_render or not instance.show_self:
            continue
        mesh = thing.data
        mesh.calc_loop_triangles()
        count = len(mesh.loop_triangles)
        if count == 0:
            continue
        local = np.empty(len(mesh.vertices) * 3, np.float32)
        mesh.vertices.foreach_get("co", local)
        index = np.empty(count * 3, np.int32)
        mesh.loop_triangles.foreach_get("vertices", index)
        matrix = np.array(instance.matrix_world, np.float64)
        used, index = np.unique(index, return_inverse=True)  # loose points do not render and must not widen the box
        world = local.reshape(-1, 3)[used].astype(np.float64) @ matrix[:3, :3].T + matrix[:3, 3]
        vertices.append(world)
        faces.append((index.reshape(-1, 3) + start).astype(np.int32))
        start += len(world)
    if not vertices:
        raise Refused("no_mesh", "the file holds no visible triangles")
    return np.concatenate(vertices), np.concatenate(faces)


def normalise(extent):
    """Scale the longest side of the box to `extent` and move its centre to the origin; returns centre, scale, triangles."""
    vertices, _ = triangles()
    if not np.isfinite(vertices).all():
        raise Refused("non_finite", "some vertex coordinates are NaN or infinite")
    low, high = vertices.min(0), vertices.max(0)
    longest, centre = float((high - low).max()), (low + high) / 2
    if not np.isfinite(longest):
        raise Refused("non_finite", "the bounding box overflows")
    if longest < SMALLEST_EXTENT:
        raise Refused("zero_extent", f"the longest side of the object is {longest:g}")
    scale = extent / longest
    root = bpy.data.objects.new("normalise", None)
    bpy.context.scene.collection.objects.link(root)
    for thing in bpy.context.scene.objects:
        if thing.parent is None and thing not in (root, bpy.context.scene.camera):
            thing.parent = root
    root.scale, root.location = [scale] * 3, (-centre * scale).tolist()
    bpy.context.view_layer.update()
    vertices, faces = triangles()
    box = np.stack([vertices.min(0), vertices.max(0)])
    if not np.allclose(box, np.stack([low - centre, high - centre]) * scale, atol=BOUNDS_TOLERANCE * extent):
        raise Refused("normalisation", f"box after normalising is {box.round(4).tolist()}")
    return centre, scale, vertices, faces


def render_views(request):
    """Render every camera to `NNN.png` in the request's folder."""
    scene, matrix_type = bpy.context.scene, importlib.import_module("mathutils").Matrix
    for index, (matrix, focal) in enumerate(zip(request["matrices"], request["focal"], strict=True)):
        scene.camera.matrix_world = matrix_type(np.reshape(matrix, (4, 4)).tolist())
        scene.camera.data.lens = focal * SENSOR_MM
        scene.render.filepath = os.path.join(request["folder"], f"{index:03d}.png")
        # Views share one Cycles scene. The last one frees it: kept alive, it would ignore the next object's settings, and
        # take its images for this object's when Blender reuses their addresses (one object wears another's textures).
        scene.render.use_persistent_data = index + 1 < len(request["matrices"])
        bpy.ops.render.render(write_still=True)


def handle(request):
    """Render one object; returns the reply."""
    phases, clock = {}, time.perf_counter()

    def lap(name):
        nonlocal clock
        now = time.perf_counter()
        phases[name], clock = now - clock, now

    clear()
    apply_settings(request)
    lap("clear")
    load(request["mesh"])
    switch_off_lights()
    actions = pose(request["frame"])
    lap("import")
    centre, scale, vertices, faces = normalise(request["extent"])
    if request["want_mesh"]:
        np.savez(os.path.join(request["folder"], "mesh.npz"), vertices=vertices.astype(np.float32), faces=faces)
    lap("normalise")
    render_views(request)
    lap("render")
    facts = {"centre": centre.tolist(), "scale": scale, "triangles": len(faces), "actions": actions, "blender": bpy.app.version_string}
    return {"status": "ok", "phases": phases, "facts": facts}


def answer(request):
    """`handle` with failures turned into named reasons."""
    try:
        return handle(request)
    except Refused as refusal:
        return {"status": "failed", "reason": refusal.reason, "detail": refusal.detail}
    except MemoryError:
        return {"status": "failed", "reason": "out_of_memory", "detail": "an allocation passed the memory limit of the child"}
    except Exception as error:  # the boundary: whatever Blender raises becomes a row, with its text
        reason = "out_of_memory" if "out of memory" in str(error).lower() else "render_failed"
        return {"status": "failed", "reason": reason, "detail": f"{type(error).__name__}: {error}"[-2000:]}


def current_rss_mb():
    with open("/proc/self/statm") as stream:
        return int(stream.read().split()[1]) * resource.getpagesize() / 2**20


def main(request_fd, reply_fd, parent_pid, memory_mb):
    die_with_parent(parent_pid)
    if memory_mb:
        resource.setrlimit(resource.RLIMIT_AS, (memory_mb << 20, memory_mb << 20))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    replies = os.fdopen(reply_fd, "w")

    def send(message):
        replies.write(json.dumps(message) + "\n")
        replies.flush()

    global bpy
    try:
        bpy = importlib.import_module("bpy")
    except ImportError as error:
        send({"status": "no_bpy", "detail": str(error)})
        os._exit(3)
    prepare_scene()
    send({"status": "ready", "blender": bpy.app.version_string})
    for line in os.fdopen(request_fd):
        reply = answer(json.loads(line))
        reply["rss_mb"] = current_rss_mb()
        reply["peak_rss_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        send(reply)
    # Blender's own shutdown may hang; there is nothing left to save.
    os._exit(0)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
