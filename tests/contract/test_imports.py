"""The import contract: packages depend one way, and each outside system has one door."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LAYERS = ["pipelines", "evaluation", "training", "rendering", "infra"]
STEPS = {
    "rendering/catalog.py",
    "rendering/fetch.py",
    "rendering/render.py",
    "rendering/curate.py",
    "training/train.py",
    "training/encode.py",
    "training/register.py",
    "evaluation/generate.py",
    "evaluation/generate_pool.py",
    "evaluation/reconstruct.py",
    "evaluation/score.py",
    "evaluation/gate.py",
    "evaluation/report.py",
}
# Outside package -> files that may import it.
DOORS = {
    "bpy": {"rendering/blender_script.py"},
    "mlflow": {path.relative_to(ROOT).as_posix() for path in (ROOT / "infra" / "tracking").glob("*.py")},
    "deepspeed": {"training/deepspeed_engine.py"},
    "objaverse": {"rendering/sources/objaverse.py"},
}
# The only client of the job API is the command line.
RAY_DOORS = STEPS | {"pipelines/commands/head.py", *(path.relative_to(ROOT).as_posix() for path in (ROOT / "infra").glob("*.py"))}
# Model, loss, sampler and loop run on a machine that has torch, diffusers and transformers, and nothing else of ours.
PLAIN = [
    "training/nn",
    "training/diffusion",
    "training/methods",
    *(f"training/bench{part}.py" for part in ("", "_kernels", "_options", "_rows", "_unet")),
    *(
        f"training/{name}.py"
        for name in (
            "background_upload",
            "batch",
            "checkpoint",
            "checkpoint_folder",
            "checkpoint_manifest",
            "config",
            "data",
            "ema",
            "engine",
            "flops",
            "guard",
            "loader",
            "loop",
        )
    ),
    *(f"training/{name}.py" for name in ("notice", "rates", "resume", "sampler")),
    *(f"evaluation/proofs/{name}.py" for name in ("ablate", "adapt", "compare", "condition", "conditions", "data", "denoiser", "dropout")),
    *(f"evaluation/proofs/{name}.py" for name in ("fitting", "latents", "measures", "memorise", "rgb_vae", "run", "sampling", "setups")),
    "evaluation/proofs/shapes.py",
]
PLAIN_FORBIDDEN = {"ray", "mlflow", "bpy", "deepspeed", "pydantic", "objaverse", "pyarrow", "pandas", "PIL", "requests", "scipy", "trimesh"}
# The pipeline class is diffusers', which brings PIL and speaks in its pictures.
# Shape figures of the proofs are null, with the reason, where the geometry libraries are missing.
PLAIN_EXCEPT = {
    ("training/methods/mvdiffusionpp_pipeline.py", "PIL"),
    ("evaluation/proofs/shapes.py", "scipy"),
    ("evaluation/proofs/shapes.py", "trimesh"),
}


def sources() -> list[Path]:
    return sorted(path for layer in LAYERS for path in (ROOT / layer).rglob("*.py"))


def imports(path: Path) -> Iterator[str]:
    """Every absolute module name a file imports, wherever the statement stands."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide the direction"
            yield node.module or ""


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("path", sources(), ids=name_of)
def test_imports_run_one_way(path: Path):
    layer = LAYERS.index(name_of(path).split("/")[0])
    above = {name.split(".")[0] for name in imports(path)} & set(LAYERS[:layer])
    assert not above, f"{name_of(path)} imports {above}, which lies above it"


@pytest.mark.parametrize("path", sources(), ids=name_of)
def test_outside_systems_have_one_door(path: Path):
    used = {name.split(".")[0] for name in imports(path)}
    for package, allowed in {**DOORS, "ray": RAY_DOORS}.items():
        if package in used:
            assert name_of(path) in allowed, f"{name_of(path)} imports {package}; only {sorted(allowed)} may"


def test_model_code_needs_no_cluster():
    for root in PLAIN:
        place = ROOT / root
        for path in [place] if place.is_file() else place.rglob("*.py"):
            used = {name.split(".")[0] for name in imports(path)} & PLAIN_FORBIDDEN
            used = {package for package in used if (name_of(path), package) not in PLAIN_EXCEPT}
            assert not used, f"{name_of(path)} imports {used}"


def test_the_blender_script_imports_nothing_of_ours():
    used = {name.split(".")[0] for name in imports(ROOT / "rendering/blender_script.py")}
    assert not used & set(LAYERS)


def test_every_package_is_installed():
    import tomllib

    listed = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"])
    present = {path.parent.relative_to(ROOT).as_posix().replace("/", ".") for path in sources()}
    assert listed == present
