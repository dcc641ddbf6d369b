"""The words of `mvforge bench scale`."""

import argparse
from pathlib import Path

WORDS = (
    "measure how time, memory and metadata grow with the number of objects",
    "mvforge bench scale --out scale --plot docs/images/scale.svg",
    """Up to a million catalog rows, a hundred thousand render tasks through real Ray Data with a stand-in for Blender, and the search
for what is left to do among a million pieces. Each point runs in a process of its own and is kept in --out; the same command goes
on with the next one. A point counts what came out and fails when an object is missing or there twice.

  catalog        the catalog step on a made-up mirror of Objaverse's index
  render         the render step, from the manifest to packed shards and the ledger
  duplicates     curation's search for objects that look the same
  render-left    which of the fetched objects have no piece yet
  generate-left  which objects have no generated piece yet""",
)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options of the verb."""
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where points are kept, and scratch while one runs")
    parser.add_argument("--only", default="", metavar="PROBES", help="these probes, separated by commas (default all)")
    parser.add_argument("--largest", type=int, metavar="N", help="leave out larger sizes")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="time, memory and metadata against size, .svg or .png")
