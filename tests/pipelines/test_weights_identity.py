"""Weights files in a recipe count by their content, and a missing one is refused while planning."""

from pathlib import Path

import pytest

from infra.errors import UserError
from infra.storage import Location
from pipelines import graph, recipes
from pipelines.artifact import Store
from pipelines.dag import decide_all
from pipelines.fingerprint import canonical, digest
from pipelines.settings import apply

# Setting -> a step that reads it and one that does not.
FIELDS = {
    "model.perceptual=lpips({})": ("train.mvae", "encode"),
    "model.vae.pretrained={}": ("train.mvae", "train.none"),
    "model.clip.source={}": ("encode", "train.mvae"),
    "model.unet.pretrained={}": ("train.unet1", "train.mvae"),
}


def _digests(setting: str) -> dict[str, str]:
    return {step.name: digest(step.config) for step in graph.build(apply(recipes.by_name("smoke"), [setting]))}


@pytest.fixture
def weights(tmp_path: Path):
    def put(name: str, content: bytes) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return path

    return put


@pytest.mark.parametrize("field", FIELDS)
def test_content_counts_and_place_does_not(field: str, weights) -> None:
    first, moved, other = weights("a/w.bin", b"one"), weights("b/w.bin", b"one"), weights("c/w.bin", b"two")
    if "lpips" not in field:  # folders
        first, moved, other = first.parent, moved.parent, other.parent
    here, there, changed = (_digests(field.format(path)) for path in (first, moved, other))
    reads, ignores = FIELDS[field]
    assert here == there and here[reads] != changed[reads]
    assert here.get(ignores) == changed.get(ignores)
    weights("a/w.bin", b"three")  # the same place, rewritten
    assert _digests(field.format(first))[reads] != here[reads]


@pytest.mark.parametrize("field", FIELDS)
def test_missing_weights_are_refused_by_the_plan(field: str, tmp_path: Path) -> None:
    steps = graph.build(apply(recipes.by_name("smoke"), [field.format(tmp_path / "nowhere")]))
    with pytest.raises(UserError, match="nowhere does not exist"):
        decide_all(steps, "smoke", Store(Location(str(tmp_path / "store"))))
    with pytest.raises(UserError, match="relative path"):
        for step in graph.build(apply(recipes.by_name("smoke"), [field.format("weights/w.bin")])):
            canonical(step.config)


def test_what_names_no_file_is_its_text() -> None:
    model = canonical(recipes.by_name("smoke").model)
    assert model["perceptual"] == recipes.by_name("smoke").model.perceptual
    assert model["clip"]["source"] == "random(0)" and model["vae"]["pretrained"] is None
