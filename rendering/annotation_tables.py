"""What others wrote about objects, in tables joined by uid: captions and quality scores."""

import csv
import math
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from infra.errors import UserError
from rendering.download import DEFAULT_POLICY, DownloadPolicy, download
from rendering.sources.base import FetchError


def read_captions(address: str, policy: DownloadPolicy = DEFAULT_POLICY) -> dict[str, str]:
    """uid -> caption from a CSV of uid and caption without a header, as Cap3D publishes them; `address` is a path or URL.

    Raises UserError: it cannot be had or is no such table.
    """
    captions: dict[str, str] = {}
    try:
        with opened(address, "catalog.captions", policy) as path, open(path, newline="", encoding="utf-8") as stream:
            for row in filter(None, csv.reader(stream)):
                if len(row) != 2:
                    message = f"the caption table {address} is not a CSV of uid and caption: row {len(captions) + 1} has {len(row)} columns"
                    raise UserError(message, "quote captions that hold commas")
                captions[row[0].strip()] = row[1].strip()
    except (OSError, ValueError, csv.Error) as error:
        raise _unreadable("catalog.captions", address, error, "give a CSV of uid and caption") from error
    captions.pop("uid", None)  # Some copies of the table have a header.
    if not captions:
        raise UserError(f"the caption table {address} is empty", "give a CSV of uid and caption")
    return captions


def read_scores(address: str, column: str, uid_column: str = "uid", policy: DownloadPolicy = DEFAULT_POLICY) -> dict[str, float]:
    """uid -> score from a CSV or Parquet table; of an address as uid, such as a Sketchfab page, the last part counts.

    Rows without a finite score are left out. Raises UserError as `read_captions` does, and for a column that is not there.
    """
    try:
        with opened(address, "catalog.scores", policy) as path:
            table = pq.read_table(path) if _is_parquet(path) else _read_csv(path, uid_column)
        if missing := [name for name in (uid_column, column) if name not in table.column_names]:
            mend = "set catalog.scores_column and catalog.scores_uid_column"
            raise UserError(f"{address} has no column '{missing[0]}'; it has: {', '.join(table.column_names)}", mend)
        uids = table[uid_column].cast(pa.string()).to_pylist()
        values = table[column].cast(pa.float64()).to_pylist()
    except (OSError, pa.ArrowException) as error:
        raise _unreadable("catalog.scores", address, error, f"give a CSV or Parquet table of '{uid_column}' and '{column}'") from error
    scores = {
        uid.rstrip("/").rsplit("/", 1)[-1]: value
        for uid, value in zip(uids, values, strict=True)
        if uid and value is not None and math.isfinite(value)
    }
    if not scores:
        raise UserError(f"{address} holds no score", f"check its columns '{uid_column}' and '{column}'")
    return scores


def _read_csv(path: Path, uid_column: str) -> pa.Table:
    """Uids stay text, also those that look like numbers; captions beside the scores may hold line breaks."""
    return pa.csv.read_csv(
        path,
        parse_options=pa.csv.ParseOptions(newlines_in_values=True),
        convert_options=pa.csv.ConvertOptions(column_types={uid_column: pa.string()}),
    )


def _is_parquet(path: Path) -> bool:
    with open(path, "rb") as stream:
        return stream.read(4) == b"PAR1"


def _unreadable(field: str, address: str, error: Exception, mend: str) -> UserError:
    return UserError(f"{field}: the table {address} cannot be read: {type(error).__name__}: {error}", mend)


@contextmanager
def opened(address: str, field: str, policy: DownloadPolicy = DEFAULT_POLICY) -> Iterator[Path]:
    """The table as a local file; one behind a URL is downloaded for this reading."""
    if "://" not in address:
        yield Path(address)
        return
    with tempfile.TemporaryDirectory(prefix="mvforge-table-") as folder:
        try:
            fetched = download(address, lambda _: Path(folder) / "table", policy=policy)
        except FetchError as error:
            raise UserError(f"{field}: {error}", "check the address and the network") from error
        yield Path(fetched.path)
