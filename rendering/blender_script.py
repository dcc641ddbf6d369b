"""Runs inside the Blender child process: one JSON line in is one object to render, one JSON line out is its result.

Standard library, NumPy and bpy only, and `develop.py` beside it, loaded by path. Started by `rendering.blender.BlenderWorker` as
`python sandbox.py ... blender_script.py REQUEST_FD REPLY_FD PARENT_PID`; the two descriptors are private pipes, so
nothing that Blender prints can reach the protocol. The first line out says whether `bpy` could be imported.
"""

import ctypes
import importlib
import importlib.util
import json
import math
import os
import resource
import signal
import sys
import time
from typing import Any

import numpy as np

bpy: Any = None  # imported by `main`, after the limits are set
develop: Any = None  # rendering/develop.py, loaded by `main`

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
DRACO_FAULT = "the Draco body of a part of the object cannot be decoded"
LAMP_MARK = "mvforge_lamp"
NEAREST = 1e-3
# The pixel filter reaches 0.75 px; the denoiser gets a little of the background to see.
BOX_MARGIN_PX = 4
CV_FROM_BLENDER = np.diag([1.0, -1.0, -1.0])
PROBE_SEEDS, SEEDS = (0x5EED, 0x5EED5), 1 << 31
# Two equally denoised pictures share part of their error, so their difference flatters.
PROBE_BIAS_DB = 1.5
DB_PER_DOUBLING = 2.7
denoise_seconds_per_pixel: dict[Any, float] = {}
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
    # Linear values of all passes in one file; `develop.py` makes pictures of them.
    render.image_settings.file_format, render.image_settings.color_mode = "OPEN_EXR_MULTILAYER", "RGBA"
    render.image_settings.color_depth, render.image_settings.exr_codec = "16", "NONE"
    view = scene.view_settings
    # The factory default is AgX, which darkens whites. EXR files hold linear light whatever stands here; EEVEE's do too.
    view.view_transform, view.look, view.exposure, view.gamma = "Standard", "None", 0.0, 1.0
    cycles.caustics_reflective = cycles.caustics_refractive = True
    cycles.pixel_filter_type, cycles.filter_width = "BLACKMAN_HARRIS", 1.5
    # The default pattern (blue noise) costs more time for the same error.
    cycles.sampling_pattern = "TABULATED_SOBOL"
    cycles.use_auto_tile = False


def apply_settings(request):
    """Resolution, device, noise against cost, and passes of this request."""
    scene, sampling = bpy.context.scene, request["sampling"]
    scene.render.resolution_x = scene.render.resolution_y = request["resolution"]
    choose_device(request["device"], sampling["engine"])
    cycles = scene.cycles
    cycles.samples, cycles.seed = sampling["samples"], request["seed"]
    scene.eevee.taa_render_samples = sampling["samples"]
    cycles.use_adaptive_sampling, cycles.adaptive_threshold = sampling["adaptive"] > 0, sampling["adaptive"]
    names = ("max_bounces", "diffuse_bounces", "glossy_bounces", "transmission_bounces", "transparent_max_bounces")
    for name, value in zip(names, sampling["bounces"], strict=True):
        setattr(cycles, name, value)
    cycles.film_transparent_glass = request["transparent_glass"]
    cycles.use_denoising = sampling["denoise"] is not None
    if sampling["denoise"] is not None:
        cycles.denoiser, cycles.denoising_input_passes = "OPENIMAGEDENOISE", sampling["denoise_guides"]
        cycles.denoising_quality, cycles.denoising_prefilter = sampling["denoise"]
    layer, passes = scene.view_layers[0], request["passes"]
    layer.use_pass_z, layer.use_pass_normal = "depth" in passes, "normal" in passes
    while layer.aovs:
        layer.aovs.remove(layer.aovs[0])
    if "albedo" in passes:
        layer.aovs.add().name = "albedo"


