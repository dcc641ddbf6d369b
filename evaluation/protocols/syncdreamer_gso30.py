"""`syncdreamer-gso30`: the single-view table of SyncDreamer, from which Wonder3D's and MVDiffusion++'s descend."""

from evaluation.protocols.base import AUTO_RANGE, INCLUDED, VISIBLE, Protocol
from rendering.gso30 import ANGLES_DEG, NAMES

_ANGLES = ", ".join(f"{name} {angle:g}" for name, angle in sorted(ANGLES_DEG.items()))

FETCH = """The thirty objects and their renders are shared by SyncDreamer's authors through a link in the README of
github.com/liuyuan-pal/SyncDreamer; which of the official scans they are is published nowhere. Unpack them so that every object
is a folder or file of its name, then

  mvforge protocols import syncdreamer-gso30 --objects GSO30 --out gso30_glb

which names what is missing, writes GLB files with the axes set right, and checksums that later calls are held against."""

SYNCDREAMER_GSO30 = Protocol(
    base="syncdreamer-gso30",
    summary="one input view of each of thirty Google Scanned Objects, compared at elevation 30 and as a mesh",
    source="SyncDreamer (arXiv 2309.03453), eval_mesh.py and eval_nvs.py at eb41a0c; MVDiffusion++ (arXiv 2402.12712) 5.2, Table 1",
    # mesh2sdf with size 64 over [-1, 1]^3: the object of longest side 1 covers about 32 cells.
    volume_resolution=64,
    volume_box=(-1.0, 1.0),
    picture_px=256,
    fits_fov=True,
    input_views=INCLUDED,
    leaves_out_unmatched=True,
    scored_views="all generated views that stand where one of the 16 true ones does (elevation 30, every 22.5 deg from the input view): "
    "SyncDreamer has all 16, MVDiffusion++ the 8 of its ring",
    rig="gso30",
    condition_counts=(1,),
    objects=NAMES,
    object_count=len(NAMES),
    extras=(VISIBLE, AUTO_RANGE),
    published={"Chamfer": "chamfer_visible", "Volume IoU": "volume_iou", "PSNR": "psnr", "SSIM": "ssim_auto_range", "LPIPS": "lpips"},
    frame="truth turned so that the input view has azimuth 0; azimuth of the input about the untouched Z-up mesh (ours: theirs + 90), "
    f"their angles in degrees, 0 for the others: {_ANGLES}. The generated mesh is taken as it is",
    notes=(
        "the truth is seen at fov 49.13 (f = 280 px of 256); views generated at fov 60 are cropped by tan(24.567)/tan(30) = 0.7918, "
        "centred, and resized to 256 px (bicubic, premultiplied); the paper does not say how it did this. Generating or rendering at "
        "fov 49.13 makes it exact",
        "the input is seen at fov 49.13 too; `mvforge protocols refit --from-fov 49.134 --to-fov 60` pads it for a model of fov 60",
        "inside and outside by |fast winding number| where mesh2sdf counts crossings along one axis, which open and flipped meshes upset",
        "the true points come from the truth's mesh where SyncDreamer reads 16-bit depth PNGs of it",
        "images are the generated ones, not renders of the mesh (SyncDreamer's issue 46); Wonder3D and Open-LRM were aligned to the truth "
        "by ICP in MVDiffusion++'s table, nothing is here",
    ),
    fetch=FETCH,
)
