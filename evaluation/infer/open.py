"""Which kind of input a place holds."""

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from evaluation.infer.folder import Layout, PictureFolder
from evaluation.infer.inputs import PICTURE_SUFFIXES, TABLE_SUFFIX, Inputs, nothing
from evaluation.infer.store import StoredViews
from evaluation.infer.table import Columns, PictureTable
from infra.errors import UserError
from infra.storage import Location
from rendering.views import VERSION_KEY

USUAL_COLUMNS = Columns()


def open_inputs(
    place: Location,
    masks: Location | None = None,
    layout: Layout = "folders",
    columns: Columns = USUAL_COLUMNS,
    at_most: int | None = None,
) -> Inputs:
    """The input at a place: a picture, a folder of pictures, a Parquet file, a folder of them, or a view store.

    Raises:
        UserError: there is nothing, nothing usable, or both pictures and Parquet files; or masks for something without pictures.
    """
    kind = place.fs.get_file_info(place.path).type
    if kind == pafs.FileType.NotFound:
        raise UserError(f"no such input: {place.shown}", "check the path; a local folder must be visible on every node")
    if kind == pafs.FileType.File:
        names = [place.name]
    else:
        names = [entry.name for entry in place.walk()]
    tables = [name for name in names if name.endswith(TABLE_SUFFIX)]
    pictures = [name for name in names if name.lower().endswith(PICTURE_SUFFIXES)]
    if tables and pictures:
        raise UserError(
            f"{place.shown} holds pictures ({pictures[0]}) and Parquet files ({tables[0]})", "give a folder that holds one kind"
        )
    if tables and masks is not None:
        raise UserError("a folder of masks goes with a folder of pictures", "put the masks into a column of the Parquet file")
    if pictures and kind == pafs.FileType.File:
        return PictureFolder(_parent(place), masks, layout, at_most, only=place.name)
    if pictures:
        return PictureFolder(place, masks, layout, at_most)
    if not tables:
        raise nothing(place)
    if kind == pafs.FileType.Directory and _holds_views(place, tables[0]):
        return StoredViews(place, at_most)
    return PictureTable(place, columns, at_most)


def _parent(place: Location) -> Location:
    base, mark, query = (place.uri, "", "") if place.is_local else place.uri.partition("?")
    return Location(f"{base.rpartition('/')[0]}{mark}{query}")


def _holds_views(place: Location, name: str) -> bool:
    try:
        return VERSION_KEY in (pq.read_schema(f"{place.path.rstrip('/')}/{name}", filesystem=place.fs).metadata or {})
    except (pa.ArrowInvalid, OSError):
        return False
