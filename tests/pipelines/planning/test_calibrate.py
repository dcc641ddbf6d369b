"""Unit costs: what is measured is recorded with where and when, a second call goes on, and files are checked."""

import json
from pathlib import Path

import pytest

from infra.errors import UserError
from pipelines.planning import calibrate as calibration
from pipelines.planning.calibrate import PARTS, Settings, calibrate
from pipelines.planning.measure_render import ViewCost, split
from pipelines.planning.units import KNOWN, read_units, summed_up


def test_the_parts_measure_every_unit():
    assert sorted(unit for part in PARTS.values() for unit in part.units) == sorted(KNOWN)


def test_the_shipped_units_are_whole_and_say_where_they_are_from():
    shipped = read_units()
    assert set(shipped.units) == set(KNOWN)
    assert all(unit.low <= unit.median <= unit.high and "load average" in unit.machine and unit.when for unit in shipped.units.values())


def test_it_goes_on_and_records(tmp_path: Path):
    out, said = tmp_path / "units.json", []
    calibrate(out, ["checkpoint"], Settings(repeats=2), say=said.append)
    units = read_units(out)
    unit = units.units["train.checkpoint_bytes"]
    # Weights, two moments and the average, float32: 16 bytes, and a little for the file itself.
    assert unit.n == 2 and 16 <= unit.median < 16.5 and unit.commit and "load average" in unit.machine
    before = out.read_text()
    calibrate(out, ["checkpoint", "arrays"], Settings(repeats=1), say=said.append)
    after = read_units(out)
    assert after.units["train.checkpoint_bytes"] == unit and after.value("load.array_gb_per_s") > 0 and "already" in said[1]
    assert json.loads(before)["version"] == 1


@pytest.mark.blender
def test_real_renders_give_the_render_units(tmp_path: Path):
    out = tmp_path / "units.json"
    units = calibrate(out, ["render"], Settings(objects=1, sizes=(16, 32), profile="draft"), say=lambda text: None)
    assert set(PARTS["render"].units) == set(units.units)
    assert units.value("render.samples") == 4 and units.value("render.start_s") > 0.2 and units.value("render.object_bytes") > 1000
    assert units.value("render.view_s") > 0 and 0.01 < units.value("render.bytes") < 20


def test_constants_and_slopes_come_apart():
    def cost(megapixels: float) -> ViewCost:
        return ViewCost(
            megapixels, 10, 3.0, 0.2 * megapixels * 10, 1.5 * megapixels + 0.04, 0.01, 0.5 * megapixels + 0.02, 4e5 * megapixels, 9
        )

    found = split([cost(0.01), cost(0.25)])
    assert found["render.sample_s"] == pytest.approx(0.2) and found["render.denoise_s"] == pytest.approx(1.5)
    assert found["render.encode_s"] == pytest.approx(0.5) and found["render.view_s"] == pytest.approx(0.01 + 0.04 + 0.02)
    assert found["render.import_s"] == 3.0 and found["render.bytes"] == pytest.approx(0.4)
    alone = split([cost(0.25)])
    assert alone["render.view_s"] == pytest.approx(0.01) and alone["render.denoise_s"] == pytest.approx(1.5 + 0.16)


def test_refusals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    out = tmp_path / "units.json"
    with pytest.raises(UserError, match="did you mean 'render'"):
        calibrate(out, ["rendr"], Settings())
    with pytest.raises(UserError, match="too little"):
        calibrate(out, ["arrays"], Settings(repeats=0))
    calibrate(out, ["arrays"], Settings(repeats=1), say=lambda text: None)
    data = json.loads(out.read_text())
    monkeypatch.setattr(calibration, "described_machine", lambda: "another, 9 cores, load average 1.0")
    with pytest.raises(UserError, match="was measured on .* this is another"):
        calibrate(out, ["arrays"], Settings())
    bad = data["units"] | {"load.arrays": data["units"]["load.array_gb_per_s"]}
    for units, told in ((bad, "did you mean 'load.array"), ({"score.s": {"median": 1}}, "fields of a measured unit")):
        out.write_text(json.dumps(data | {"units": units}))
        with pytest.raises(UserError, match=told):
            read_units(out)
    out.write_text("[]")
    with pytest.raises(UserError, match="no file of unit costs"):
        read_units(out)
    with pytest.raises(UserError, match="mvforge calibrate"):
        read_units(tmp_path / "none.json")


def test_medians():
    facts = {"when": "", "machine": "", "device": "cpu", "commit": "", "note": ""}
    assert summed_up([3.0, 1.0, 2.0], **facts).median == 2.0
    even = summed_up([4.0, 1.0, 2.0, 3.0], **facts)
    assert (even.median, even.low, even.high, even.n) == (2.5, 1.0, 4.0, 4)