def choose_device(name, engine):
    """Set the engine and the kind of device. Raises Refused `no_device` where this machine has none of that kind."""
    scene = bpy.context.scene
    scene.render.engine = {"cycles": "CYCLES", "eevee": "BLENDER_EEVEE_NEXT"}[engine]
    if name == "cpu":
        scene.cycles.device = "CPU"
        return
    preferences = bpy.context.preferences.addons["cycles"].preferences
    try:
        found = [device for device in preferences.get_devices_for_type(name.upper()) if device.type == name.upper()]
        preferences.compute_device_type = name.upper()
    except (TypeError, ValueError) as error:
        raise Refused("no_device", f"this Blender was built without {name}: {error}") from error
    if not found:
        raise Refused("no_device", f"Blender finds no {name} device on this machine")
    for device in found:
        device.use = True
    scene.cycles.device = "GPU"


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


def watch_draco():
    """Make a Draco body that cannot be decoded an error; the importer would leave the part out and say nothing."""
    module: Any = importlib.import_module("io_scene_gltf2.blender.imp.mesh")
    if getattr(module, "watched", False):
        return
    decode = module.decode_primitive

    def decode_or_fail(gltf, primitive):
        before = len(gltf.data.buffer_views)
        decode(gltf, primitive)
        parts = 1 + len(primitive.extensions["KHR_draco_mesh_compression"]["attributes"])
        if len(gltf.data.buffer_views) != before + parts:  # one for the indices and one for each attribute
            raise RuntimeError(DRACO_FAULT)

    module.decode_primitive, module.watched = decode_or_fail, True


def load(path):
    """Import a glTF file with the options that keep skinned models whole and bounds honest."""
    watch_draco()
    try:
        bpy.ops.import_scene.gltf(
            filepath=path,
            guess_original_bind_pose=False,  # the guess turns skinned Sketchfab exports into shards
            disable_bone_shape=True,  # else a hidden icosphere per rig enters the scene
        )
    except RuntimeError as error:
        text = str(error).strip()
        if DRACO_FAULT in text:
            raise Refused("bad_draco", DRACO_FAULT) from error
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


def apply_light(light):
    """Make this the only light: the world's radiance or environment map, and lamps. The format is in `rendering/lights.py`."""
    scene, vector_type = bpy.context.scene, importlib.import_module("mathutils").Vector
    for thing in [thing for thing in scene.objects if LAMP_MARK in thing]:
        bpy.data.lights.remove(thing.data)  # its object goes along
    nodes, links = scene.world.node_tree.nodes, scene.world.node_tree.links
    for node in [node for node in nodes if node.type not in ("BACKGROUND", "OUTPUT_WORLD")]:
        if node.type == "TEX_ENVIRONMENT" and node.image is not None:
            bpy.data.images.remove(node.image)
        nodes.remove(node)
    background, sampling = nodes["Background"], scene.world.cycles
    # Left to itself, Cycles builds a table of where an environment map is bright with eight thousand columns, for every
    # view anew: 1.3 s and 350 MB. Its size changes noise only.
    sampling.sampling_method, sampling.sample_map_resolution = "MANUAL" if light["file"] else "AUTOMATIC", 1024
    if light["file"] is None:
        background.inputs["Color"].default_value, background.inputs["Strength"].default_value = (*light["radiance"], 1.0), 1.0
    else:
        place, turn, picture = (nodes.new(f"ShaderNode{kind}") for kind in ("TexCoord", "Mapping", "TexEnvironment"))
        # The mapping turns the direction that is looked up, so the picture turns the other way.
        turn.vector_type, turn.inputs["Rotation"].default_value = "POINT", (0.0, 0.0, -math.radians(light["turn_deg"]))
        picture.image = bpy.data.images.load(light["file"], check_existing=False)
        if 0 in picture.image.size:
            raise Refused("environment_map", f"no pixels in {os.path.basename(light['file'])}")
        background.inputs["Strength"].default_value = max(light["radiance"])
        links.new(place.outputs["Generated"], turn.inputs["Vector"])
        links.new(turn.outputs["Vector"], picture.inputs["Vector"])
        links.new(picture.outputs["Color"], background.inputs["Color"])
    for lamp in light["lamps"]:
        data = bpy.data.lights.new("mvforge", lamp["kind"])
        towards, strength = vector_type(lamp["towards"]), max(lamp["irradiance"])
        data.color, data.energy = [channel / strength for channel in lamp["irradiance"]], strength
        if lamp["kind"] == "SUN":
            data.angle = math.radians(lamp["angle_deg"])
        else:
            # A small disc that faces the origin with flux P gives it the irradiance P / (pi distance^2).
            data.shape, data.size = "DISK", lamp["size"]
            data.energy *= math.pi * lamp["distance"] ** 2
        thing = bpy.data.objects.new("mvforge", data)
        thing[LAMP_MARK] = True
        thing.location = towards * lamp.get("distance", 1.0)
        thing.rotation_euler = towards.to_track_quat("Z", "Y").to_euler()  # lamps shine along their -Z
        thing.visible_camera = False
        scene.collection.objects.link(thing)


