"""`instant3d-gso64`: sparse-view reconstruction from four views, as Instant3D, GS-LRM and MeshLRM report it."""

from evaluation.protocols.base import EXCLUDED, Protocol

OBJECT_COUNT = 1030

INSTANT3D_GSO64 = Protocol(
    base="instant3d-gso64",
    summary="four input views of every Google Scanned Object, ten of the other sixty views compared",
    source="Instant3D (arXiv 2311.06214) as GS-LRM (arXiv 2404.19702) and MeshLRM (arXiv 2404.12385) describe and repeat it",
    input_views=EXCLUDED,
    leaves_out_unmatched=True,
    scored_views="10 of the 60 views that are no input (elevations 0, 20, 40, 60; every 22.5 deg), drawn per object by (seed 0, its name)",
    draws=10,
    rig="gso64",
    condition_counts=(4,),
    object_count=OBJECT_COUNT,
    published={"PSNR": "psnr", "SSIM": "ssim", "LPIPS": "lpips", "Chamfer": "chamfer"},
    frame="views and mesh in the frame of the object, whose input views stand at elevation 20, azimuths 45, 135, 225 and 315",
    notes=(
        "512 px is the size of the published tables; pictures are compared at the size they have",
        "which ten views the papers drew, how many objects they took (GRM: 100), their field of view and distance are not published: "
        "the draw, fov 50 and distance 1.35 are ours",
        "LPIPS figures of these papers differ in their networks; ours names its own",
    ),
    fetch="""The scans are published by Google Research at fuel.gazebosim.org (CC BY 4.0). This lists and unpacks them into GSO/:

  python3 - <<'END'
  import io, json, pathlib, urllib.error, urllib.parse, urllib.request, zipfile
  base, page = "https://fuel.gazebosim.org/1.0/GoogleResearch/models", 1
  while True:
      try:
          models = json.load(urllib.request.urlopen(f"{base}?page={page}&per_page=100"))
      except urllib.error.HTTPError:  # the page after the last
          break
      if not models:
          break
      for name in (model["name"] for model in models):
          folder = pathlib.Path("GSO") / name.replace(" ", "_")
          if not folder.exists():
              data = urllib.request.urlopen(f"{base}/{urllib.parse.quote(name)}.zip").read()
              zipfile.ZipFile(io.BytesIO(data)).extractall(folder)
      page += 1
  END

then

  mvforge protocols import instant3d-gso64 --objects GSO --out gso_glb

which writes GLB files with the axes set right, and checksums that later calls are held against.""",
)
