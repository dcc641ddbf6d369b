"""Damaged files of every kind end in a document or in one reason, and never in anything else."""

import json
import os
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from rendering.preflight import DEFAULT, inspect
from rendering.preflight_json import nesting, parse
from rendering.sources import procedural
from rendering.sources.base import FetchError
from tests.rendering import mutants, whole_glb

SMALL = ("cubes_lights.glb", "vertex_color.glb", "terrain_vcol.glb", "milk_truck.glb", "sunglasses_transmission.glb", "carbon60_draco.glb")
LARGE = ("lumberjack_skinned.glb", "chess_board_draco.glb", "neon_love.glb", "egyptian_cat_webp.glb", "knight_76anim.glb")
# A mutant may not cost more than this, whatever it declares; the largest real file costs a tenth of a second.
MOST_CPU_S = 10.0


def seeds(names: tuple[str, ...]) -> list[bytes]:
    """Whole files: two made here, and real ones where they are at hand."""
    made = [whole_glb.put_together(*whole_glb.whole()), procedural.make_glb(f"procedural://{procedural.VERSION}/chair/0/0")]
    folder = os.environ.get("MVFORGE_ASSETS")
    return made + [(Path(folder) / name).read_bytes() for name in names if folder]


def survive(path: Path, data: bytes) -> str:
    """The reason of a mutant, or `ok`; anything else that is raised is what we look for."""
    path.write_bytes(data)
    started = time.process_time()
    try:
        inspect(path)
    except FetchError as error:
        assert error.reason.replace("_", "").isalpha() and error.detail and "\n" not in error.detail
        error.detail.encode()
        outcome = error.reason
    else:
        outcome = "ok"
    assert time.process_time() - started < MOST_CPU_S
    return outcome


@pytest.fixture(scope="module")
def some_seeds() -> list[bytes]:
    return seeds(SMALL)


@settings(max_examples=400, deadline=None, database=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.integers(0, 7), kind=st.sampled_from(sorted(mutants.KINDS)), number=st.integers(0, 2**32))
def test_mutants_are_judged(tmp_path, some_seeds, place, kind, number):
    survive(tmp_path / "x.glb", mutants.mutant(some_seeds[place % len(some_seeds)], kind, number))


def test_the_mutants_are_worth_something(tmp_path, some_seeds):
    """They meet most of the checks, and some of them pass."""
    met = {survive(tmp_path / "x.glb", mutants.mutant(some_seeds[0], kind, number)) for kind in mutants.KINDS for number in range(40)}
    assert "ok" in met and len(met) > 12, met


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=10), inner, max_size=5),
    max_leaves=20,
)


@settings(max_examples=200, deadline=None, database=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(key=st.sampled_from(sorted(whole_glb.whole()[0])), value=JSON_VALUES)
@example(key="nodes", value=[{"children": [0]}])
@example(key="asset", value={"version": "2.0", "extras": "\ud800"})
def test_any_value_in_any_top_level_place_is_judged(tmp_path, key, value):
    document, body = whole_glb.whole()
    survive(tmp_path / "x.glb", whole_glb.put_together(document | {key: value}, body))


@settings(max_examples=200, deadline=None, database=None)
@given(value=JSON_VALUES)
def test_nesting_counts_as_a_parser_does(value):
    def depth(part: object) -> int:
        if isinstance(part, dict):
            return 1 + max(map(depth, part.values()), default=0)
        return 1 + max(map(depth, part), default=0) if isinstance(part, list) else 0

    for ascii_only in (True, False):
        assert nesting(json.dumps(value, ensure_ascii=ascii_only).encode(errors="surrogatepass")) == depth(value)


@settings(max_examples=200, deadline=None, database=None)
@given(text=st.binary(max_size=60))
def test_any_bytes_are_a_document_or_a_reason(text):
    try:
        parse(text, DEFAULT)
    except FetchError:
        pass


@pytest.mark.long
@pytest.mark.timeout(3000)
@settings(
    max_examples=int(os.environ.get("MVFORGE_MUTANTS", "5000")),
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(place=st.integers(0, 12), kind=st.sampled_from(sorted(mutants.KINDS)), number=st.integers(0, 2**32))
def test_thousands_of_mutants_are_judged(tmp_path, all_seeds, place, kind, number):
    survive(tmp_path / "x.glb", mutants.mutant(all_seeds[place % len(all_seeds)], kind, number))


@pytest.fixture(scope="module")
def all_seeds() -> list[bytes]:
    return seeds(SMALL + LARGE)