def show_base_colours():
    """Send every material's base colour to the `albedo` pass, as it is before light."""
    for material in bpy.data.materials:
        tree = material.node_tree
        if not material.use_nodes or tree is None:
            continue
        for node in list(tree.nodes):
            # The importer makes a Principled shader, and an Emission or Background for unlit materials.
            name = {"BSDF_PRINCIPLED": "Base Color", "EMISSION": "Color", "BACKGROUND": "Color"}.get(node.type)
            if name is None:
                continue
            target = tree.nodes.new("ShaderNodeOutputAOV")
            target.aov_name = "albedo"
            socket = node.inputs[name]
            if socket.is_linked:
                tree.links.new(socket.links[0].from_socket, target.inputs["Color"])
            else:
                target.inputs["Color"].default_value = socket.default_value
            break


def boxes(request, vertices):
    """Pixel box `[left, top, right, bottom)` that the object projects to, per view: int `[V, 4]`; the whole picture if unsure."""
    size, found = request["resolution"], []
    for matrix, focal in zip(request["matrices"], request["focal"], strict=True):
        found.append([0, 0, size, size])
        camera = np.reshape(matrix, (4, 4))
        seen = (vertices - camera[:3, 3]) @ camera[:3, :3]  # Blender's camera looks along its -Z
        depth = -seen[:, 2]
        if request["sampling"]["crop"] and depth.min() > NEAREST:
            x, y = 0.5 + focal * seen[:, 0] / depth, 0.5 - focal * seen[:, 1] / depth
            low = np.floor(np.array([x.min(), y.min()]) * size - BOX_MARGIN_PX)
            high = np.ceil(np.array([x.max(), y.max()]) * size + BOX_MARGIN_PX)
            found[-1] = np.clip([*low, *high], 0, size).astype(int).tolist()
    return found


