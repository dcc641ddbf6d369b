"""Run with bpy: render a GLB whose textures have gone missing after the import, as Blender draws them, from three sides.

python pink_scene.py FILE.glb FOLDER
"""

import math
import sys

import bpy

path, folder = sys.argv[1:]
bpy.ops.wm.read_factory_settings(use_empty=True)
bpy.ops.import_scene.gltf(filepath=path)
for image in [image for image in bpy.data.images if image.source == "FILE"]:
    image.unpack(method="REMOVE") if image.packed_file else None
    image.filepath = "//gone.png"
    image.reload()
scene = bpy.context.scene
scene.render.engine, scene.cycles.samples, scene.cycles.use_denoising = "CYCLES", 8, False
scene.render.resolution_x = scene.render.resolution_y = 48
scene.render.film_transparent, scene.view_settings.view_transform = True, "Standard"
scene.render.image_settings.color_mode = "RGBA"
scene.world = bpy.data.worlds.new("white")
scene.world.use_nodes = True
scene.world.node_tree.nodes["Background"].inputs["Color"].default_value = (1, 1, 1, 1)
camera = bpy.data.objects.new("camera", bpy.data.cameras.new("camera"))
camera.data.angle = math.radians(50)
scene.collection.objects.link(camera)
scene.camera = camera
for index in range(3):
    turn = math.radians(60 * index)
    camera.location = (2.5 * math.sin(turn), -2.5 * math.cos(turn), 0.8)
    camera.rotation_euler = (math.radians(72), 0, turn)
    scene.render.filepath = f"{folder}/{index}.png"
    bpy.ops.render.render(write_still=True)
