"""The verbs that make views of 3D files, and hand them to other programs."""

from pathlib import Path
from typing import Any

from pipelines.commands.verb import add_verb, later

EXPORT_FORMATS = ("nerfstudio", "colmap", "blender", "pytorch3d", "opencv")
EXPORT_HELP = """images/NNN.png with straight alpha, mask/NNN.png, and depth (16 bit), normal, albedo where they were rendered.
cameras.json always: OpenCV camera-to-world, intrinsics in image sizes, roles, the unit of the depth. Beside it, by --format:

  nerfstudio  transforms.json, OpenGL camera-to-world, pixels (also read by NeRF and instant-ngp code)
  colmap      sparse/0/cameras.txt, images.txt and an empty points3D.txt (also read by 3D Gaussian splatting)
  blender     cameras_blender.json: matrix_world, lens for a 36 mm sensor, shift
  pytorch3d   cameras_pytorch3d.json: arguments of PerspectiveCameras(..., in_ndc=True)
  opencv      nothing more

The world is Z up in all of them, the object's box is centred and its longest side is 1."""

WEBDATASET_HELP = """One sample per object, with its uid as key: NNN.png and NNN.json (camera, role) per view, json for the object, and
NNN.depth.png (16 bit), NNN.normal.png, NNN.albedo.png for the asked passes. The same store gives the same bytes."""

RENDER_HELP = """An interrupted call goes on where it was; files that cannot be rendered are listed with their reasons.

Rigs: mvdiffusionpp, mvdream, instant3d, gso64, dmv3d, syncdreamer16, zero123pp, or file:RIG.json (or .toml) of your own.
Lights: white, syncdreamer, random, or hdri:FOLDER of .hdr and .exr maps; drawn per object. docs/conventions.md has both."""

TOOL_SET = "any setting of catalog., fetch. or render., for example catalog.licences=cc0,cc-by; may be repeated"


def add_view_verbs(verbs: Any) -> None:
    """render, export-views, export-webdataset."""
    render = add_verb(
        verbs,
        "render",
        later("render_tool", "render_objects"),
        "render every .glb/.gltf of a source to views with cameras",
        "mvforge render --source local:/data/objects --store /data/views --resolution 256",
        RENDER_HELP,
    )
    render.add_argument("--source", required=True, help="local:DIR, procedural, or objaverse")
    render.add_argument("--store", required=True, help="folder or URL for the views")
    render.add_argument("--resolution", type=int, default=512, help="side of the square pictures in pixels (default 512)")
    render.add_argument("--profile", default="quality", help="noise against cost: quality, throughput or draft (default quality)")
    render.add_argument("--samples", type=int, default=0, help="the same samples per pixel for all objects, instead of the profile's")
    render.add_argument("--passes", default="depth,normal", help="beside RGBA: depth, normal, albedo (default depth,normal; '' for none)")
    render.add_argument("--rig", default="mvdiffusionpp", help="camera rig (default mvdiffusionpp)")
    render.add_argument("--light", default="white", help="what shines on the objects (default white)")
    render.add_argument("--conditions", type=int, default=4, help="random condition views beside the rig's targets (default 4)")
    render.add_argument("--objects", type=int, help="how many objects of a procedural or objaverse source")
    render.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="sets", help=TOOL_SET)
    render.add_argument("--workers", type=int, default=2, help="Blender processes (default 2)")
    render.add_argument("--retry-failed", action="store_true", help="try files again that failed before, up to a limit of attempts")
    render.set_defaults(status=lambda result: 0 if result["failed"] <= result["completed"] else 1)
    export = add_verb(
        verbs,
        "export-views",
        later("tools", "export_one"),
        "write one object's views as PNG files with their cameras",
        "mvforge export-views water_bottle-e3e55e7f --store /data/views --out bottle --format colmap",
        EXPORT_HELP,
    )
    export.add_argument("uid", help="the object; an unknown one is answered with the nearest")
    export.add_argument("--store", required=True, help="what `mvforge render` or a render step wrote")
    export.add_argument("--out", required=True, type=Path)
    export.add_argument("--format", default="nerfstudio", choices=EXPORT_FORMATS, help="convention of the cameras (default nerfstudio)")
    shards = add_verb(
        verbs,
        "export-webdataset",
        later("tools", "export_webdataset"),
        "write all views of a store as WebDataset tar shards",
        "mvforge export-webdataset --store /data/views --out /data/shards",
        WEBDATASET_HELP,
    )
    shards.add_argument("--store", required=True, help="what `mvforge render` or a render step wrote")
    shards.add_argument("--out", required=True, help="folder or URL for views-NNNNN.tar")
    shards.add_argument("--passes", default="", help="also these, separated by commas: depth, normal, albedo")
    shards.add_argument("--shard-mb", type=int, default=512, help="a shard ends at this size (default 512)")