class Photographer:
    """Renders single views of the object that lies in the scene, and keeps the time of each phase."""

    def __init__(self, request, vertices):
        self.request, self.boxes = request, boxes(request, vertices)
        self.seconds = {"sync": 0.0, "sample": 0.0, "denoise": 0.0, "develop": 0.0}
        self.matrix_type = importlib.import_module("mathutils").Matrix
        self.path = os.path.join(request["folder"], "view.exr")
        self._sampling_since = None

    def area(self, index):
        left, top, right, bottom = self.boxes[index]
        return max(0, right - left) * max(0, bottom - top)

    def take(self, index, keep=True):
        """The developed arrays of one view; `keep` holds on to Cycles' scene for the next one."""
        scene, request = bpy.context.scene, self.request
        left, top, right, bottom = self.boxes[index]
        size = request["resolution"]
        camera = np.reshape(request["matrices"][index], (4, 4))
        scene.camera.matrix_world = self.matrix_type(camera.tolist())
        scene.camera.data.lens = request["focal"][index] * SENSOR_MM
        if self.area(index) == 0:
            left, top, right, bottom = 0, 0, 1, 1
        render = scene.render
        render.use_border = render.use_crop_to_border = [left, top, right, bottom] != [0, 0, size, size]
        # Blender cuts fractions of a pixel off: aim at its middle.
        render.border_min_x, render.border_max_x = (left + 0.5) / size, (right + 0.5) / size
        render.border_min_y, render.border_max_y = (size - bottom + 0.5) / size, (size - top + 0.5) / size
        render.filepath = self.path
        render.use_persistent_data = keep
        started = time.perf_counter()
        self._sampling_since = None
        bpy.ops.render.render(write_still=True)
        ended = time.perf_counter()
        sampling_since = self._sampling_since or started
        denoise = min(denoise_seconds_per_pixel.get(denoiser_key(), 0.0) * (right - left) * (bottom - top), ended - sampling_since)
        self.seconds["sync"] += sampling_since - started
        self.seconds["denoise"] += denoise
        self.seconds["sample"] += ended - sampling_since - denoise
        layers = develop.read_layers(self.path)
        if layers["Combined"].shape[:2] != (bottom - top, right - left):
            raise RuntimeError(f"Blender gave {layers['Combined'].shape[:2]} pixels for the box {[left, top, right, bottom]}")
        arrays = develop.developed(layers, request["passes"], CV_FROM_BLENDER @ camera[:3, :3].T)
        arrays["corner"] = np.array([left, top])
        self.seconds["develop"] += time.perf_counter() - ended
        return arrays

    def note_progress(self, text, *_):
        """Blender's own statistics line: the first one that counts samples ends the synchronisation."""
        if self._sampling_since is None and "Sample " in str(text):
            self._sampling_since = time.perf_counter()


def denoiser_key():
    cycles = bpy.context.scene.cycles
    return (cycles.denoising_quality, cycles.denoising_prefilter, cycles.denoising_input_passes) if cycles.use_denoising else None


def learn_denoiser_speed(photographer, index):
    """Cycles does not tell sampling from denoising: time one view with and without, once per kind of denoiser."""
    key, cycles = denoiser_key(), bpy.context.scene.cycles
    if key is None or key in denoise_seconds_per_pixel or photographer.area(index) == 0:
        return
    quickest = {True: math.inf, False: math.inf}
    for on in (False, True) * 3:  # the first of each also synchronises; the quickest is the least disturbed
        cycles.use_denoising = on
        started = time.perf_counter()
        photographer.take(index)
        quickest[on] = min(quickest[on], time.perf_counter() - started)
    cycles.use_denoising = True
    denoise_seconds_per_pixel[key] = max(0.0, quickest[True] - quickest[False]) / photographer.area(index)


