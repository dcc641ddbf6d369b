"""The verbs that score plain files and tell of protocols, as they are typed."""

import json

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from evaluation.score import SCHEMA
from infra.storage import Location
from pipelines.__main__ import main


@pytest.fixture(scope="module")
def example(tmp_path_factory):
    folder = tmp_path_factory.mktemp("example")
    assert main(["protocols", "example", "--out", str(folder), "--json"]) == 0
    return folder


def said(capsys, *words: str) -> str:
    assert main(list(words)) == 0
    return capsys.readouterr().out


def views(example, *more: str) -> tuple[str, ...]:
    return ("score-views", "--reference", str(example / "truth"), "--generated", str(example / "generated"), *more)


def test_the_worked_example_shows_what_an_input_view_is_worth(example, capsys):
    whole, honest = (json.loads(said(capsys, *views(example, "--json", *more))) for more in ((), ("--exclude", "000")))
    assert whole["identical_views"] == 1 and honest["identical_views"] == 0 and honest["left_out"] == ["000"]
    assert whole["psnr"] == pytest.approx((100 + 7 * honest["psnr"]) / 8)
    text = said(capsys, *views(example, "--exclude", "000"))
    assert f"{honest['psnr']:.6g}" in text and "no lpips: no weights were given" in text
    for words in ("protocol", "name: default", "background: white", "left out", "published_columns", "aggregation"):
        assert words in text


def test_the_table_of_conventions_is_markdown(example, capsys):
    lines = said(capsys, *views(example, "--exclude", "000", "--conventions")).splitlines()
    assert lines[0] == "| Figure | Convention | Used by | Value |" and len(lines) == 11
    assert all(line.count("|") == 5 for line in lines)


def test_two_seeds(example, capsys):
    text = said(capsys, *views(example, "--generated", str(example / "truth")))
    assert "best of 2 psnr" in text and "100   (mean" in text


def test_protocols_are_listed_shown_in_full_and_unknown_ones_refused(capsys):
    listed = said(capsys, "protocols", "list")
    names = [line.split()[0] for line in listed.splitlines()]
    assert names == ["default", "syncdreamer-gso30", "mvdiffusionpp-sparse", "instant3d-gso64"]
    for name in names:
        told = json.loads(said(capsys, "protocols", "show", name, "--json"))
        assert told["protocol"]["name"] == name and (name == "default") == (told["fetch"] == "")
    text = said(capsys, "protocols", "show", "syncdreamer-gso30")
    assert "mvforge protocols import syncdreamer-gso30" in text and "--rig gso30 --light syncdreamer" in text and "sofa -90" in text
    assert main(["protocols", "show", "instant3d"]) == 2
    assert "did you mean 'instant3d-gso64'" in capsys.readouterr().err
    assert main(["protocols", "import", "default"]) == 2
    assert "needs --objects" in capsys.readouterr().err


def test_refit_pads_an_input_for_a_wider_lens(tmp_path, capsys):
    (tmp_path / "in").mkdir()
    Image.fromarray(np.full((50, 50, 4), 255, np.uint8)).save(tmp_path / "in" / "a.png")
    text = said(
        capsys, "protocols", "refit", "--images", str(tmp_path / "in"), "--from-fov", "49.134", "--to-fov", "60", "--out", str(tmp_path)
    )
    alpha = np.asarray(Image.open(tmp_path / "a.png"))[..., 3]
    assert alpha.shape == (50, 50) and (alpha[25] > 127).sum() == 40 and "1.2630" in text  # 50 / 1.2630 = 39.6


def write_scores(folder, values: dict[str, dict[str, float | None]], evaluation_set: str = "e" * 64) -> None:
    """What the score step leaves, as far as figures go."""
    place = Location(str(folder))
    rows = [
        {"uid": uid, "metric": metric, "view": None, "value": value, "reason": "" if value is not None else "lost"}
        for metric, of_uid in values.items()
        for uid, value in of_uid.items()
    ]
    (place / "scores.parquet").write_table(pa.Table.from_pylist(rows, schema=SCHEMA))
    (place / "summary.json").write_json(
        {"protocol": {"name": "default"}, "evaluation_set": evaluation_set, "metrics": dict.fromkeys(values, {}), "model": "m"}
    )


def test_seeds_of_score_folders(tmp_path, capsys):
    write_scores(tmp_path / "a", {"psnr": {"x": 10.0, "y": 30.0}, "chamfer": {"x": 0.2, "y": None}})
    write_scores(tmp_path / "b", {"psnr": {"x": 20.0, "y": 20.0}, "chamfer": {"x": 0.1, "y": 0.4}})
    told = json.loads(said(capsys, "seeds", str(tmp_path / "a"), str(tmp_path / "b"), "--json"))["metrics"]
    assert told["psnr"]["mean"]["mean"] == 20.0 and told["psnr"]["best"]["mean"] == 25.0
    assert told["chamfer"]["best"]["mean"] == 0.1 and told["chamfer"]["incomplete"] == ["y"]
    assert "best of 2" in said(capsys, "seeds", str(tmp_path / "a"), str(tmp_path / "b"))
    write_scores(tmp_path / "other", {"psnr": {"x": 1.0}}, evaluation_set="f" * 64)
    assert main(["seeds", str(tmp_path / "a"), str(tmp_path / "other")]) == 2
    assert "different evaluation sets" in capsys.readouterr().err
    assert main(["seeds", str(tmp_path / "a")]) == 2 and "no spread" in capsys.readouterr().err
