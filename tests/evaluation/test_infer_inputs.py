"""What batch inference takes as input: folders, Parquet and view stores, and the reason for each picture that is none."""

import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from evaluation.infer.folder import PictureFolder
from evaluation.infer.inputs import Inputs, Item, listed
from evaluation.infer.open import open_inputs
from evaluation.infer.pictures import CANVAS_PX, Unusable, opened, prepared
from evaluation.infer.store import StoredViews
from evaluation.infer.table import Columns, PictureTable
from infra.errors import UserError
from infra.storage import Location
from rendering.view_set import CONDITION
from tests.evaluation.traced import store
from tests.training.painted import painted_views


def picture(size: int = 64, colour: tuple[int, int, int] = (200, 30, 30), alpha: bool = True) -> Image.Image:
    """A disc of one colour, a quarter of the picture in radius, left of the middle."""
    y, x = np.mgrid[:size, :size]
    inside = (x - 0.4 * size) ** 2 + (y - 0.5 * size) ** 2 < (size / 4) ** 2
    rgba = np.zeros((size, size, 4), np.uint8)
    rgba[inside] = (*colour, 255)
    image = Image.fromarray(rgba, "RGBA")
    return image if alpha else Image.alpha_composite(Image.new("RGBA", image.size, "green"), image).convert("RGB")