def choose_samples(photographer):
    """Samples per pixel for this object: enough for the profile's noise target; returns them with the probe's estimate.

    The probe is the view of middling size, rendered twice with other seeds: what differs is noise.
    """
    sampling, cycles, seed = photographer.request["sampling"], bpy.context.scene.cycles, photographer.request["seed"]
    # The light that is rendered first, so that it need not change while Cycles holds on to its scene.
    apply_light(photographer.request["lights"][min(photographer.request["light_of_view"], default=0)])
    middle = sorted(range(len(photographer.boxes)), key=photographer.area)[len(photographer.boxes) // 2]
    cycles.samples = 1
    learn_denoiser_speed(photographer, middle)
    if not sampling["target_db"]:
        return sampling["samples"], None
    cycles.samples = sampling["least"]
    pictures = []
    for offset in PROBE_SEEDS:
        cycles.seed = (seed + offset) % SEEDS
        pictures.append(photographer.take(middle)["rgba"])
    cycles.seed = seed
    found = develop.noise_db(*pictures) - PROBE_BIAS_DB
    wanted = sampling["least"] * 2.0 ** ((sampling["target_db"] - found) / DB_PER_DOUBLING)
    return int(np.clip(math.ceil(min(wanted, 1e6) / 4) * 4, sampling["least"], sampling["samples"])), found


def render_views(request, vertices):
    """Render every camera to `NNN.npz` in the request's folder; returns facts and the seconds of each phase."""
    photographer = Photographer(request, vertices)
    bpy.app.handlers.render_stats.append(photographer.note_progress)
    try:
        started = time.perf_counter()
        samples, probe_db = choose_samples(photographer)
        bpy.context.scene.cycles.samples = samples
        photographer.seconds = dict.fromkeys(photographer.seconds, 0.0) | {"probe": time.perf_counter() - started}
        light_of_view = request["light_of_view"]
        order = sorted(range(len(light_of_view)), key=light_of_view.__getitem__)  # views of one light follow each other
        for place, index in enumerate(order):
            if place > 0 and light_of_view[index] != light_of_view[order[place - 1]]:
                apply_light(request["lights"][light_of_view[index]])
            # Views of one light share one Cycles scene. The last one frees it: kept alive, it would ignore the next object's
            # settings, and take its images for this object's when Blender reuses their addresses (one object wears another's
            # textures).
            following = order[place + 1 : place + 2]
            keep = bool(following) and light_of_view[following[0]] == light_of_view[index]
            np.savez(os.path.join(request["folder"], f"{index:03d}.npz"), **photographer.take(index, keep))
    finally:
        bpy.app.handlers.render_stats.remove(photographer.note_progress)
    boxes_px = [photographer.area(index) for index in range(len(light_of_view))]
    return {"samples": samples, "probe_db": probe_db, "traced": float(np.mean(boxes_px)) / request["resolution"] ** 2}, photographer.seconds


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
    if "albedo" in request["passes"]:
        show_base_colours()
    lap("import")
    centre, scale, vertices, faces = normalise(request["extent"])
    if request["want_mesh"]:
        np.savez(os.path.join(request["folder"], "mesh.npz"), vertices=vertices.astype(np.float32), faces=faces)
    lap("normalise")
    chosen, seconds = render_views(request, vertices)
    phases |= seconds
    facts = {"centre": centre.tolist(), "scale": scale, "triangles": len(faces), "actions": actions, "blender": bpy.app.version_string}
    return {"status": "ok", "phases": phases, "facts": facts | chosen}


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


def trust_nothing():
    """Blender's own switches: no scripts from files, no network, nothing of the user's."""
    preferences = bpy.context.preferences
    preferences.filepaths.use_scripts_auto_execute = False
    preferences.system.use_online_access = False


def beside(name):
    """A module from the folder of this script, which is not on the path."""
    specification: Any = importlib.util.spec_from_file_location(name.removesuffix(".py"), os.path.join(os.path.dirname(__file__), name))
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def main(request_fd, reply_fd, parent_pid):
    die_with_parent(parent_pid)
    replies = os.fdopen(reply_fd, "w")

    def send(message):
        replies.write(json.dumps(message) + "\n")
        replies.flush()

    global bpy, develop
    try:
        bpy = importlib.import_module("bpy")
        develop = beside("develop.py")
    except ImportError as error:
        send({"status": "no_bpy", "detail": str(error)})
        os._exit(3)
    prepare_scene()
    trust_nothing()
    send({"status": "ready", "blender": bpy.app.version_string})
    for line in os.fdopen(request_fd):
        request = json.loads(line)
        reply = answer(request)
        # glibc keeps what it once had: without this a child of 300 MB has 550 after some hundred objects, for good.
        ctypes.CDLL(None).malloc_trim(0)
        reply["number"] = request["number"]
        reply["rss_mb"] = current_rss_mb()
        reply["peak_rss_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        send(reply)
    # Blender's own shutdown may hang; there is nothing left to save.
    os._exit(0)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