def encoded(image: Image.Image, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


def by_uid(inputs: Inputs) -> dict[str, Item]:
    return {item.uid: item for item in listed(inputs)}


def reason(inputs: Inputs, item: Item, framing: bool = True) -> str:
    with pytest.raises(Unusable) as caught:
        inputs.read(item.uid, item.place, framing)
    return caught.value.reason


def colours(inputs: Inputs, item: Item) -> list[tuple[int, ...]]:
    """The colour in the middle of each condition picture, after framing."""
    views, _ = inputs.read(item.uid, item.place, True)
    assert views.uid == item.uid and set(views.roles) == {CONDITION} and views.rgba.shape[1:] == (CANVAS_PX, CANVAS_PX, 4)
    return [tuple(rgba[CANVAS_PX // 2, CANVAS_PX // 2].tolist()) for rgba in views.rgba]


def test_a_folder_of_pictures_sub_folders_and_masks(tmp_path: Path) -> None:
    red, blue = (200, 30, 30), (20, 40, 220)
    picture(colour=red).save(tmp_path / "cup.png")
    picture(colour=blue, alpha=False).save(tmp_path / "photo.png")
    picture().getchannel("A").save(tmp_path / "photo_mask.png")
    picture(alpha=False).save(tmp_path / "lonely_mask.png")  # the mask of nothing is a picture
    (tmp_path / "notes.txt").write_text("no picture")
    (tmp_path / ".hidden.png").write_bytes(b"")
    for name, colour in (("view10", blue), ("view2", red)):
        (tmp_path / "chair").mkdir(exist_ok=True)
        picture(colour=colour).save(tmp_path / "chair" / f"{name}.webp", lossless=True)
    inputs = open_inputs(Location(str(tmp_path)))
    items = by_uid(inputs)
    assert {uid: item.pictures for uid, item in items.items()} == {"cup": 1, "photo": 1, "lonely_mask": 1, "chair": 2}
    assert colours(inputs, items["cup"]) == [(*red, 255)]
    assert colours(inputs, items["photo"]) == [(*blue, 255)]
    assert colours(inputs, items["chair"]) == [(*red, 255), (*blue, 255)]  # 2 before 10
    assert reason(inputs, items["lonely_mask"]) == "no_mask"
    assert items["cup"].source == str(tmp_path / "cup.png") and items["chair"].source == str(tmp_path / "chair")

    deep = by_uid(open_inputs(Location(str(tmp_path)), layout="pictures"))
    assert {"chair/view2", "chair/view10"} < set(deep) and len(deep) == 5
    first = by_uid(open_inputs(Location(str(tmp_path)), at_most=1))["chair"]
    assert colours(inputs, first) == [(*red, 255)]
    single = by_uid(open_inputs(Location(str(tmp_path / "cup.png"))))
    assert list(single) == ["cup"] and single["cup"].stamp == items["cup"].stamp

    # Another picture of the same name is another input.
    picture(colour=blue, size=80).save(tmp_path / "cup.png")
    assert by_uid(inputs)["cup"].stamp != items["cup"].stamp and by_uid(inputs)["chair"].stamp == items["chair"].stamp


def test_masks_in_a_folder_of_their_own(tmp_path: Path) -> None:
    for name, colour in (("a/one", (9, 9, 200)), ("two", (9, 200, 9))):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        picture(colour=colour, alpha=False).save(tmp_path / f"{name}.png")
        (tmp_path / "masks" / name).parent.mkdir(exist_ok=True, parents=True)
        picture().getchannel("A").save(tmp_path / "masks" / f"{name}.webp", lossless=True)
    inputs = open_inputs(Location(str(tmp_path)), masks=Location(str(tmp_path / "masks")))
    items = by_uid(inputs)
    assert set(items) == {"a", "two"}
    assert colours(inputs, items["a"]) == [(9, 9, 200, 255)] and colours(inputs, items["two"]) == [(9, 200, 9, 255)]


def test_names_that_cannot_stand_or_stand_twice(tmp_path: Path) -> None:
    rows = [{"uid": uid, "image": encoded(picture())} for uid in ("../../etc/cron", "cup", "cup", None, "a\\b", "x" * 300)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "objects.parquet")
    items = listed(open_inputs(Location(str(tmp_path / "objects.parquet"))))
    assert [item.reason for item in items] == ["bad_uid", "", "duplicate_uid", "bad_uid", "bad_uid", "bad_uid"]
    assert len({item.uid for item in items}) == 6
    spaced = tmp_path / "my cup.png"
    picture().save(spaced)
    assert [[item.reason for item in listed(open_inputs(Location(str(spaced))), url)] for url in (False, True)] == [[""], ["bad_uid"]]
    spaced.unlink()
    for item in items:  # every name can be that of a file below a folder
        assert (tmp_path / f"{item.uid}.glb").resolve().is_relative_to(tmp_path) and len(item.uid) < 250
    picture().save(tmp_path / "cup.jpg.png")
    (tmp_path / "twice").mkdir()
    for name in ("cup.png", "cup.webp"):
        picture().save(tmp_path / "twice" / name)
    twice = listed(PictureFolder(Location(str(tmp_path / "twice"))))
    assert [(item.uid, item.reason) for item in twice] == [("cup", ""), ("cup#2", "duplicate_uid")]


def test_parquet_rows_of_one_or_several_pictures(tmp_path: Path) -> None:
    red, blue, plain = (200, 30, 30), (20, 40, 220), encoded(picture(alpha=False))
    mask = encoded(picture().getchannel("A"))
    table = pa.table(
        {
            "name": ["one", "many", "masked", "none", "gap", "odd"],
            "png": [
                [encoded(picture(colour=red))],
                [encoded(picture(colour=red)), encoded(picture(colour=blue))],
                [plain, plain],
                None,
                [encoded(picture()), None],
                [plain, plain],
            ],
            "mask": [None, None, [mask, mask], None, None, [mask]],
        },
        schema=pa.schema([("name", pa.string()), ("png", pa.list_(pa.binary())), ("mask", pa.list_(pa.binary()))]),
    )
    (tmp_path / "deep").mkdir()
    pq.write_table(table, tmp_path / "deep" / "a.parquet", row_group_size=2)
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 and no more")
    inputs = open_inputs(Location(str(tmp_path)), columns=Columns("name", "png"))
    assert isinstance(inputs, PictureTable)
    items = by_uid(inputs)
    assert items["broken.parquet"].reason == "unreadable" and len(items) == 7
    assert colours(inputs, items["one"]) == [(*red, 255)]
    assert colours(inputs, items["many"]) == [(*red, 255), (*blue, 255)]
    assert colours(inputs, items["masked"]) == [(200, 30, 30, 255)] * 2
    assert [reason(inputs, items[uid]) for uid in ("none", "gap", "odd")] == ["missing_picture", "missing_picture", "mask_count"]
    unnamed = by_uid(open_inputs(Location(str(tmp_path / "deep" / "a.parquet")), columns=Columns(image="png")))
    assert list(unnamed)[:2] == ["a-000000", "a-000001"]
    with pytest.raises(UserError, match="no column 'image', but name, png, mask"):
        listed(open_inputs(Location(str(tmp_path / "deep"))))
    with pytest.raises(UserError, match="of type string"):
        listed(open_inputs(Location(str(tmp_path / "deep")), columns=Columns(image="name")))


def test_parquet_that_hugging_face_datasets_wrote(tmp_path: Path) -> None:
    import datasets

    made = datasets.Dataset.from_dict({"uid": ["a", "b"], "image": [picture(), picture(colour=(1, 2, 250))]})
    made.cast_column("image", datasets.Image()).to_parquet(tmp_path / "hf.parquet")
    inputs = open_inputs(Location(str(tmp_path / "hf.parquet")))
    items = by_uid(inputs)
    assert colours(inputs, items["a"]) == [(200, 30, 30, 255)] and colours(inputs, items["b"]) == [(1, 2, 250, 255)]


def test_condition_views_of_a_view_store(tmp_path: Path) -> None:
    views = [painted_views("ball", 32, 3), painted_views("bare", 32, 0)]
    store(views, Location(str(tmp_path)))
    inputs = open_inputs(Location(str(tmp_path)), at_most=2)
    assert isinstance(inputs, StoredViews)
    items = by_uid(inputs)
    shown, files = inputs.read("ball", items["ball"].place, True)
    np.testing.assert_array_equal(shown.rgba, views[0].rgba[32:34])
    np.testing.assert_array_equal(shown.camera.c2w, views[0].camera.c2w[32:34])
    assert len(files) == 2 and reason(inputs, items["bare"]) == "missing_views"


@pytest.mark.parametrize(
    ("data", "framing", "expected"),
    [
        (b"this is text", True, "unreadable"),
        (encoded(picture(256))[:300], True, "unreadable"),
        (encoded(Image.new("RGBA", (64, 64))), True, "empty_mask"),
        (encoded(Image.new("RGBA", (64, 64))), False, "empty_mask"),
        (encoded(picture(alpha=False)), True, "no_mask"),
        (encoded(picture(12)), True, "too_small"),
        (encoded(picture(24)), True, "too_small"),
        (encoded(picture().resize((64, 40))), False, "not_square"),
        (encoded(Image.fromarray(np.full((64, 64), 40000, np.uint16))), True, "wrong_mode"),
        (encoded(Image.new("CMYK", (64, 64)), "JPEG"), True, "wrong_mode"),
    ],
)
def test_reasons(data: bytes, framing: bool, expected: str) -> None:
    with pytest.raises(Unusable) as caught:
        prepared(opened(data), None, framing)
    assert caught.value.reason == expected and caught.value.mend


def test_a_mask_of_another_size_and_a_bomb(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Unusable) as caught:
        prepared(picture(alpha=False), picture(48).getchannel("A"), True)
    assert caught.value.reason == "mask_size"
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(Unusable) as caught:
        opened(encoded(picture()))
    assert caught.value.reason == "too_large"


def test_places_that_hold_nothing_usable(tmp_path: Path) -> None:
    place = Location(str(tmp_path))
    with pytest.raises(UserError, match="no pictures in"):
        open_inputs(place)
    with pytest.raises(UserError, match="no such input"):
        open_inputs(place / "absent")
    picture().save(tmp_path / "cup.png")
    pq.write_table(pa.table({"uid": ["a"]}), tmp_path / "a.parquet")
    with pytest.raises(UserError, match="holds pictures .* and Parquet"):
        open_inputs(place)
    with pytest.raises(UserError, match="column of the Parquet"):
        open_inputs(place / "a.parquet", masks=place)


def test_a_picture_that_vanishes_is_a_row_and_not_the_end(tmp_path: Path) -> None:
    picture().save(tmp_path / "cup.png")
    inputs = open_inputs(Location(str(tmp_path)))
    item = by_uid(inputs)["cup"]
    assert json.loads(item.place) == [["cup.png", None]]
    (tmp_path / "cup.png").unlink()
    assert reason(inputs, item) == "missing_file"
